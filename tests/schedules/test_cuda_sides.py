"""Keys and values as operand A: from codes, exact fragments and rows, against what they stand for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from cuda_driver import probe
from ptx_compile import needs_nvcc
from ptx_kernel import interpreted
from tvm import tirx

from tqc.codec import fragments
from tqc.codec.form import form
from tqc.codec.page_codec import decode_page, encode_page
from tqc.schedules.cuda_builder import blocks, i32, store, threads
from tqc.schedules.cuda_copies import copy_block
from tqc.schedules.cuda_flash import Side
from tqc.schedules.cuda_ptx import commit_copies, half_of, hold, registers, shared_memory, sync_block, u32, wait_copies
from tqc.schedules.cuda_sides import CodedPages, Tables, exact_side, page_bytes, rows_in_shared

DIM = 48


def write_operands(side: Side, lane, y, factors=None, first: tuple = ()) -> None:
    """Operand A of every column to y[first] [column, strip, lane, 4], its scales to factors[first] [.., lane, 2]."""
    for part in side.parts:
        scales = side.scales(part.scale) if part.scale is not None else None
        for column in part.columns:
            operands = registers("operands", 16, "uint32")
            column.load(operands)
            for strip in range(side.strips):
                for n in range(4):
                    store(y, operands[4 * strip + n], *first, column.index, strip, lane, n)
                for half in range(2 if scales is not None else 0):
                    store(factors, half_of(scales[strip], bool(half)), *first, column.index, strip, lane, half)


def on_a_warp(emit: Callable[..., None], *arrays: np.ndarray, warps: int = 1) -> None:
    needs_nvcc()

    def body(*buffers) -> None:
        with blocks(1, 1, 1), threads(32 * warps) as thread:
            emit(thread, *buffers)

    unwritten = [f"a{i}" for i, array in enumerate(arrays) if not array.any()]
    interpreted({"probe": probe(body, *arrays)}, "sm_80", unwritten=unwritten)["probe"](*arrays)


def values_of(y: np.ndarray, side: str) -> np.ndarray:
    """y [column, strip, lane, 4] of words as float32 [tokens, rows]."""
    columns, strips = y.shape[:2]
    stored = y.view(np.float16).reshape(columns * strips * 32 * 8)
    return fragments.unpack_exact(stored, columns * 16, side).astype(np.float32)


@pytest.mark.parametrize("expand", [False, True])
@pytest.mark.parametrize(
    ("scheme", "side"), [("tq4", "k"), ("tqp3", "v"), ("16@5/32@2", "k"), ("qjl2o", "k"), ("polar", "v")]
)
def test_a_page_of_codes(scheme: str, side: str, expand: bool) -> None:
    """Read by every warp for itself, or expanded by two for all."""
    stored = form(scheme, DIM)
    z = np.random.default_rng(0).standard_normal((64, DIM)).astype(np.float32)
    elements, scales = encode_page(stored, side, z, order="fragments")
    wanted = decode_page(stored, side, elements, scales, 64, "fragments")
    page = np.concatenate([elements.view(np.uint32), scales.view(np.uint32)])
    columns = stored.rows // 16
    y, factors = np.zeros((2, columns, 4, 32, 4), np.uint32), np.zeros((2, columns, 4, 32, 2), np.float32)

    def emit(thread, page, y, factors) -> None:
        lane, warp = hold(thread & 31), hold(thread >> 5)
        tables, size = Tables.bytes_of((stored,)), page_bytes(stored)
        memory = shared_memory(tables + size + columns * 2048 + 2 * 2048)
        filled = Tables.fill(memory, (stored,), thread, 64)
        address = hold(memory + u32(tables))
        copy_block(address, size, page, (), thread, 64)
        commit_copies()
        wait_copies(0)
        sync_block()
        scratch = hold(address + u32(size + columns * 2048) + u32(warp) * u32(2048))
        pages = CodedPages(side, stored, filled, lane, scratch)
        target = hold(address + u32(size))
        if expand:
            pages.expand(address, target, lambda column: tirx.EQ(warp, i32(column % 2)))
            sync_block()
        found = pages.expanded(address, target) if expand else pages.at(address)
        write_operands(found, lane, y, factors, (warp,))

    on_a_warp(emit, page, y, factors, warps=2)
    np.testing.assert_array_equal(y[0], y[1])
    token = 16 * np.arange(4)[:, None, None] + np.arange(32)[:, None] // 4 + 8 * np.arange(2)
    scale = np.ones((64, stored.rows), np.float32)
    if stored.kind != "polar":
        for column in range(columns):
            scale[token, 16 * column] = factors[0, column]
            scale[:, 16 * column : 16 * column + 16] = scale[:, 16 * column, None]
    missing = np.ones(stored.rows, bool)
    for band in stored.coded_bands:
        missing[band.start : band.stop] = False
    found = values_of(y[0], side) * scale
    keep = slice(None) if stored.kind == "polar" else ~missing
    np.testing.assert_allclose(found[:, keep], wanted[:, keep], rtol=1e-2, atol=1e-6)  # 2 bits: COARSE


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("side", ["k", "v"])
def test_exact_tokens_and_zeros_for_those_that_are_not_there(side: str, dtype: str) -> None:
    z = np.random.default_rng(1).standard_normal((32, DIM)).astype(np.float32)
    stored = fragments.pack_exact(z.astype(np.float16), side)
    if dtype == "bfloat16":
        z = (z.view(np.uint32) & 0xFFFF0000).view(np.float32)
        stored = fragments.pack_exact((z.view(np.uint32) >> 16).astype(np.uint16), side)
    y = np.zeros((DIM // 16, 2, 32, 4), np.uint32)

    def emit(lane, region, y) -> None:
        exists = (lambda token: token < 21) if side == "v" else None
        write_operands(exact_side(region, (), DIM, lane, strips=2, exists=exists), lane, y)

    import ml_dtypes

    on_a_warp(emit, stored.view(ml_dtypes.bfloat16) if dtype == "bfloat16" else stored, y)
    wanted = z.astype(np.float16).astype(np.float32)
    if side == "v":
        wanted[21:] = 0
    np.testing.assert_array_equal(values_of(y, side), wanted)


@pytest.mark.parametrize("side", ["k", "v"])
def test_rows_of_fresh_tokens(side: str) -> None:
    z = np.random.default_rng(2).standard_normal((64, DIM)).astype(np.float16)
    padded = np.zeros((64, DIM + 8), np.float16)
    padded[:, :DIM] = z
    y = np.zeros((DIM // 16, 4, 32, 4), np.uint32)

    def emit(lane, rows, y) -> None:
        pitch = 2 * (DIM + 8)
        memory = shared_memory(64 * pitch)
        copy_block(memory, 64 * pitch, rows, (), lane, 32)
        commit_copies()
        wait_copies(0)
        sync_block()
        write_operands(rows_in_shared(memory, pitch, DIM, lane, side), lane, y)

    on_a_warp(emit, padded.reshape(-1), y)
    np.testing.assert_array_equal(values_of(y, side), z.astype(np.float32))
