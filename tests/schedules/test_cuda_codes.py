"""Codebooks in CUDA kernels: tables and the encoder against the codec's."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_driver import run_probe

from tqc.codec.form import form
from tqc.schedules.cuda_builder import phase, store
from tqc.schedules.cuda_codes import Books, Encoder, table_entries

DIM, THREADS = 48, 64


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
