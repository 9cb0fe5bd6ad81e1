"""TurboQuant's interface: bytes, batches, edge inputs and what is refused. Its error is in `test_turboquant_error`."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tqc.codec import bitstream
from tqc.codec.rotation import matrix, rotate
from tqc.codec.turboquant import SCALARS, TurboQuant
from tqc.errors import CodecError

BYTES = {  # bytes of one vector, by bits and head_dim
    1: {64: 10, 80: 12, 96: 14, 128: 18, 256: 34},
    2: {64: 18, 80: 22, 96: 26, 128: 34, 256: 66},
    3: {64: 26, 80: 32, 96: 38, 128: 50, 256: 98},
    4: {64: 34, 80: 42, 96: 50, 128: 66, 256: 130},
    5: {64: 42, 80: 52, 96: 62, 128: 82, 256: 162},
}


def vectors(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("bits", "dim"), [(bits, dim) for bits in BYTES for dim in BYTES[bits]])
def test_byte_counts(bits: int, dim: int) -> None:
    codec = TurboQuant(bits, dim)
    encoded = codec.encode(vectors(7, dim))
    assert codec.bytes_per_vector == BYTES[bits][dim]
    assert encoded.nbytes == 7 * BYTES[bits][dim]
    assert codec.bits_per_value == pytest.approx(8 * BYTES[bits][dim] / dim)
    assert codec.name == f"tq{bits}"


@pytest.mark.parametrize("shape", [(64,), (5, 64), (2, 0, 64), (2, 3, 4, 64)])
def test_any_leading_dims(shape: tuple[int, ...]) -> None:
    codec = TurboQuant(3, 64)
    encoded = codec.encode(vectors(*shape))
    assert (encoded.codes.shape, encoded.codes.dtype) == ((*shape[:-1], 24), np.uint8)
    assert (encoded.scale.shape, encoded.scale.dtype) == (shape[:-1], np.float16)
    decoded = codec.decode(encoded)
    assert (decoded.shape, decoded.dtype) == (shape, np.float32)


@pytest.mark.parametrize("dim", [64, 80])
@pytest.mark.parametrize("bits", range(1, 9))
def test_appending_one_by_one_is_encoding_the_batch(bits: int, dim: int) -> None:
    codec = TurboQuant(bits, dim)
    x = vectors(33, dim)
    batch, fortran = codec.encode(x), codec.encode(np.asfortranarray(x))
    alone = [codec.encode(row) for row in x]
    for field in ("codes", "scale"):
        np.testing.assert_array_equal(getattr(batch, field), np.stack([getattr(one, field) for one in alone]))
        np.testing.assert_array_equal(getattr(batch, field), getattr(fortran, field))


def test_same_bytes_in_every_process() -> None:
    script = (
        "import hashlib, numpy as np; from tqc.codec.turboquant import TurboQuant\n"
        "e = TurboQuant(5, 96, seed=7).encode(np.arange(96 * 50).reshape(50, 96) % 37 - 18.0)\n"
        "print(hashlib.sha256(e.codes.tobytes() + e.scale.tobytes()).hexdigest())"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    here = TurboQuant(5, 96, seed=7).encode(np.arange(96 * 50).reshape(50, 96) % 37 - 18.0)
    assert run.stdout.strip() == hashlib.sha256(here.codes.tobytes() + here.scale.tobytes()).hexdigest()
    other = TurboQuant(5, 96, seed=8).encode(np.arange(96 * 50).reshape(50, 96) % 37 - 18.0)
    assert (other.codes != here.codes).any()


@pytest.mark.parametrize("bits", range(1, 9))
def test_each_code_is_the_nearest_centroid(bits: int) -> None:
    codec = TurboQuant(bits, 64)
    z = vectors(50, 64)
    codes, _ = codec.quantize_rotated(z)
    y = z / np.linalg.norm(z, axis=1, keepdims=True)
    distance = np.abs(y[..., None] - codec.codebook.centroids)
    chosen = np.take_along_axis(distance, codes[..., None].astype(int), axis=-1)[..., 0]
    assert (chosen <= distance.min(axis=-1) + 1e-7).all()


@pytest.mark.parametrize("scalar", SCALARS)
def test_encode_is_rotating_and_quantizing(scalar: str) -> None:
    codec = TurboQuant(3, 80, seed=2, scalar=scalar)
    x = vectors(20, 80)
    encoded = codec.encode(x)
    codes, scale = codec.quantize_rotated(rotate(x, seed=2))
    np.testing.assert_array_equal(bitstream.unpack(encoded.codes, 3, 80), codes)
    np.testing.assert_array_equal(encoded.scale, scale)
    back = codec.dequantize_rotated(codes, scale) @ matrix(80, seed=2)
    np.testing.assert_allclose(codec.decode(encoded), back, atol=1e-5)


@pytest.mark.parametrize("bits", range(1, 9))
def test_unbiased_scale_keeps_the_inner_product_with_the_vector(bits: int) -> None:
    z = vectors(100, 128)
    codec = TurboQuant(bits, 128)
    found = codec.dequantize_rotated(*codec.quantize_rotated(z))
    np.testing.assert_allclose((found * z).sum(1), (z * z).sum(1), rtol=1e-3)


def test_norm_scale_keeps_the_norm() -> None:
    x = vectors(500, 128)
    for bits in range(1, 9):
        codec = TurboQuant(bits, 128, scalar="norm")
        found = np.linalg.norm(codec.decode(codec.encode(x)), axis=1)
        np.testing.assert_allclose(found, np.linalg.norm(x, axis=1), rtol=1e-3)


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_zero_vectors_decode_to_zeros(bits: int, scalar: str) -> None:
    codec = TurboQuant(bits, 96, scalar=scalar)
    encoded = codec.encode(np.zeros((3, 96)))
    np.testing.assert_array_equal(encoded.scale, 0)
    np.testing.assert_array_equal(codec.decode(encoded), 0)


@settings(max_examples=30, deadline=None)
@given(bits=st.integers(1, 8), dim=st.sampled_from([64, 80, 128]), power=st.integers(-8, 8), seed=st.integers(0, 99))
def test_powers_of_two_only_move_the_scale(bits: int, dim: int, power: int, seed: int) -> None:
    codec = TurboQuant(bits, dim)
    x = vectors(4, dim, seed=seed)
    plain, scaled = codec.encode(x), codec.encode(x * np.float32(2.0**power))
    np.testing.assert_array_equal(scaled.codes, plain.codes)
    np.testing.assert_array_equal(scaled.scale, plain.scale * np.float16(2.0**power))


@pytest.mark.parametrize("norm", [1e-4, 3e4])
@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_small_and_large_norms_stay_finite(bits: int, scalar: str, norm: float) -> None:
    x = vectors(200, 128)
    x *= norm / np.linalg.norm(x, axis=1, keepdims=True)
    codec = TurboQuant(bits, 128, scalar=scalar)
    decoded = codec.decode(codec.encode(x))
    assert np.isfinite(decoded).all()
    assert np.sum((decoded - x) ** 2) / np.sum(x**2) < 0.6


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e30, 1e5])
@pytest.mark.parametrize("bits", [1, 4])
def test_what_float16_cannot_scale_is_nan_and_nothing_else_is(bits: int, poison: float) -> None:
    codec = TurboQuant(bits, 64)
    x = vectors(5, 64)
    clean = codec.encode(x)
    x[2, 17] = poison
    dirty = codec.encode(x)
    decoded = codec.decode(dirty)
    assert np.isnan(dirty.scale[2])
    assert np.isnan(decoded[2]).all()
    rest = [0, 1, 3, 4]
    np.testing.assert_array_equal(dirty.codes[rest], clean.codes[rest])
    np.testing.assert_array_equal(dirty.scale[rest], clean.scale[rest])
    assert np.isfinite(decoded[rest]).all()


@pytest.mark.filterwarnings("error")
def test_edge_inputs_give_no_warnings() -> None:
    x = np.zeros((5, 64))
    x[1], x[2, 0], x[3, 0], x[4] = 1e300, np.nan, -np.inf, 1e-300
    codec = TurboQuant(4, 64)
    decoded = codec.decode(codec.encode(x))
    assert np.isnan(decoded).all(axis=1).tolist() == [False, True, True, True, False]
    np.testing.assert_array_equal(decoded[[0, 4]], 0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_float_is_taken(dtype: type) -> None:
    x = vectors(6, 64).astype(dtype)
    codec = TurboQuant(4, 64)
    np.testing.assert_array_equal(codec.encode(x).codes, codec.encode(x.astype(np.float32)).codes)


@pytest.mark.parametrize("x", [np.zeros((3, 80)), np.zeros((3, 64), int), np.zeros((3, 64), complex), np.float32(1)])
def test_reject_other_arrays(x: np.ndarray) -> None:
    with pytest.raises(CodecError, match=r"\(\.\.\., 64\)"):
        TurboQuant(4, 64).encode(x)


def test_reject_options() -> None:
    with pytest.raises(CodecError, match="unknown scalar 'best'"):
        TurboQuant(4, 64, scalar="best")
    with pytest.raises(CodecError, match="1 to 8 bits"):
        TurboQuant(9, 64)
    with pytest.raises(CodecError, match="multiple of 16"):
        TurboQuant(4, 72)
