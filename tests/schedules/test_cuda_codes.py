"""Codes in CUDA kernels: units against the codec's packing, tables and the encoder against the codebooks."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_driver import run_probe
from tvm import tirx

from tqc.codec import pages
from tqc.codec.form import form
from tqc.codec.layout import LANES, planes
from tqc.schedules.cuda_builder import divide, local, phase, store
from tqc.schedules.cuda_codes import Books, Encoder, load_group, plane_offset, store_group, table_entries

PAGE, DIM, THREADS = 32, 48, 64


@pytest.mark.parametrize("side", ["k", "v"])
@pytest.mark.parametrize("bits", range(1, 9))
def test_units_are_those_of_the_codec(bits: int, side: str) -> None:
    """Unpacks a page that the codec packed, and packs its codes: both agree with it, and no unit is left out."""
    codes = np.random.default_rng(bits).integers(0, 2**bits, (PAGE, DIM), dtype=np.uint8)
    packed = (pages.pack_k if side == "k" else pages.pack_v)(codes, bits)
    along = (codes.T if side == "k" else codes).astype(np.int32)  # [packed axis, lanes]
    read, written = np.full_like(along, -1), np.full_like(packed, 0xBEEF)
    groups, lanes = along.shape[0] // LANES, along.shape[1]
    widths = {shift: width for width, shift in planes(bits)}

    def emit(units, wide, decoded, encoded) -> None:
        with phase(groups * lanes, THREADS) as item:
            group, lane = divide(item, lanes)

            def place(shift: int, i: int) -> tirx.Expr:
                return plane_offset(PAGE * DIM, shift) + (group * widths[shift] + i) * lanes + lane

            code = load_group(lambda shift, i: tirx.Cast("uint32", units[place(shift, i)]), bits)
            for j in range(LANES):
                store(decoded, code(tirx.const(j, "int32")), group * LANES + j, lane)
        with phase(groups * lanes, THREADS) as item:
            group, lane = divide(item, lanes)

            def put(shift: int, width: int, i: int, word: tirx.Expr) -> None:
                assert widths[shift] == width
                store(encoded, word, plane_offset(PAGE * DIM, shift) + (group * width + i) * lanes + lane)

            fields = local("codes", LANES, "uint32")
            for j in range(LANES):
                store(fields, wide[group * LANES + j, lane], j)
            store_group(fields, put, bits)

    run_probe(emit, packed.copy(), along, read, written)
    np.testing.assert_array_equal(read, along)
    np.testing.assert_array_equal(written, packed)


@pytest.mark.parametrize("thresholds", [False, True])
def test_books_hold_the_tables_of_every_band_once(thresholds: bool) -> None:
    """Codebooks depend on the dims that share a scale; a sketch has no thresholds to look up."""
    forms = tuple(form(scheme, DIM) for scheme in ("tq8", "fp16", "16@3+32@1", "tq3.5", "tq3", "tqp4", "qjl2"))
    wanted = [f.table(band) for f in forms for band in f.coded_bands if not (thresholds and band.sketch)]
    found = np.full((len(wanted), 256), np.nan, np.float32)

    def emit(target) -> None:
        books = Books.declare(forms, THREADS, thresholds=thresholds)
        tables = [books.of(f, band) for f in forms for band in f.coded_bands if not (thresholds and band.sketch)]
        for row, book in enumerate(wanted):
            with phase(len(book[thresholds]), THREADS) as entry:
                store(target, tables[row][entry], row, entry)
        distinct = {book[thresholds].tobytes() for book in wanted}
        assert len(books.tables) == len(distinct) < len(wanted)
        if not thresholds:
            assert table_entries(forms) == sum(map(len, distinct)) // 4

    run_probe(emit, found)
    for row, book in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(row[: len(book[thresholds])], book[thresholds])


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_the_encoder_counts_the_thresholds_below(bits: int) -> None:
    stored = form(f"tq{bits}", DIM)
    thresholds = stored.table(stored.bands[0]).thresholds
    near = [np.nextafter(thresholds, np.float32(limit)) for limit in (-9, 9)]
    x = np.concatenate([thresholds, *near, np.array([-np.inf, 0, np.inf, np.nan], np.float32)]).astype(np.float32)
    found = np.full(len(x), -1, np.int32)

    def emit(source, target) -> None:
        books = Books.declare((stored,), THREADS, thresholds=True)
        with phase(len(x), THREADS) as item:
            store(target, Encoder(books.of(stored, stored.bands[0]), bits)(source[item]), item)

    run_probe(emit, x, found)
    np.testing.assert_array_equal(found, (x[:, None] > thresholds).sum(axis=1))
    assert found[-2] == 2**bits - 1
    assert found[-1] == 0
