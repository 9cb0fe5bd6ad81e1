"""Pages on their way from global to shared memory, by asynchronous copies of some threads."""

from __future__ import annotations

import numpy as np
from tvm.ir import Expr
from tvm.tirx import Buffer

from tqc.codec.form import Form
from tqc.schedules.cuda_builder import when
from tqc.schedules.cuda_cache import Cache
from tqc.schedules.cuda_ptx import copy_async, hold, u32
from tqc.schedules.cuda_sides import codes_bytes, scale_bytes

_CHUNK = 16
"""Bytes of one copy of one thread."""


def copy_block(address: Expr, size: int, array: Buffer, at: tuple[Expr, ...], thread: Expr, threads: int) -> None:
    """Begins to copy `size` bytes, a multiple of 16, of the last axis of `array` at `at`, dealt out to the threads."""
    elements = _CHUNK // np.dtype(str(array.dtype)).itemsize
    whole, rest = divmod(size // _CHUNK, threads)

    def begin(turn: int) -> None:
        chunk = hold(thread + turn * threads)
        copy_async(address + u32(chunk) * u32(_CHUNK), array, *at, chunk * elements)

    for turn in range(whole):
        begin(turn)
    if rest:
        with when(thread < rest):
            begin(whole)


def copy_page(
    address: Expr, side: str, form: Form, cache: Cache, at: tuple[Expr, ...], thread: Expr, threads: int
) -> None:
    """Begins to copy one KV head's page of codes, and its scales behind them (`page_bytes`). `at`: place and head."""
    copy_block(address, codes_bytes(form), cache.state[f"{side}_codes"], at, thread, threads)
    if form.scales:
        where = hold(address + u32(codes_bytes(form)))
        copy_block(where, form.scales * scale_bytes(form), cache.state[f"{side}_scale"], at, thread, threads)
