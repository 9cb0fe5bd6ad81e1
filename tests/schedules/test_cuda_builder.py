from __future__ import annotations

import numpy as np
import pytest
import tvm
from emulate import emulate

from tqc.schedules.cuda_builder import argument, blocks, build_kernel, phase, shared, store


def shift_kernel(*, apart: bool, count: int = 40) -> tvm.tirx.PrimFunc:
    """y[b, i] = x[b, i − 1] through shared memory; in one phase (a race) or in two."""

    def body() -> None:
        x, y = (argument(name, (3, count), "float32") for name in "xy")
        with blocks(3, 1, 1) as (b, _, _):
            staged = shared("staged", count)
            with phase(count, 32) as item:
                store(staged, x[b, item], item)
                if not apart:
                    store(y, staged[(item + count - 1) % count], b, item)
            if apart:
                with phase(count, 32) as item:
                    store(y, staged[(item + count - 1) % count], b, item)

    return build_kernel("shift", body)


def run(kernel: tvm.tirx.PrimFunc, *, reverse: bool) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).random((3, 40), np.float32)
    y = tvm.runtime.tensor(np.zeros_like(x))
    emulate(kernel, reverse=reverse)(tvm.runtime.tensor(x), y)
    return np.roll(x, 1, axis=1), y.numpy()


@pytest.mark.parametrize("reverse", [False, True])
def test_a_phase_covers_every_item_once_and_the_next_sees_it(reverse):
    wanted, found = run(shift_kernel(apart=True), reverse=reverse)
    np.testing.assert_array_equal(found, wanted)


def test_reversing_the_threads_shows_a_race():
    racy = shift_kernel(apart=False)
    _, forward = run(racy, reverse=False)
    _, backward = run(racy, reverse=True)
    assert (forward != backward).any()
