"""Append of single tokens, as PTX: the same cache as append makes, also of vectors that come unrotated."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_driver import CudaSequences, cuda_kernels, cuda_layout
from ptx_compile import needs_nvcc
from ptx_kernel import interpreted

from tqc.codec import rotation
from tqc.schedules.cuda_append_token import make_append_token
from tqc.schedules.cuda_rotate import Turn


class Turned(CudaSequences):
    """Sequences whose kernel rotates the sides in `turns` itself."""

    def __init__(self, *args, turns: dict[str, Turn], **options) -> None:
        super().__init__(*args, **options)
        self.turns = turns

    def append(self, k: np.ndarray, v: np.ndarray, new: np.ndarray) -> None:
        self.run("append", [k, v, self.length, new, self.table], None)
        for b, count in enumerate(new):
            fresh = [
                rotation.rotate(x[b, :, :count], self.turns[side].seed, self.turns[side].rounds)
                if side in self.turns
                else x[b, :, :count]
                for side, x in (("k", k), ("v", v))
            ]
            self.history[b] = np.concatenate([self.history[b], np.stack(fresh)], axis=2)


@pytest.mark.parametrize(
    ("head_dim", "schemes", "options", "turns"),
    [
        (64, ("tq4", "tq3"), {}, {}),
        (64, ("tq4", "fp16"), {"recent": 0}, {"k": Turn(1, 1), "v": Turn(0, 2)}),
        (128, ("polar", "tqp3"), {"recent": 1, "sinks": 0}, {"k": Turn()}),
        (80, ("tq2", "tq5"), {"ring": 2, "recent": 64, "sinks": 20}, {}),
    ],
)
def test_token_by_token(head_dim: int, schemes: tuple[str, str], options: dict, turns: dict[str, Turn]) -> None:
    needs_nvcc()
    layout = cuda_layout(4, 2, head_dim, *schemes, **options)
    kernel = make_append_token(layout, dtype="float16", turns=turns)
    run = Turned(layout, interpreted({"append": kernel}, "sm_80"), batch=2, capacity=300, turns=turns)
    for step in range(200):
        run.extend([1, int(step % 3 > 0)])
    run.check()


def test_after_a_chunk_and_for_sm_90() -> None:
    needs_nvcc()
    layout = cuda_layout(4, 2, 64, "tq4", "tq4", recent=64)
    kernels = interpreted(cuda_kernels(layout, arch="sm_90", names=("append", "append_token")), "sm_90")
    run = CudaSequences(layout, kernels, batch=2, capacity=500)
    run.extend([150, 130])
    for _ in range(70):
        run.extend([1, 1])
    run.check()
    assert kernels["append_token"].reports[0].kernel == "append_token_kernel"
    assert len(kernels["append_token"].reports) == 1  # one launch a step
