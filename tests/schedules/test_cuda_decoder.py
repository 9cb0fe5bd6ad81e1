"""Words of codes to operand A, in registers: every width, exactly."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_driver import probe
from ptx_compile import needs_nvcc
from ptx_kernel import interpreted
from tvm.tirx.script.builder import ir as T

from tqc.codec import fragments
from tqc.codec.form import Form, form
from tqc.schedules.cuda_builder import blocks, store, threads
from tqc.schedules.cuda_decoder import half_bits
from tqc.schedules.cuda_ptx import hold, registers, shared_memory, sync_block
from tqc.schedules.cuda_sides import NEAR, Tables, decoded_book

SCHEMES = {bits: form(f"tq{bits}", 128) for bits in range(1, 9)}


def decode(stored: Form, words, operands) -> None:
    (band,) = stored.coded_bands
    with blocks(1, 1, 1), threads(32) as lane:
        memory = shared_memory(1024)
        tables = Tables.fill(memory, (stored,), lane, 32)
        sync_block()
        decoder = tables.of(stored, band)
        taken, given = registers("words", band.bits, "uint32"), registers("operands", 16, "uint32")
        for n in range(band.bits):
            store(taken, words[lane, n], n)
        decoder.decode(taken, given)
        for n in range(16):
            store(operands, given[n], lane, n)


@pytest.fixture(scope="module")
def kernels():
    needs_nvcc()
    shapes = {bits: (np.zeros((32, bits), np.uint32), np.zeros((32, 16), np.uint32)) for bits in SCHEMES}
    made = {f"decode_{bits}": probe(lambda w, o, s=SCHEMES[bits]: decode(s, w, o), *shapes[bits]) for bits in SCHEMES}
    return interpreted(made, "sm_80", unwritten=["a1"])


@pytest.mark.parametrize("bits", SCHEMES)
def test_every_code_becomes_its_centroid_in_float16(kernels, bits: int) -> None:
    """Columns of random codes, in which every code occurs."""
    codes = np.random.default_rng(bits).permutation(np.arange(64 * 16) % 2**bits).reshape(64, 16).astype(np.uint8)
    packed, words = fragments.pack(codes, bits, "k"), np.zeros((32, bits), np.uint32)
    for first, count in fragments.runs(bits):
        words[:, first : first + count] = packed[32 * first : 32 * (first + count)].reshape(32, count)
    operands = np.zeros((32, 16), np.uint32)
    kernels[f"decode_{bits}"](words, operands)
    token, row = fragments.places("k")
    (band,) = SCHEMES[bits].coded_bands
    book, _ = decoded_book(SCHEMES[bits], band)
    found = operands.view(np.float16).reshape(32, 4, 8)
    np.testing.assert_array_equal(found, book.astype(np.float16)[codes[token, row]])


@pytest.mark.parametrize("dim", [48, 64, 80, 96, 128, 256])
def test_2_bits_are_decoded_to_a_multiple_of_their_centroids(dim: int) -> None:
    stored = form("tq2", dim)
    (band,) = stored.coded_bands
    book, unit = decoded_book(stored, band)
    centroids = stored.table(band).centroids
    assert not (half_bits(book) & 0xFF).any()
    np.testing.assert_allclose(book * unit, centroids, rtol=NEAR)
    # 0.1 % of what the codes themselves lose
    assert np.mean((book * unit - centroids) ** 2) * dim < 1e-3 * 0.117


@pytest.mark.parametrize("scheme", ["16@5+16@3+32@2", "32@3/16@2/16@2"])
def test_bands_with_a_common_scale_and_narrow_ones_keep_their_centroids(scheme: str) -> None:
    stored = form(scheme, 64)
    for band in stored.coded_bands:
        book, unit = decoded_book(stored, band)
        assert unit == 1
        np.testing.assert_array_equal(book, stored.table(band).centroids)


@pytest.mark.parametrize(("bits", "most"), [(2, 1.5), (3, 2), (4, 2)])
def test_a_value_costs_few_permutations(kernels, bits: int, most: float) -> None:
    kernel = kernels[f"decode_{bits}"]
    kernel(np.zeros((32, bits), np.uint32), np.zeros((32, 16), np.uint32))
    assert kernel.reports[0].count("prmt") <= most * 32  # of 32 values a lane


def test_tables_are_needed_from_2_bits_on() -> None:
    assert [bits for bits, stored in SCHEMES.items() if Tables.bytes_of((stored,))] == [2, 3, 4, 5, 6, 7, 8]
    assert Tables.bytes_of((SCHEMES[4], SCHEMES[4])) == 16
    assert Tables.bytes_of((SCHEMES[8], SCHEMES[8], SCHEMES[5])) == 4 * (128 + 16)


def test_hold_keeps_a_value(kernels) -> None:
    """What a register holds does not change with what it was made from."""
    found = np.zeros((2, 32), np.int32)

    def emit(target) -> None:
        with blocks(1, 1, 1), threads(32) as lane:
            source = registers("source", 1, "int32")
            store(source, lane, 0)
            kept, bound = hold(source[0]), T.Bind(source[0])
            store(source, lane + 100, 0)
            store(target, kept, 0, lane)
            store(target, bound, 1, lane)

    interpreted({"held": probe(emit, found)}, "sm_80", unwritten=["a0"])["held"](found)
    np.testing.assert_array_equal(found, [np.arange(32)] * 2)
