from __future__ import annotations

import pytest

from tqc.codec.layout import CacheLayout
from tqc.errors import TargetError
from tqc.schedules.cuda_config import SHARED_BYTES, CudaConfig


@pytest.mark.parametrize("options", [{"threads": 100}, {"threads": 2048}, {"splits": 0}, {"query_rows": 33}])
def test_a_value_out_of_range_is_refused(options):
    with pytest.raises(TargetError, match=next(iter(options))):
        CudaConfig(**options)


def test_the_default_shrinks_to_what_fits_a_block():
    small, large = CacheLayout(4, 4, 64), CacheLayout(16, 1, 512, page=128)
    config = CudaConfig()
    assert config.queries(small) == 4
    assert config.queries(large) == 1
    assert config.attention_bytes(small, 4) <= SHARED_BYTES


def test_an_explicit_number_of_rows_that_does_not_fit_is_refused():
    with pytest.raises(TargetError, match="shared memory"):
        CudaConfig().check(CacheLayout(8, 1, 256), "float32", queries=16)


@pytest.mark.parametrize(
    ("threads", "dim", "k_slices", "v_slices"), [(128, 128, 2, 1), (128, 80, 1, 1), (256, 64, 4, 4)]
)
def test_slices_divide_the_work_evenly(threads, dim, k_slices, v_slices):
    config, layout = CudaConfig(threads=threads), CacheLayout(4, 4, dim)
    assert (config.k_slices(layout), config.v_slices(layout)) == (k_slices, v_slices)


def test_an_unknown_dtype_is_refused():
    with pytest.raises(TargetError, match="dtype"):
        CudaConfig().check(CacheLayout(4, 4, 64), "bfloat16")


def test_query_rows_of_a_sketch_that_do_not_fit_are_refused():
    with pytest.raises(TargetError, match="shared memory"):
        CudaConfig().check(CacheLayout(16, 1, 256, "qjl3", "tq3"), "float32")
    CudaConfig().check(CacheLayout(4, 1, 256, "qjl3", "tq3"), "float32")


def test_a_page_that_a_block_cannot_encode_is_refused():
    with pytest.raises(TargetError, match="append"):
        CudaConfig().check_append(CacheLayout(4, 4, 512, "tq8", "tqp8", page=256))
    CudaConfig().check_append(CacheLayout(4, 4, 512, "tqp8", "tqp8"))
