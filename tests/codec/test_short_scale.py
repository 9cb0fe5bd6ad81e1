from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tqc import codec
from tqc.codec import scheme, short_scale
from tqc.codec.form import form
from tqc.codec.page_codec import decode_page, encode_page
from tqc.errors import CodecError

CODES = np.arange(256, dtype=np.uint8)


def test_every_code_comes_back():
    values = short_scale.decode(CODES)
    np.testing.assert_array_equal(short_scale.encode(values), CODES)
    assert values.dtype == np.float16
    assert values[0] == 0
    assert np.isnan(values[255])
    assert (values[1], values[254]) == (np.float16(2**-6 * 17 / 16), 960)
    assert (np.diff(values[:255].astype(np.float64)) > 0).all()


@given(st.floats(2.0**-6 * 17 / 16, 960.0, width=32))
def test_the_nearest_value_is_at_most_a_32nd_off(scale):
    assert abs(float(short_scale.rounded(scale)) / scale - 1) <= 1 / 32


def test_beyond_the_range():
    found = short_scale.rounded(np.array([0, 0.003, 0.01, 1e4, np.inf, np.nan, -1], np.float32))
    np.testing.assert_array_equal(found[:3], np.array([0, 0, 2**-6 * 17 / 16], np.float16))
    assert np.isnan(found[3:]).all()


@pytest.mark.parametrize(
    ("name", "bits"), [("tq4", 264), ("16@5/16@3/32@2", 216), ("tqp3", 208), ("tq2.5", 160), ("qjl1o", 80)]
)
def test_a_byte_less_for_each_scale(name, bits):
    short, long = form(f"{name}-s8", 64), form(name, 64)
    assert short.bits == bits
    assert long.bits - short.bits == 8 * long.scales
    assert short.units(64) == long.units(64)
    x = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    assert codec.get(f"{name}-s8", 64).encode(x).nbytes == 5 * bits // 8


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_the_error_hardly_grows(bits):
    x = np.random.default_rng(1).standard_normal((3000, 64)).astype(np.float32)

    def error(name):
        used = codec.get(name, 64)
        return np.square(used.decode(used.encode(x)) - x).sum() / np.square(x).sum()

    added = error(f"tq{bits}-s8") - error(f"tq{bits}")
    assert 0 < added < 4e-4


@pytest.mark.parametrize("order", ["lanes", "fragments"])
@pytest.mark.parametrize("side", ["k", "v"])
def test_a_page_holds_what_the_codec_makes(side, order):
    stored = form("16@4/32@2-s8", 48)
    z = np.random.default_rng(2).standard_normal((2, 64, 48)).astype(np.float32)
    elements, scale = encode_page(stored, side, z, order=order)
    assert (scale.dtype, scale.shape) == (np.uint8, (2, 128))
    used = codec.get("16@4/32@2-s8", 48, matrix=np.eye(48))
    np.testing.assert_array_equal(decode_page(stored, side, elements, scale, 64, order), used.decode(used.encode(z)))


@pytest.mark.parametrize("name", ["polar-s8", "fp16-s8", "fp32-s8", "tq9-s8", "tq4-s8-s8", "-s8"])
def test_what_has_no_short_scales(name):
    with pytest.raises(CodecError, match="unknown scheme"):
        scheme.check(name)


def test_they_are_named_as_any_scheme():
    assert scheme.parse("tq4-s8") == ("tq4-s8", "tq4-s8")
    assert scheme.parse("k:16@5/48@2-s8,v:tq3-s8") == ("16@5/48@2-s8", "tq3-s8")
    assert scheme.is_measured("tq2.5-s8")
    with pytest.raises(CodecError, match="keys only"):
        scheme.parse("qjl2-s8")
