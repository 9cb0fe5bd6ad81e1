"""Statistics of positions that were never run, against vectors that stand there."""

from __future__ import annotations

import numpy as np
import pytest

from tqc.compiler.positions import Positions
from tqc.frontend.rope_form import RopeForm

RNG = np.random.default_rng(0)
FREQUENCIES = tuple(1e4 ** (-np.arange(8) / 8))
FORMS = {
    "halves": RopeForm(16, 1e4, FREQUENCIES[-1], 1.0, False, FREQUENCIES),
    "interleaved": RopeForm(16, 1e4, FREQUENCIES[-1], 1.0, True, FREQUENCIES),
    "partial": RopeForm(8, None, FREQUENCIES[3], 1.0, False, FREQUENCIES[:4]),
    "none": None,
}


def rotate(x: np.ndarray, positions: np.ndarray, rope: RopeForm | None) -> np.ndarray:
    """RoPE by its definition, x [H, tokens, D]."""
    if rope is None:
        return x
    out, half = x.copy(), rope.dims // 2
    for i, frequency in enumerate(rope.frequencies):
        a, b = (2 * i, 2 * i + 1) if rope.interleaved else (i, i + half)
        cos, sin = np.cos(positions * frequency), np.sin(positions * frequency)
        out[..., a] = x[..., a] * cos - x[..., b] * sin
        out[..., b] = x[..., b] * cos + x[..., a] * sin
    return out


@pytest.mark.parametrize("name", FORMS)
def test_turned_back_a_text_does_not_depend_on_where_it_stood(name: str) -> None:
    x = RNG.standard_normal((2, 20, 16))
    turned = rotate(x, 7.0 + np.arange(20), FORMS[name])
    np.testing.assert_allclose(Positions.of(FORMS[name], 16).turn_back(turned, 7), x, atol=1e-12)


@pytest.mark.parametrize("name", FORMS)
def test_averages_are_those_over_all_positions(name: str) -> None:
    rope, length = FORMS[name], 300
    x = RNG.standard_normal((2, 50, 16)) + RNG.standard_normal(16)
    moment, mean = x.swapaxes(1, 2) @ x / 50, x.mean(axis=1)
    grid = (np.arange(20000) + 0.5) * length / 20000
    everywhere = rotate(np.eye(16)[:, None] + np.zeros((16, 20000, 16)), grid, rope).transpose(1, 2, 0)  # R_t
    found = Positions.of(rope, 16)
    np.testing.assert_allclose(
        found.average_mean(mean, length), np.einsum("tij,hj->hi", everywhere, mean) / 20000, atol=1e-5
    )
    wanted = np.einsum("tij,hjk,tlk->hil", everywhere, moment, everywhere, optimize=True) / 20000
    np.testing.assert_allclose(found.average_moment(moment, length), wanted, atol=1e-5)
    assert np.linalg.eigvalsh(found.average_moment(moment, length)).min() > -1e-9
