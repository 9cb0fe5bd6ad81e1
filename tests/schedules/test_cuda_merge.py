"""Splits put together: one launch after the partial results, also rotated back."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_driver import probe
from ptx_compile import needs_nvcc
from ptx_kernel import interpreted

from tqc.codec import rotation
from tqc.schedules.cuda_merge import Partials, emit_merge
from tqc.schedules.cuda_ptx import hold
from tqc.schedules.cuda_rotate import Turn

HEADS, SPLITS = 6, 5
USED = np.array([5, 1, 0], np.int32)


def merged(rows: int, logits: np.ndarray | None = None, turn: Turn | None = None, dtype: str = "float32"):
    needs_nvcc()
    rng = np.random.default_rng(rows)
    values = rng.standard_normal((3, HEADS, SPLITS, rows)).astype(np.float32)
    tops = rng.uniform(-300, 300, (3, HEADS, SPLITS)).astype(np.float32)
    totals = rng.uniform(1, 9, (3, HEADS, SPLITS)).astype(np.float32)
    for array in (values, tops, totals):  # nobody wrote what is behind the splits that are used
        for b, used in enumerate(USED):
            array[b, :, used:] = np.nan
    y = np.zeros((3, HEADS, 1, rows), dtype)

    def emit(values, tops, totals, used, y, *logits) -> None:
        emit_merge(Partials(values, tops, totals), lambda b: hold(used[b]), logits[0] if logits else None, y, turn)

    arrays = [values, tops, totals, USED, y, *([] if logits is None else [logits])]
    interpreted({"merge": probe(emit, *arrays)}, "sm_80", unwritten=["a4"])["merge"](*arrays)
    wanted = np.zeros((3, HEADS, rows))
    for b, used in enumerate(USED):
        for head in range(HEADS):
            extra = [] if logits is None else [logits[head] / np.log(2)]
            highest = max([*tops[b, head, :used], *extra, -1e30])
            factors = np.exp2(tops[b, head, :used].astype(np.float64) - highest)
            total = (factors * totals[b, head, :used]).sum() + sum(np.exp2(x - highest) for x in extra)
            if total:
                wanted[b, head] = factors @ values[b, head, :used] / total
    return y[:, :, 0], wanted


@pytest.mark.parametrize("rows", [48, 80, 128, 256])
def test_a_weighted_mean_of_the_splits_and_zeros_without_any(rows: int) -> None:
    found, wanted = merged(rows)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert (found[2] == 0).all()


def test_a_sink_logit_is_one_more_weight() -> None:
    logits = np.array([200, -200, 0, 30, -np.inf, 1], np.float32)
    found, wanted = merged(64, logits)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rounds", [1, 2])
def test_outputs_leave_the_rotated_basis(rounds: int) -> None:
    found, wanted = merged(128, turn=Turn(4, rounds), dtype="float16")
    np.testing.assert_allclose(found, rotation.unrotate(wanted, 4, rounds), rtol=2e-3, atol=2e-3)
