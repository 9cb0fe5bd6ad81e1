from __future__ import annotations

import numpy as np
import pytest
from cpu_driver import run_vectors
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from tqc.codec import pages
from tqc.schedules.cpu_codes import UNIT, CodedRows, Table
from tqc.schedules.cpu_simd import i64, let

PAGE, DIM = 32, 48


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("isa", ["avx512", "avx2", "portable"])
def test_tables_of_every_size(isa: str, mirrored: bool) -> None:
    """A mirrored table is antisymmetric, as codebooks are."""
    entries = np.random.default_rng(0).standard_normal(256).astype(np.float32)
    index = np.random.default_rng(1).integers(0, 2**16, 64, dtype=np.uint16)
    found = np.zeros((9, 64), np.float32)

    def part(bits):
        half = entries[: 2**bits // 2]
        return np.concatenate([half, -half[::-1]]) if mirrored and bits else entries[: 2**bits]

    def kernel(simd, source, target):
        for bits in range(9):
            table = Table(simd, part(bits))
            with T.serial(i64(64 // simd.lanes)) as c:
                lane = let(c * simd.lanes)
                simd.store(target, table[let(simd.units(source, lane))], i64(bits), lane)

    run_vectors(isa, kernel, index, found)
    for bits in range(9):
        np.testing.assert_array_equal(found[bits], part(bits)[index % 2**bits])


@pytest.mark.parametrize("isa", ["avx512", "portable"])
@pytest.mark.parametrize("bits", range(1, 9))
def test_units_are_those_of_the_codec(isa: str, bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 2**bits, (PAGE, DIM), dtype=np.uint8)
    rows = codes.T.astype(np.uint32)  # of K: a row is a dim
    packed = pages.pack_k(codes, bits)[None]
    read, written = np.zeros_like(rows), np.zeros_like(packed)

    def kernel(simd, units, wide, decoded, encoded):
        layout = CodedRows(simd, bits, PAGE, DIM)
        with T.serial(i64(PAGE // simd.lanes)) as c:
            lane = let(c * simd.lanes)
            at = tirx.Ramp(lane, i64(1), simd.lanes)
            with T.serial(i64(DIM // layout.step)) as step:
                for row, index in enumerate(layout.index(units, i64(0), step=step, lane=lane)):
                    code = index & simd.splat(2**bits - 1, "uint32")
                    T.buffer_store(decoded, code, [step * layout.step + row, at])
            with T.serial(i64(DIM // UNIT)) as step:
                vectors = [let(wide[step * UNIT + i, at]) for i in range(UNIT)]
                layout.store(encoded, i64(0), step=step, lane=lane, codes=vectors)

    run_vectors(isa, kernel, packed, rows, read, written)
    np.testing.assert_array_equal(read, rows)
    np.testing.assert_array_equal(written, packed)
