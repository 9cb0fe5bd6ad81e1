from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tqc.bench.filled_cache import FilledCache, repeated
from tqc.bench.kernels import layout_of
from tqc.bench.problem import PERIOD, Geometry, Problem
from tqc.codec import rotation
from tqc.codegen.target import Target, parse_targets

CPU, (CUDA,) = Target("cpu", "x86-64-v3"), parse_targets("cuda", "sm_90")
HEADS = Geometry(4, 2, 64)


def cache(kv: str, context: int, target=CPU, batch: int = 1, turns=()) -> FilledCache:
    return FilledCache(Problem(HEADS, batch, context), layout_of(kv, HEADS, target), turns)


@pytest.mark.parametrize("target", [CPU, CUDA])
@pytest.mark.parametrize("kv", ["tq4", "fp16", "k4v3"])
@pytest.mark.parametrize("context", [3, 130, PERIOD + 300])
def test_memory_is_that_of_the_state(target, kv, context):
    found = cache(kv, context, target, batch=3)
    assert found.bytes_held == 3 * sum(array.nbytes for array in found.state.values())
    assert found.bytes_read <= found.bytes_held
    assert found.page_table.shape == (3, found.pages)
    assert sorted(found.page_table.ravel()) == list(range(3 * found.pages))


def test_what_is_read_counts_codes_scales_and_exact_tokens():
    found = cache("tq4", 2048, batch=2)
    exact = 2048 - found.coded
    assert 0 < exact < 300
    # 4 bits a number and a float32, float16 or so of scale a vector; exact tokens are float32
    per_vector = found.layout.form("k").bytes_per_vector
    assert 32 < per_vector <= 36
    assert found.bytes_read == 2 * 2 * (found.coded * 2 * per_vector + exact * 2 * 64 * 4)


def test_the_wanted_output_is_near_the_exact_one_and_exact_in_full_precision():
    for kv, nearest, furthest in (("fp16", 0, 1e-3), ("tq8", 1e-5, 0.02), ("tq2", 0.05, 0.9)):
        found = cache(kv, PERIOD + 300)
        off = np.linalg.norm(found.wanted - found.problem.exact) / np.linalg.norm(found.problem.exact)
        assert nearest <= off <= furthest, kv


def test_kernels_that_rotate_get_the_queries_as_they_are():
    turns = (("q", (0, 1)), ("y", (0, 1)))
    plain, turned = cache("tq4", 500, CUDA), cache("tq4", 500, CUDA, turns=turns)
    np.testing.assert_array_equal(turned.query, plain.query)
    wanted = replace(plain, problem=Rotated(HEADS, 1, 500)).wanted
    np.testing.assert_allclose(turned.wanted, rotation.unrotate(wanted, 0, 1), atol=1e-6)


class Rotated(Problem):
    """The queries as a kernel has them after its rotation."""

    @property
    def q(self):
        return rotation.rotate(Problem(HEADS, 1, 500).q, 0, 1)


def test_a_state_of_one_sequence_for_several():
    one = np.arange(6).reshape(2, 3)
    assert repeated(one, 1) is one
    np.testing.assert_array_equal(repeated(one, 2), np.concatenate([one, one]))
