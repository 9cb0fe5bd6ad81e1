"""Pages of every scheme, read one number at a time as the text of `layout` says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tqc.codec import scheme
from tqc.codec.banded import Banded
from tqc.codec.form import Form, form
from tqc.codec.layout import planes
from tqc.codec.page_codec import decode_page, encode_page
from tqc.codec.polar import Polar
from tqc.errors import CodecError

BANDS = (
    "tq3",
    "tq8",
    "tqp2",
    "tqp4",
    "tq2.5",
    "tq3.5",
    "qjl1",
    "qjl2o",
    "16@5+16@0+48@2",
    "32@7+48@1",
    "16@5/16@3+48@2",
)


def vectors(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def code_at(elements: np.ndarray, start: int, bits: int, place: tuple[int, int], size: tuple[int, int]) -> int:
    """The code at (along the unit, across units) of a band of that size that begins at `start`."""
    along, across = place
    code = 0
    for width, shift in planes(bits):
        per_unit = 16 // width
        unit = int(elements[start + along // per_unit * size[1] + across])
        code |= (unit >> along % per_unit * width & (1 << width) - 1) << shift
        start += size[0] * size[1] // per_unit
    return code


@pytest.mark.parametrize("side", ["k", "v"])
@pytest.mark.parametrize("name", BANDS)
def test_bands_of_a_page(name: str, side: str) -> None:
    stored, z = form(name, 80), vectors(32, 80)
    codes, scales = Banded(name, 80, seed=5).quantize(z)
    elements, scale = encode_page(stored, side, z, seed=5)
    assert (elements.dtype, elements.shape) == (np.uint16, (stored.units(32),))
    assert (scale.dtype, scale.shape) == (np.float16, (32 * stored.scales,))
    random, start = np.random.default_rng(0), 0
    for band in stored.coded_bands:
        for token, row in zip(random.integers(0, 32, 60), random.integers(0, band.rows, 60), strict=True):
            place, size = ((row, token), (band.rows, 32)) if side == "k" else ((token, row), (32, band.rows))
            assert code_at(elements, start, band.bits, place, size) == codes[token, band.start + row]
        start += 32 * band.rows * band.bits // 16
    for token in range(32):
        for number in range(stored.scales):
            assert scale[number * 32 + token] == scales[token, number]


@pytest.mark.parametrize("side", ["k", "v"])
def test_angles_of_a_page(side: str) -> None:
    stored, z = form("polar", 80), vectors(32, 80)
    codes, radii = Polar("polar", 80).quantize(z)
    elements, scale = encode_page(stored, side, z)
    assert (elements.shape, elements.dtype) == ((stored.units(32),), np.uint16)
    for token in range(32):
        for angle in range(40):
            unit = int(elements[angle * 8 + token // 4])
            assert unit >> 4 * (token % 4) & 15 == codes[token, angle]
        for angle in range(35):
            unit = int(elements[40 * 8 + angle * 4 + token // 8])
            assert unit >> 2 * (token % 8) & 3 == codes[token, 40 + angle]
        for block in range(5):
            assert scale[block * 32 + token] == radii[token, block]


@pytest.mark.parametrize("name", ["fp16", "bf16", "fp32"])
def test_exact_values_of_a_page(name: str) -> None:
    stored, z = form(name, 64), vectors(16, 64)
    for side, expected in (("k", z.T), ("v", z)):
        elements, scale = encode_page(stored, side, z)
        assert elements.dtype.name == stored.dtype
        np.testing.assert_array_equal(elements, expected.astype(elements.dtype).ravel())
        assert scale.shape == (0,)
        np.testing.assert_array_equal(decode_page(stored, side, elements, scale, 16), z.astype(elements.dtype))


@pytest.mark.parametrize("side", ["k", "v"])
@pytest.mark.parametrize("name", [*BANDS, "polar", "fp16", "bf16", "fp32"])
def test_fragments_hold_the_same_numbers(name: str, side: str) -> None:
    stored, z = form(name, 80), vectors(2, 3, 64, 80)
    lanes = encode_page(stored, side, z, seed=5)
    elements, scale = encode_page(stored, side, z, seed=5, order="fragments")
    assert elements.dtype == (lanes[0].dtype if stored.exact else np.uint32)
    assert (elements.nbytes, scale.nbytes) == tuple(x.nbytes for x in lanes)
    np.testing.assert_array_equal(
        decode_page(stored, side, elements, scale, 64, "fragments"), decode_page(stored, side, *lanes, 64)
    )


def coded(stored: Form, z: np.ndarray, seed: int, scalar: str) -> np.ndarray:
    made = (
        Polar(stored.scheme, stored.head_dim, seed)
        if stored.kind == "polar"
        else Banded(stored.scheme, stored.head_dim, seed, scalar)
    )
    return made.dequantize(*made.quantize(z))


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from([*scheme.NAMED[:-3], "16@5+16@0+32@2", "16@5/16@0/32@2"]),
    side=st.sampled_from("kv"),
    lead=st.lists(st.integers(0, 2), max_size=2),
    page=st.sampled_from([16, 32, 64]),
    seed=st.integers(0, 99),
    scalar=st.sampled_from(["plain", "norm", "unbiased"]),
)
def test_a_page_decodes_to_the_coded_vectors(
    name: str, side: str, lead: list[int], page: int, seed: int, scalar: str
) -> None:
    stored, z = form(name, 64), vectors(*lead, page, 64, seed=seed)
    elements, scale = encode_page(stored, side, z, seed, scalar)
    assert elements.shape == (*lead, stored.units(page))
    assert scale.shape == (*lead, stored.scales * page)
    found = decode_page(stored, side, elements, scale, page)
    assert (found.dtype, found.shape) == (np.float32, (*lead, page, stored.rows))
    np.testing.assert_array_equal(found, coded(stored, z, seed, scalar))


@pytest.mark.parametrize("side", ["k", "v"])
def test_a_lost_token_is_lost_alone(side: str) -> None:
    for name in ("tq4", "tqp3", "polar", "qjl1"):
        stored, z = form(name, 64), vectors(16, 64)
        clean = decode_page(stored, side, *encode_page(stored, side, z), 16)
        z[3, 20] = np.nan
        found = decode_page(stored, side, *encode_page(stored, side, z), 16)
        assert np.isnan(found[3]).any()
        np.testing.assert_array_equal(np.delete(found, 3, axis=0), np.delete(clean, 3, axis=0))


def test_rejects() -> None:
    stored = form("tq4", 64)
    for z, side in ((vectors(16, 80), "k"), (vectors(20, 64), "v"), (vectors(64), "k"), (vectors(16, 64), "q")):
        with pytest.raises(CodecError, match="this is no page"):
            encode_page(stored, side, z)
    elements, scale = encode_page(stored, "k", vectors(16, 64))
    for wrong in ((elements[1:], scale), (elements, scale[1:])):
        with pytest.raises(CodecError, match="256 elements, 16 scales"):
            decode_page(stored, "k", *wrong, 16)
