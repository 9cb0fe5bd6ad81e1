"""Frequencies are recovered from tables of every precision, and tables that are no rotation are refused."""

from __future__ import annotations

import ml_dtypes  # noqa: F401 (makes bfloat16 a dtype of NumPy)
import numpy as np
import pytest

from tqc.frontend.expand.rope_tables import NoRotation, frequencies


def inverse_frequencies(half=32, base=10000.0):
    return (1.0 / base ** (np.arange(half) / half)).astype(np.float32)


def tables(inv_freq, rows=2048, scaling=1.0, dtype="float32"):
    angle = np.arange(rows, dtype=np.float32)[:, None] * inv_freq
    return tuple((f(angle).astype(np.float32) * np.float32(scaling)).astype(dtype) for f in (np.cos, np.sin))


@pytest.mark.parametrize("rows", [2, 40, 2048, 131072])
@pytest.mark.parametrize("base", [1e4, 1e6])
def test_float32_tables_give_exact_frequencies(rows, base):
    inv_freq = inverse_frequencies(base=base)
    found, scaling = frequencies(*tables(inv_freq, rows))
    assert found.dtype == np.float32
    assert scaling == 1.0
    if rows > 1000:
        np.testing.assert_array_equal(found, inv_freq)
    angle = np.arange(rows)[:, None] * (found.astype(np.float64) - inv_freq)
    assert np.abs(angle).max() < 1e-6


@pytest.mark.parametrize("rows", [300, 4096])
def test_half_precision_tables_give_angles_to_their_precision(rows):
    inv_freq = inverse_frequencies(base=5e5)
    found, scaling = frequencies(*tables(inv_freq, rows, dtype="float16"))
    assert scaling == 1.0
    assert np.abs(np.arange(rows)[:, None] * (found.astype(np.float64) - inv_freq)).max() < 2e-4


@pytest.mark.parametrize("wide", [False, True])
def test_bfloat16_tables(wide):
    inv_freq = inverse_frequencies()
    cos, sin = (table.astype("bfloat16") for table in tables(inv_freq))
    if wide:
        cos, sin = cos.astype(np.float32), sin.astype(np.float32)
    found, scaling = frequencies(cos, sin)
    assert scaling == 1.0
    assert np.abs(np.arange(2048)[:, None] * (found.astype(np.float64) - inv_freq)).max() < 2e-3


def test_scaled_and_uneven_frequencies():
    inv_freq = inverse_frequencies() / np.linspace(1, 30, 32).astype(np.float32)
    found, scaling = frequencies(*tables(inv_freq, scaling=1.19))
    np.testing.assert_allclose(found, inv_freq, rtol=2e-7)
    assert abs(scaling - 1.19) < 1e-6


def test_angles_that_were_never_rounded():
    inv_freq = inverse_frequencies()
    angle = np.arange(8192)[:, None] * inv_freq.astype(np.float64)
    found, _ = frequencies(np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32))
    np.testing.assert_allclose(found, inv_freq, rtol=2e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cos, sin: (cos[::-1], sin[::-1]), "off by"),
        (lambda cos, sin: (cos * np.linspace(1, 1.1, 32, dtype=np.float32), sin), "lengths"),
        (lambda cos, sin: (cos[1:], sin[1:]), "off by"),
        (lambda cos, sin: (np.r_[cos[:1000], cos[:1048]], np.r_[sin[:1000], sin[:1048]]), "off by"),
        (lambda cos, sin: (cos, sin[:5]), "shapes"),
        (lambda cos, sin: (cos[:1], sin[:1]), "shapes"),
    ],
    ids=["reversed", "per dimension", "shifted", "two tables", "lengths", "one row"],
)
def test_tables_that_are_no_rotation(change, message):
    with pytest.raises(NoRotation, match=message):
        frequencies(*change(*tables(inverse_frequencies())))


def test_one_changed_entry_is_noticed():
    cos, sin = tables(inverse_frequencies())
    cos[777, 5] += 1e-3
    sin[777, 5] -= 1e-4
    with pytest.raises(NoRotation):
        frequencies(cos, sin)
