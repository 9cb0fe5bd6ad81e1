"""What each scheme stores: bytes, bands, tables."""

from __future__ import annotations

import numpy as np
import pytest

from tqc.codec import scheme
from tqc.codec.form import BLOCK, form
from tqc.codec.lloyd_max import codebook
from tqc.errors import CodecError

DIMS = (64, 80, 96, 128, 256)
BYTES = {
    "fp16": (128, 160, 192, 256, 512),
    "bf16": (128, 160, 192, 256, 512),
    "fp32": (256, 320, 384, 512, 1024),
    "tq1": (10, 12, 14, 18, 34),
    "tq2": (18, 22, 26, 34, 66),
    "tq3": (26, 32, 38, 50, 98),
    "tq4": (34, 42, 50, 66, 130),
    "tq5": (42, 52, 62, 82, 162),
    "tqp2": (20, 24, 28, 36, 68),
    "tqp3": (28, 34, 40, 52, 100),
    "tqp4": (36, 44, 52, 68, 132),
    # A quarter of 80 and 96 channels is no multiple of 16: 16 of them are outliers there.
    "tq2.5": (22, 26, 30, 40, 76),
    "tq3.5": (30, 36, 42, 56, 108),
    "polar": (31, 38.75, 46.5, 62, 124),
    "polar-plain": (31, 38.75, 46.5, 62, 124),
    "qjl1": (10, 12, 14, 18, 34),
    "qjl2": (18, 22, 26, 34, 66),
    "qjl3": (26, 32, 38, 50, 98),
    "qjl2o": (20, 24, 28, 36, 68),
}


@pytest.mark.parametrize("name", BYTES)
def test_bytes_of_a_vector(name: str) -> None:
    assert tuple(form(name, dim).bytes_per_vector for dim in DIMS) == BYTES[name]


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", [*scheme.NAMED, "bands"])
def test_rows_and_units(name: str, dim: int) -> None:
    stored = form(f"16@5+16@0+{dim - 32}@2" if name == "bands" else name, dim)
    for page in (16, 64):
        elements = stored.units(page) * {"float32": 32}.get(stored.dtype, 16)
        assert elements + 16 * stored.scales * page == stored.bits * page
    if stored.kind != "bands":
        assert stored.rows == dim
        return
    assert [band.start for band in stored.bands] == [0, *(band.stop for band in stored.bands)][:-1]
    assert stored.bands[-1].stop == stored.rows == dim + stored.sketch_rows
    assert all(band.rows % 16 == 0 for band in stored.bands)
    assert {band.scale for band in stored.coded_bands} == set(range(stored.scales))
    last = stored.coded_bands[-1]
    assert stored.offset(last, 64) + 64 * last.rows * last.bits // 16 == stored.units(64)


def test_tables() -> None:
    mixed = form("16@5+16@0+32@2", 64)
    wide, nothing, narrow = mixed.bands
    assert (nothing.bits, nothing.scale) == (0, -1)
    np.testing.assert_array_equal(mixed.table(wide).centroids, codebook(5, 48).centroids)  # of 48 stored rows
    np.testing.assert_array_equal(mixed.table(narrow).centroids, codebook(2, 48).centroids)
    split = form("tq2.5", 128)
    np.testing.assert_array_equal(split.table(split.bands[0]).centroids, codebook(3, 32).centroids)
    np.testing.assert_array_equal(split.table(split.bands[1]).centroids, codebook(2, 96).centroids)


def test_scales_of_their_own() -> None:
    split = form("16@5/16@3+16@2/16@0", 64)
    assert [band.scale for band in split.bands] == [0, 1, 1, -1]
    assert split.scales == 2
    assert split.bits == 16 * (5 + 3 + 2) + 2 * 16
    np.testing.assert_array_equal(split.table(split.bands[0]).centroids, codebook(5, 16).centroids)
    np.testing.assert_array_equal(split.table(split.bands[2]).centroids, codebook(2, 32).centroids)


@pytest.mark.parametrize(("dim", "root_mean"), [(64, 0.80101), (128, 0.79944), (256, 0.79866)])
def test_signs_stand_for_what_makes_products_unbiased(dim: int, root_mean: float) -> None:
    """ALGORITHMS: √d·E|u₁| for the finite dimension, not its limit √(2/π)."""
    stored = form("qjl1", dim)
    low, high = stored.table(stored.bands[1]).centroids
    assert low == -high
    assert high * dim == pytest.approx(np.sqrt(dim) / root_mean, rel=1e-5)
    assert stored.table(stored.bands[1]).thresholds.tolist() == [0.0]


@pytest.mark.parametrize(
    ("name", "dim"), [("16@5+16@3", 64), ("20@5+44@2", 64), ("64@9", 64), ("64@0", 64), ("0@3+64@2", 64), ("tq2.5", 16)]
)
def test_bands_that_do_not_fit(name: str, dim: int) -> None:
    with pytest.raises(CodecError):
        form(name, dim)


def test_polar_blocks() -> None:
    assert form("polar", 128).scales == 128 // BLOCK
    assert form("polar", 128).basis == "rotation"
    assert form("polar-plain", 128).basis == "none"
