"""What holds for the codec of every scheme: bytes, batches, seeds, scaling, and inputs that cannot be kept."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tqc import codec
from tqc.codec import scheme
from tqc.codec.form import form

DIMS = (64, 80, 96, 128, 256)
MANY = ("tq1", "tq4", "tqp2", "tqp4", "tq2.5", "tq3.5", "polar", "polar-plain", "qjl1", "qjl3", "qjl2o", "bands")
LOSSY = [name for name in (*scheme.NAMED, "bands") if name not in ("fp16", "bf16", "fp32")]


def get(name: str, dim: int, **options) -> codec.Codec:
    return codec.get(f"16@5+16@0+{dim - 32}@2" if name == "bands" else name, dim, **options)


def vectors(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def arrays(encoded: codec.Encoded) -> list[np.ndarray]:
    return [getattr(encoded, field.name) for field in dataclasses.fields(encoded)]


def scales(encoded: codec.Encoded) -> np.ndarray:
    """[..., scales]"""
    codes, scale = arrays(encoded)
    return scale if scale.ndim == codes.ndim else scale[..., None]


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", [*scheme.NAMED, "bands"])
def test_bytes_are_those_of_the_form(name: str, dim: int) -> None:
    """PolarQuant's 15 angles of 16 coordinates take 46 bits: some head_dims fill the last byte up."""
    made = get(name, dim)
    stored = form(made.name, dim)
    assert made.bytes_per_vector == (stored.bits + 7) // 8
    assert stored.bits % 8 == 0 or (stored.kind, dim) == ("polar", 80) or (stored.kind, dim) == ("polar", 96)
    encoded = made.encode(vectors(2, 3, dim))
    assert encoded.nbytes == 6 * made.bytes_per_vector
    decoded = made.decode(encoded)
    assert (decoded.shape, decoded.dtype) == ((2, 3, dim), np.float32)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", MANY)
def test_appending_one_by_one_is_encoding_the_batch(name: str, dim: int) -> None:
    made, x = get(name, dim), vectors(19, dim)
    batch, fortran = arrays(made.encode(x)), arrays(made.encode(np.asfortranarray(x)))
    alone = [arrays(made.encode(row)) for row in x]
    for i in range(2):
        np.testing.assert_array_equal(batch[i], np.stack([one[i] for one in alone]))
        np.testing.assert_array_equal(batch[i], fortran[i])
    decoded = made.decode(made.encode(x))
    np.testing.assert_array_equal(decoded, np.stack([made.decode(made.encode(row)) for row in x]))


def digest() -> str:
    x = np.arange(96 * 20).reshape(20, 96) % 37 - 18.0
    encoded = [codec.get(name, 96, seed=7).encode(x) for name in scheme.NAMED]
    parts = [array.tobytes() for one in encoded for array in arrays(one)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_same_bytes_in_every_process() -> None:
    script = "import test_properties; print(test_properties.digest())"
    folder = __file__.rpartition("/")[0]
    run = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, check=True, text=True)
    assert run.stdout.strip() == digest()


@pytest.mark.parametrize("name", MANY)
def test_seeds_matter_where_anything_is_random(name: str) -> None:
    x = vectors(5, 96)
    first, second = (arrays(get(name, 96, seed=seed).encode(x))[0] for seed in (0, 1))
    assert (first != second).any() == (name not in ("polar-plain", "bands"))


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(LOSSY), dim=st.sampled_from(DIMS[:4]), power=st.integers(-8, 8), seed=st.integers(0, 2**32 - 1)
)
def test_powers_of_two_only_move_the_scales(name: str, dim: int, power: int, seed: int) -> None:
    """But for residuals: those of a scheme with codes and sketches are below what float16 keeps in full."""
    made, x = get(name, dim), vectors(4, dim, seed=seed)
    plain, scaled = made.encode(x), made.encode(x * np.float32(2.0**power))
    if not name.startswith("tqp"):
        np.testing.assert_array_equal(arrays(scaled)[0], arrays(plain)[0])
        np.testing.assert_array_equal(scales(scaled), scales(plain) * np.float16(2.0**power))
    found, expected = made.decode(scaled), made.decode(plain) * 2.0**power
    assert np.linalg.norm(found - expected) <= 1e-2 * np.linalg.norm(expected)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", LOSSY)
def test_zeros_small_and_large_norms(name: str, dim: int) -> None:
    made, x = get(name, dim), vectors(40, dim)
    zeros = made.encode(np.zeros((3, dim)))
    np.testing.assert_array_equal(scales(zeros), 0)
    np.testing.assert_array_equal(made.decode(zeros), 0)
    usual = np.sum((made.decode(made.encode(x)) - x) ** 2) / np.sum(x**2)
    for norm in (1e-4, 2e4):
        sized = x * (norm / np.linalg.norm(x, axis=1, keepdims=True))
        decoded = made.decode(made.encode(sized))
        assert np.isfinite(decoded).all()
        lost = np.sum((decoded - sized) ** 2) / np.sum(sized**2)
        assert lost <= 1.03 * usual + (0.002 if norm < 1 else 1e-6)  # the scales of 1e-4 are subnormal


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("dim", [64, 80])
@pytest.mark.parametrize("name", LOSSY)
def test_what_cannot_be_kept_is_nan_and_nothing_else_is(name: str, dim: int, poison: float) -> None:
    made, x = get(name, dim), vectors(5, dim)
    clean = arrays(made.encode(x))
    x[2, 7] = poison
    dirty = made.encode(x)
    assert np.isnan(scales(dirty)[2, 0])
    assert np.isnan(made.decode(dirty)[2, 7])
    assert np.isfinite(np.delete(made.decode(dirty), 2, axis=0)).all()
    for before, after in zip(clean, arrays(dirty), strict=True):
        np.testing.assert_array_equal(np.delete(after, 2, axis=0), np.delete(before, 2, axis=0))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", LOSSY)
def test_what_vanishes_is_zero(name: str) -> None:
    made = get(name, 64)
    x = np.zeros((2, 64))
    x[0], x[1, 3] = 1e-300, 1e-30
    np.testing.assert_array_equal(made.decode(made.encode(x)), 0)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(LOSSY),
    shape=st.lists(st.integers(0, 3), max_size=3),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_any_leading_dims_and_any_float(name: str, shape: list[int], dtype: type) -> None:
    made, x = get(name, 64), vectors(*shape, 64).astype(dtype)
    encoded = made.encode(x)
    assert all(array.shape[:-1] == tuple(shape) or array.shape == tuple(shape) for array in arrays(encoded))
    assert made.decode(encoded).shape == x.shape
    np.testing.assert_array_equal(arrays(encoded)[0], arrays(made.encode(x.astype(np.float32)))[0])
