"""Trellis codes: distortion against Lloyd–Max and the rate-distortion bound, the best path, the register, edges."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tqc.codec import get
from tqc.errors import CodecError
from tqc.eval import trellis
from tqc.eval.trellis import MEMORY, Trellis, TrellisCodes


def vectors(count: int, head_dim: int = 64, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, head_dim)).astype(np.float32)


def plain_distortion(y: np.ndarray, found: np.ndarray) -> float:
    return float(np.sum((found - y) ** 2) / np.sum(y**2))


@pytest.mark.parametrize(("bits", "most"), [(2, 0.08), (3, 0.0215)])
def test_error_lies_between_the_bound_and_lloyd_max(bits: int, most: float) -> None:
    x = vectors(600)
    y = x / np.linalg.norm(x, axis=1, keepdims=True)
    coder = Trellis(bits, 64)
    found = plain_distortion(y, coder.dequantize(coder.quantize(y)))
    book = get(f"tq{bits}", 64).codebook
    lloyd = plain_distortion(y, book.centroids[np.searchsorted(book.thresholds, y)])
    assert 0.95 * 4.0**-bits < found < most  # a vector's own norm is known: a little below the bound of one value
    assert found < 0.72 * lloyd


def test_reconstructions_are_unbiased_and_pay_for_it() -> None:
    x, coder = vectors(600), Trellis(2, 64)
    found = coder.decode(coder.encode(x))
    assert np.sum(found * x) / np.sum(x**2) == pytest.approx(1, abs=1e-3)
    assert plain_distortion(x, found) == pytest.approx(0.0785 / (1 - 0.0785), rel=0.04)


@pytest.mark.parametrize(("bits", "head_dim"), [(1, 64), (2, 64), (3, 96), (4, 64)])
def test_values_are_what_the_register_reads_from_the_packed_bits(bits: int, head_dim: int) -> None:
    x, coder = vectors(20, head_dim).reshape(4, 5, head_dim), Trellis(bits, head_dim)
    encoded = coder.encode(x)
    codes = trellis.bitstream.unpack(encoded.codes, bits, head_dim)
    read = np.empty(x.shape, np.float32)
    for row in np.ndindex(4, 5):
        ring = "".join(format(code, f"0{bits}b") for code in codes[row])
        for value in range(head_dim):
            end = len(ring) + (value + 1) * bits
            read[*row, value] = coder.table[int((ring + ring)[end - MEMORY : end], 2)]
    np.testing.assert_array_equal(coder.dequantize(codes), read)
    y = trellis.rotation.rotate(x)
    assert plain_distortion(y, read * encoded.scale[..., None].astype(np.float32)) < 1.3 * 4.0**-bits * (1 + 1 / bits)


def test_bits_are_those_that_are_stored() -> None:
    coder = Trellis(3, 64)
    encoded = coder.encode(vectors(7))
    assert (encoded.codes.shape, encoded.scale.dtype) == ((7, 24), np.float16)
    assert encoded.nbytes == 7 * coder.bytes_per_vector
    assert coder.bits_per_value == 3.25


def test_no_other_path_is_better() -> None:
    random = np.random.default_rng(1)
    centroids, x = random.standard_normal(16).astype(np.float32), random.standard_normal((5, 8)).astype(np.float32)
    every = np.array(list(itertools.product(range(4), repeat=5)))  # codes of 2 bits, register of 4
    seam = random.integers(0, 4, 8)
    for fixed in (None, seam):
        chosen = trellis._states(x, centroids, 2, fixed)
        for n in range(8):
            best = np.inf
            for before in range(4) if fixed is None else [seam[n]]:
                past = np.concatenate([np.full((len(every), 1), before), every[:, :-1]], axis=1)
                ends = np.ones(len(every), bool) if fixed is None else every[:, -1] == before
                best = min(best, np.square(centroids[past * 4 + every][ends] - x[:, n]).sum(axis=1).min())
            assert np.square(centroids[chosen[:, n]] - x[:, n]).sum() == pytest.approx(best, rel=1e-5)


def test_a_vector_never_depends_on_its_batch_and_the_table_not_on_the_run() -> None:
    x, coder = vectors(trellis._BLOCK + 9), Trellis(2, 64)
    whole, alone = coder.encode(x), coder.encode(x[-3:])
    np.testing.assert_array_equal(whole.codes[-3:], alone.codes)
    np.testing.assert_array_equal(whole.scale[-3:], alone.scale)
    again = trellis.table.__wrapped__(2, 64)
    np.testing.assert_array_equal(again, coder.table)
    assert not coder.table.flags.writeable


@pytest.mark.parametrize("power", [-8, 8])
def test_codes_do_not_depend_on_the_size(power: int) -> None:
    x, coder = vectors(30), Trellis(2, 64)
    np.testing.assert_array_equal(coder.encode(x * np.float32(2.0**power)).codes, coder.encode(x).codes)


@pytest.mark.filterwarnings("error")
def test_zeros_are_kept_and_poison_stays_in_its_vector() -> None:
    x, coder = vectors(6), Trellis(2, 64)
    clean = coder.decode(coder.encode(x))
    x[1], x[2, 3], x[3, 4], x[4] = 0, np.nan, np.inf, 3e4
    found = coder.decode(coder.encode(x))
    np.testing.assert_array_equal(found[1], 0)
    assert np.isnan(found[2:5]).all()
    np.testing.assert_array_equal(found[[0, 5]], clean[[0, 5]])
    codes = coder.encode(x).codes
    np.testing.assert_array_equal(codes[1], codes[2])
    assert coder.decode(TrellisCodes(codes[:0], np.zeros(0, np.float16))).shape == (0, 64)


def test_rejects() -> None:
    for bits in (0, 5):
        with pytest.raises(CodecError, match="no trellis of this width"):
            Trellis(bits, 64)
    with pytest.raises(CodecError, match="multiple of 16"):
        Trellis(2, 40)
    with pytest.raises(CodecError, match="cannot encode"):
        Trellis(2, 64).encode(np.zeros((2, 32), np.float32))
