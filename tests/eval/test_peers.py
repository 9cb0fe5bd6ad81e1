"""Formats of other runtimes: reconstructions one number at a time, errors as published, bytes."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tqc.errors import CodecError
from tqc.eval import peers


def half(number: float) -> float:
    return struct.unpack("e", struct.pack("e", number))[0]


def ggml(block: np.ndarray, bits: int) -> list[float]:
    """A block as the text of quantize_row_q4_0 and q8_0 says, in plain numbers."""
    if bits == 4:
        largest = max((float(v) for v in block), key=abs)
        step = largest / -8
        return [(min(15, int(float(v) / step + 8.5)) - 8) * half(step) if step else 0.0 for v in block]
    step = max(abs(float(v)) for v in block) / 127
    codes = [int(abs(float(v)) / step + 0.5) * (1 if v > 0 else -1) if step else 0 for v in block]
    return [code * half(step) for code in codes]


def kivi(group: np.ndarray, bits: int) -> list[float]:
    least, greatest = half(float(group.min())), half(float(group.max()))
    step = half((greatest - least) / (2**bits - 1))
    codes = [max(0, min(2**bits - 1, round((float(v) - least) / step))) if step else 0 for v in group]
    return [code * step + least for code in codes]


def vectors(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def same_but_for_ties(found: np.ndarray, expected: np.ndarray) -> bool:
    """Whether all but a few per mille agree: numbers between two codes may be rounded either way."""
    return np.isclose(found, expected, rtol=1e-5, atol=1e-6).mean() > 0.997


@pytest.mark.parametrize(("name", "bits"), [("q4_0", 4), ("q8_0", 8)])
def test_blocks_of_ggml(name: str, bits: int) -> None:
    x = vectors(40, 64)
    x[3, :32] = 0
    expected = np.array([ggml(block, bits) for block in x.reshape(-1, 32)]).reshape(x.shape)
    assert same_but_for_ties(peers.get(name).keys(x), expected)
    np.testing.assert_array_equal(peers.get(name).values(x), peers.get(name).keys(x))
    np.testing.assert_array_equal(peers.get(name).values(x)[3, :32], 0)


@pytest.mark.parametrize(("name", "bits", "group"), [("kivi2", 2, 32), ("kivi4", 4, 32), ("kivi2-64", 2, 64)])
def test_groups_of_kivi(name: str, bits: int, group: int) -> None:
    x, peer = vectors(128, 64), peers.get(name)
    by_channel = np.array([kivi(part, bits) for part in x.T.reshape(-1, group)]).reshape(64, 128).T
    by_token = np.array([kivi(part, bits) for part in x.reshape(-1, 32)]).reshape(x.shape)
    assert same_but_for_ties(peer.keys(x), by_channel)
    assert same_but_for_ties(peer.values(x), by_token)


def test_tokens_of_an_open_group_are_float16() -> None:
    x, peer = vectors(75, 32), peers.get("kivi4")
    found = peer.keys(x)
    np.testing.assert_array_equal(found[64:], x[64:].astype(np.float16))
    np.testing.assert_array_equal(found[:64], peer.keys(x[:64]))


@pytest.mark.parametrize(("bits", "error"), [(2, 0.1545), (4, 0.0061)])
def test_error_of_groups_of_32_is_the_published_one(bits: int, error: float) -> None:
    x, peer = vectors(4096, 128), peers.get(f"kivi{bits}")
    for found in (peer.keys(x), peer.values(x)):
        assert np.sum((found - x) ** 2) / np.sum(x**2) == pytest.approx(error, rel=0.02)


def test_what_sets_keys_and_values_apart_is_an_outlier_channel() -> None:
    x, peer = vectors(1024, 64), peers.get("kivi2")
    x[:, 5] *= 50
    others = np.arange(64) != 5
    lost = [np.sum((found - x)[:, others] ** 2) / np.sum(x[:, others] ** 2) for found in (peer.keys(x), peer.values(x))]
    assert lost[0] < 0.17
    assert lost[1] > 0.45


@pytest.mark.parametrize(
    ("name", "keys", "values"),
    [
        ("q4_0", (36, 54, 72, 144), (36, 54, 72, 144)),
        ("q8_0", (68, 102, 136, 272), (68, 102, 136, 272)),
        ("kivi2", (24, 36, 48, 96), (24, 36, 48, 96)),
        ("kivi2-64", (20, 30, 40, 80), (24, 36, 48, 96)),
        ("kivi4", (40, 60, 80, 160), (40, 60, 80, 160)),
        ("kivi4-64", (36, 54, 72, 144), (40, 60, 80, 160)),
    ],
)
def test_bytes_of_a_token(name: str, keys: tuple[int, ...], values: tuple[int, ...]) -> None:
    peer = peers.get(name)
    assert tuple(peer.key_bytes(dim) for dim in (64, 96, 128, 256)) == keys
    assert tuple(peer.value_bytes(dim) for dim in (64, 96, 128, 256)) == values


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(peers.NAMES), seed=st.integers(0, 999), power=st.integers(-6, 6))
def test_reconstruction_is_within_a_step_and_scales_with_the_input(name: str, seed: int, power: int) -> None:
    x, peer = vectors(2, 64, 32, seed=seed), peers.get(name)
    found = peer.keys(x)
    span = x.max() - x.min()
    assert np.abs(found - x).max() <= 1.01 * span / (2**peer.bits - 1)
    scaled = peer.keys(x * np.float32(2.0**power)) / 2.0**power
    np.testing.assert_allclose(scaled, found, rtol=1e-3, atol=1e-3 * span)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", peers.NAMES)
def test_poison_stays_in_its_group(name: str) -> None:
    x, peer = vectors(128, 64), peers.get(name)
    clean = peer.values(x)
    x[7, 3] = np.nan
    for found in (peer.keys(x), peer.values(x)):
        assert np.isnan(found[7, 3])
    np.testing.assert_array_equal(peer.values(x)[:7], clean[:7])
    np.testing.assert_array_equal(peer.values(x)[7, 32:], clean[7, 32:])


def test_rejects() -> None:
    with pytest.raises(CodecError, match="unknown format 'q5_1'"):
        peers.get("q5_1")
    for call in (peers.get("q4_0").values, peers.get("kivi2").keys):
        with pytest.raises(CodecError, match="multiple of 32"):
            call(np.zeros((4, 80)))
    with pytest.raises(CodecError, match="multiple of 32"):
        peers.get("q8_0").key_bytes(80)
