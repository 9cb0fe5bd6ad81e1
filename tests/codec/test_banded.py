"""Schemes of bands: groups, scales, sketches of what is left, bases. What all schemes share is in
`test_properties`, their errors in `test_banded_error`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tqc.codec import bitstream, sketch
from tqc.codec.banded import SCALARS, Banded, split_basis
from tqc.codec.form import form
from tqc.codec.rotation import rotate
from tqc.codec.turboquant import TurboQuant
from tqc.errors import CodecError

DIMS = (64, 80, 96, 128, 256)
NAMES = ("tq4", "tqp2", "tqp4", "tq2.5", "tq3.5", "qjl1", "qjl3", "qjl2o", "16@5+16@0+32@2", "16@5/16@3+32@2")


def vectors(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_one_band_is_turboquant(bits: int, scalar: str) -> None:
    x, one, other = vectors(20, 80), Banded(f"tq{bits}", 80, 2, scalar), TurboQuant(bits, 80, 2, scalar)
    np.testing.assert_array_equal(one.encode(x).codes, other.encode(x).codes)
    np.testing.assert_array_equal(one.encode(x).scales[:, 0], other.encode(x).scale)
    np.testing.assert_array_equal(one.decode(one.encode(x)), other.decode(other.encode(x)))


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("name", ["tq2.5", "tq3.5"])
def test_each_part_of_a_split_is_a_vector_of_its_own(name: str, scalar: str) -> None:
    made, z = Banded(name, 128, scalar=scalar), vectors(30, 128)
    z[:, :32] *= 25
    codes, scales = made.quantize(z)
    for i, (rows, bits) in enumerate(((slice(0, 32), int(name[2]) + 1), (slice(32, 128), int(name[2])))):
        alone = TurboQuant(bits, rows.stop - rows.start, scalar=scalar)
        expected = alone.quantize_rotated(z[:, rows])
        np.testing.assert_array_equal(codes[:, rows], expected[0])
        np.testing.assert_array_equal(scales[:, i], expected[1])
        np.testing.assert_array_equal(made.dequantize(codes, scales)[:, rows], alone.dequantize_rotated(*expected))


def test_bands_of_one_scale_are_one_group() -> None:
    made, z = Banded("16@5+16@0+32@2", 64), vectors(30, 64)
    codes, scales = made.quantize(z)
    stored = np.concatenate([z[:, :16], z[:, 32:]], axis=1)
    y = stored / np.linalg.norm(stored, axis=1, keepdims=True)
    wide, narrow = (made.form.table(band) for band in made.form.coded_bands)
    near = np.concatenate(
        [
            table.centroids[np.abs(part[..., None] - table.centroids).argmin(axis=-1)]
            for table, part in ((wide, y[:, :16]), (narrow, y[:, 16:]))
        ],
        axis=1,
    )
    expected = near * (np.linalg.norm(stored, axis=1) / (y * near).sum(axis=1))[:, None]
    coded = made.dequantize(codes, scales)
    np.testing.assert_allclose(np.delete(coded, np.s_[16:32], axis=1), expected, rtol=2e-3)
    assert not coded[:, 16:32].any()
    assert not codes[:, 16:32].any()
    np.testing.assert_allclose((coded * z).sum(1), (stored**2).sum(1), rtol=1e-3)  # unbiased over the group


@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize("dim", [64, 80])
@pytest.mark.parametrize("name", ["tqp2", "tqp4", "qjl1", "qjl3", "qjl2o"])
def test_a_sketch_has_signs_and_norm_of_what_the_stored_codes_leave(name: str, dim: int, gaussian: bool) -> None:
    made, z = Banded(name, dim, seed=4, gaussian=gaussian), vectors(25, dim)
    codes, scales = made.quantize(z)
    coded = made.dequantize(codes, scales)
    left = z - coded[:, :dim]
    project = (sketch.gaussian_matrix if gaussian else sketch.matrix)(made.form, 4)
    rows = left @ project.T
    for band in made.form.bands:
        if band.sketch:
            first, count = band.source
            norm = np.linalg.norm(left[:, first : first + count], axis=1)
            np.testing.assert_allclose(scales[:, band.scale], norm, rtol=1e-3)
            part = rows[:, band.start - dim : band.stop - dim]
            clear = np.abs(part) > 1e-4 * norm[:, None]
            assert clear.mean() > 0.99
            np.testing.assert_array_equal(codes[:, band.start : band.stop][clear], (part > 0)[clear])
            size = np.sqrt(np.pi / 2) / band.rows if gaussian else made.form.table(band).centroids[1]
            signs = np.where(codes[:, band.start : band.stop] == 1, 1, -1)
            expected = signs * (size * scales[:, band.scale, None].astype(np.float32))
            np.testing.assert_allclose(coded[:, band.start : band.stop], expected, rtol=1e-6)
    folded = coded[:, :dim] + coded[:, dim:] @ project
    np.testing.assert_allclose(made.reconstruct(coded), folded, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_encode_is_basis_quantize_and_pack(name: str) -> None:
    made, x = Banded(name, 64, seed=2), vectors(10, 64)
    codes, scales = made.quantize(made.to_basis(x))
    encoded = made.encode(x)
    np.testing.assert_array_equal(encoded.scales, scales)
    packed = [bitstream.pack(codes[:, b.start : b.stop], b.bits) for b in made.form.coded_bands]
    np.testing.assert_array_equal(encoded.codes, np.concatenate(packed, axis=1))
    back = made.from_basis(made.reconstruct(made.dequantize(codes, scales)))
    np.testing.assert_array_equal(made.decode(encoded), back)
    np.testing.assert_allclose(made.from_basis(made.to_basis(x)), x, atol=1e-5)


def test_bases() -> None:
    x = vectors(10, 96)
    np.testing.assert_array_equal(Banded("tqp3", 96, 3, rounds=2).to_basis(x), rotate(x, 3, rounds=2))
    np.testing.assert_array_equal(Banded("qjl2", 96, 3).to_basis(x), x)
    np.testing.assert_array_equal(Banded("16@5+80@2", 96, 3).to_basis(x), x)
    np.testing.assert_array_equal(Banded("16@5/80@2", 96, 3).to_basis(x), x)
    split = split_basis(form("tq2.5", 96), seed=3)
    np.testing.assert_allclose(Banded("tq2.5", 96, 3).to_basis(x), x @ split.T, atol=1e-5)
    chosen = split_basis(form("tq2.5", 96), range(40, 56), seed=3)
    np.testing.assert_allclose(Banded("tq2.5", 96, 3, matrix=chosen).to_basis(x), x @ chosen.T, atol=1e-5)


@pytest.mark.parametrize("name", ["16@6+16@4+32@3", "tq2.5", "qjl1o"])
def test_any_invertible_basis(name: str) -> None:
    random = np.random.default_rng(0)
    matrix = random.standard_normal((64, 64)) / 8 + 2 * np.eye(64)
    made, x = Banded(name, 64, matrix=matrix), vectors(50, 64)
    coded = made.dequantize(*made.quantize(made.to_basis(x)))
    q = random.standard_normal(64)
    scores = made.reconstruct(coded) @ np.linalg.solve(matrix.T, q)
    np.testing.assert_allclose(made.decode(made.encode(x)) @ q, scores, atol=2e-3)


@settings(max_examples=50, deadline=None)
@given(
    dims=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 8)), min_size=1, max_size=5).filter(
        lambda parts: any(bits for _, bits in parts)
    ),
    own=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_list_of_bands(dims: list[tuple[int, int]], own: bool, seed: int) -> None:
    head_dim = 16 * sum(count for count, _ in dims)
    name = "+/"[own].join(f"{16 * count}@{bits}" for count, bits in dims)
    made, x = Banded(name, head_dim), vectors(6, head_dim, seed=seed)
    codes, scales = made.quantize(x)
    for band in made.form.bands:
        part = codes[:, band.start : band.stop]
        assert part.max(initial=0) < 2**band.bits
        assert bool(part.any()) == bool(band.bits)
    encoded = made.encode(x)
    groups = sum(bits > 0 for _, bits in dims) if own else 1
    assert encoded.nbytes * 8 == 6 * (sum(16 * count * bits for count, bits in dims) + 16 * groups)
    np.testing.assert_array_equal(made.decode(encoded), made.dequantize(codes, scales))


def test_a_lost_group_takes_only_its_sketch_with_it() -> None:
    made, z = Banded("qjl1o", 64), vectors(3, 64)
    clean, _ = made.quantize(z)
    z[1, 3] = np.inf
    codes, scales = made.quantize(z)
    assert np.isnan(scales).tolist() == [[False, False], [True, False], [False, False]]
    np.testing.assert_array_equal(np.delete(codes, np.s_[64:80], axis=1), np.delete(clean, np.s_[64:80], axis=1))
    split = Banded("tq2.5", 64)
    z = vectors(2, 64)
    z[0, 60] = 1e9
    _, scales = split.quantize(z)
    assert np.isnan(scales).tolist() == [[False, True], [False, False]]
    _, scales = Banded("tqp4", 64).quantize(z)
    assert np.isnan(scales).tolist() == [[True, True], [False, False]]


def test_a_sketch_of_nothing_has_scale_zero() -> None:
    made, z = Banded("qjl2o", 64), vectors(3, 64)
    z[1, :16] = 0
    codes, scales = made.quantize(z)
    assert (scales == 0).tolist() == [[False, False], [True, False], [False, False]]
    assert not made.dequantize(codes, scales)[1, 64 : 64 + 32].any()
    codes, scales = Banded("tqp4", 64).quantize(np.zeros((2, 64)))
    assert not scales.any()


def test_rejects() -> None:
    with pytest.raises(CodecError, match="no bands"):
        Banded("polar", 64)
    with pytest.raises(CodecError, match="unknown scalar"):
        Banded("tq4", 64, scalar="best")
    with pytest.raises(CodecError, match="1 or 2 rounds"):
        Banded("tq4", 64, rounds=0)
    with pytest.raises(CodecError, match="takes no basis"):
        Banded("tqp4", 64, matrix=np.eye(64))
    with pytest.raises(CodecError, match="multiple of 16"):
        Banded("tq4", 72)
