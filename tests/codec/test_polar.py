"""PolarQuant: angles, their tables, blocks, error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tqc import codec
from tqc.codec import polar
from tqc.codec.lloyd_max import fixed_point
from tqc.codec.polar import Polar, level_rows
from tqc.codec.rotation import rotate, unrotate
from tqc.errors import CodecError

DIMS = (64, 80, 96, 128, 256)
TABLES = {  # level: (angles, mean squared error in rad², variance)
    2: ([0.309758, 0.633980, 0.936813, 1.261038], 0.00991, 0.11685),
    3: ([0.426249, 0.674383, 0.896406, 1.144541], 0.00616, 0.06130),
    4: ([0.524217, 0.705909, 0.864880, 1.046574], 0.00339, 0.03109),
}


def vectors(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("level", TABLES)
def test_angles_are_the_published_ones(level: int) -> None:
    expected, error, variance = TABLES[level]
    found, thresholds = polar.angles(level)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(thresholds, (found[1:] + found[:-1]) / 2, rtol=1e-6)
    s = (np.arange(200_000) + 0.5) / 200_000 * np.pi / 2
    density = np.sin(2 * s) ** (2 ** (level - 1) - 1)
    lost = (s - found[np.searchsorted(thresholds, s)]) ** 2
    assert np.average(lost, weights=density) == pytest.approx(error, abs=6e-6)
    assert np.average((s - np.pi / 4) ** 2, weights=density) == pytest.approx(variance, abs=6e-6)


@pytest.mark.parametrize("level", TABLES)
def test_angles_are_the_means_of_their_cells(level: int) -> None:
    law = polar.angle_law(level)
    half = fixed_point(law, 2)
    np.testing.assert_allclose(law.cells((half[:-1] + half[1:]) / 2)[1], half, atol=1e-12)


def test_level_1_stands_for_the_centres_of_16_sectors() -> None:
    made = Polar("polar-plain", 16)
    turn = (np.arange(64) + 0.5) / 64 * 2 * np.pi
    z = np.zeros((64, 16))
    z[:, 0], z[:, 1] = np.cos(turn), np.sin(turn)
    codes, radii = made.quantize(z)
    assert codes[:, 0].tolist() == [i // 4 for i in range(64)]
    np.testing.assert_allclose(radii, 1, rtol=1e-3)
    found = polar.angles(1)[0][codes[:, 0]]
    assert np.abs(found - turn).max() <= np.pi / 16 + 1e-6


def test_a_block_by_hand() -> None:
    z = np.zeros(32, np.float32)
    z[16:] = 3 * np.array([2, 0.1, *[0] * 6, 0, 0, 0, 0, -0.1, -2, 0, 0])
    made = Polar("polar-plain", 32)
    codes, radii = made.quantize(z)
    assert not codes[..., [*range(8), 16, 17, 18, 19, 24, 25, 28]].any()  # angles of the first block
    assert radii.tolist() == [0, np.float16(np.linalg.norm(z[16:]))]
    assert codes[8:16].tolist() == [0, 0, 0, 0, 0, 0, 11, 0]  # of (2, .1) and (−.1, −2)
    assert codes[20:24].tolist() == [0, 0, 0, 0]  # (2, 0), (0, 0), (0, 0), (2, 0)
    assert codes[26:28].tolist() == [0, 3]  # (2, 0), (0, 2)
    assert codes[29:].tolist() == [1]  # (2, 2), at the threshold


@pytest.mark.parametrize("dim", DIMS)
def test_angles_and_radii_are_those_of_the_tree(dim: int) -> None:
    """The inverse of the transform with exact angles is the vector, and each code is of the nearest angle."""
    z, made = vectors(50, dim), Polar("polar-plain", dim)
    codes, radii = made.quantize(z)
    assert (codes.shape, radii.shape) == ((50, dim // 16 * 15), (50, dim // 16))
    np.testing.assert_allclose(radii, np.linalg.norm(z.reshape(50, -1, 16), axis=-1), rtol=1e-3)
    for level in range(1, 5):
        size = 2 ** (level - 1)
        norms = np.linalg.norm(z.reshape(50, -1, size), axis=-1) if level > 1 else z
        angle = np.arctan2(norms[:, 1::2], norms[:, ::2]) % (2 * np.pi)
        table = polar.angles(level)[0]
        found = codes[:, level_rows(dim, level)]
        gap = np.abs(angle[..., None] - table)
        gap = np.minimum(gap, 2 * np.pi - gap)
        chosen = np.take_along_axis(gap, found[..., None].astype(int), axis=-1)[..., 0]
        assert (chosen <= gap.min(axis=-1) + 1e-5).all()


@pytest.mark.parametrize("dim", DIMS)
def test_error_is_the_published_one_at_62_bits(dim: int) -> None:
    x = vectors(4000, dim)
    for name in ("polar", "polar-plain"):
        made = codec.get(name, dim)
        found = made.decode(made.encode(x))
        assert np.sum((found - x) ** 2) / np.sum(x**2) == pytest.approx(0.0321, rel=0.02)
        assert made.form.bits * 16 == 62 * dim
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.linalg.norm(x, axis=1), rtol=1e-3)


def test_the_rotation_is_the_shared_one() -> None:
    x, made = vectors(20, 80), Polar("polar", 80, seed=3)
    codes, radii = made.quantize(rotate(x, seed=3))
    np.testing.assert_array_equal(made.encode(x).radii, radii)
    np.testing.assert_array_equal(made.decode(made.encode(x)), unrotate(made.dequantize(codes, radii), seed=3))
    assert made.encode(x).codes.shape == (20, 29)  # 230 bits


@settings(max_examples=60, deadline=None)
@given(block=st.lists(st.floats(-100, 100, width=32), min_size=16, max_size=16))
def test_a_block_keeps_its_radius_and_its_signs(block: list[float]) -> None:
    z, made = np.array(block, np.float32), Polar("polar-plain", 16)
    codes, radii = made.quantize(z)
    found = made.dequantize(codes, radii)
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(z), rel=1e-3, abs=1e-7)
    assert (codes[:8] < 16).all()
    assert (codes[8:] < 4).all()
    # An angle in float32 cannot tell a number from zero beside one a million times as large.
    assert ((found * z >= 0) | (np.abs(z) <= 1e-6 * np.abs(z).max())).all()


def test_a_lost_block_is_nan_and_no_other() -> None:
    z, made = vectors(3, 64), Polar("polar-plain", 64)
    clean, _ = made.quantize(z)
    z[1, 20], z[2, 40] = np.nan, 1e6
    codes, dirty = made.quantize(z)
    assert np.argwhere(np.isnan(dirty)).tolist() == [[1, 1], [2, 2]]
    found = made.dequantize(codes, dirty)
    assert np.isnan(found[1, 16:32]).all()
    assert np.isnan(found).sum() == 32
    np.testing.assert_array_equal(codes[0], clean[0])
    assert not codes[1, 8:16].any()


def test_rejects() -> None:
    with pytest.raises(CodecError, match="not PolarQuant"):
        Polar("tq4", 64)
    with pytest.raises(CodecError, match="1 or 2 rounds"):
        Polar("polar", 64, rounds=3)
