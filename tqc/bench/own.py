"""tqc's kernels as candidates: decode over a filled cache, and the append of one token to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .filled_cache import FilledCache
from .kernels import Kernels
from .problem import Problem
from .timing import Candidate, Maker

Upload = Callable[[np.ndarray], Any]
"""An array as the kernels take it."""
UploadBatch = Callable[[np.ndarray, int], Any]
"""A state tensor of one sequence as that of so many sequences, all in new memory."""

FULL = {"fp16", "bf16", "fp32"}
"""Schemes that keep numbers."""


def own_makers(
    name: str,
    kernels: Kernels,
    problem: Problem,
    *,
    upload: Upload,
    upload_batch: UploadBatch,
    copies: Callable[[int], int],
    tolerance: float,
) -> Iterator[Maker]:
    """Decode, and the append of one token, on caches that both use; `copies(bytes)`: how many of them.

    Append writes the last token again; where its kernel rotates, the token is another one afterwards. Decode was
    checked before that, and reads as many bytes as before.
    """
    cache = FilledCache(problem, kernels.layout, kernels.turns)
    count = copies(cache.bytes_read)
    states: list[list[Any]] = []

    def filled() -> list[list[Any]]:
        """The states, made once."""
        if not states:
            one = cache.state
            states.extend([upload_batch(array, problem.batch) for array in one.values()] for _ in range(count))
        return states

    def decode() -> Candidate:
        q = upload(cache.query.astype(kernels.dtype))
        y = upload(np.full((*q.shape[:3], cache.wanted.shape[-1]), np.nan, kernels.dtype))
        step = _step(cache, upload)
        run = kernels.functions["decode"]
        return Candidate(
            calls=[lambda state=state: run(q, *step, *state, y) for state in filled()],
            bytes=cache.bytes_read,
            output=lambda: y.numpy()[:, :, 0],
            wanted=cache.wanted,
            tolerance=tolerance,
        )

    def append() -> Candidate:
        last = (problem.context - 1) % problem.k.shape[1]
        shape = (problem.batch, *problem.k[:, :1].shape)
        fresh = [
            upload(np.ascontiguousarray(np.broadcast_to(x[:, last : last + 1], shape)).astype(kernels.dtype))
            for x in (problem.k, problem.v)
        ]
        step = _step(cache, upload)
        run = kernels.functions["append"]
        return Candidate(calls=[lambda state=state: run(*fresh, *step, *state) for state in filled()])

    exact = {kernels.layout.k, kernels.layout.v} <= FULL
    yield Maker(name, "ours", count * cache.bytes_held, decode, exact, kernels.config)
    yield Maker(f"{name} append", "append", 0, append)


def _step(cache: FilledCache, upload: Upload) -> Sequence[Any]:
    """length, new_len and page table of a step that adds the last token."""
    batch = cache.problem.batch
    before = np.full(batch, cache.problem.context - 1, np.int32)
    return [upload(before), upload(np.ones(batch, np.int32)), upload(cache.page_table)]
