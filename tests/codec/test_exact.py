"""Codecs that keep floats."""

from __future__ import annotations

import numpy as np
import pytest

from tqc.codec.exact import Exact
from tqc.errors import CodecError


@pytest.mark.parametrize(("name", "size", "dtype"), [("fp16", 2, np.float16), ("fp32", 4, np.float32)])
def test_values_are_kept(name: str, size: int, dtype: type) -> None:
    codec = Exact(name, 80)
    x = np.random.default_rng(0).standard_normal((3, 4, 80))
    encoded = codec.encode(x)
    assert encoded.values.dtype == dtype
    assert encoded.nbytes == 12 * codec.bytes_per_vector == 12 * 80 * size
    assert codec.bits_per_value == 8 * size
    assert codec.name == name
    found = codec.decode(encoded)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, x.astype(dtype).astype(np.float32))


@pytest.mark.filterwarnings("error")
def test_what_float16_cannot_hold_is_infinite() -> None:
    codec = Exact("fp16", 16)
    found = codec.decode(codec.encode(np.array([1e6, -1e6, np.nan, *[1.0] * 13], np.float32)))
    assert found[0] == np.inf
    assert found[1] == -np.inf
    assert np.isnan(found[2])
    np.testing.assert_array_equal(found[3:], 1)


def test_reject_wrong_last_dim() -> None:
    with pytest.raises(CodecError, match="cannot encode this array"):
        Exact("fp32", 64).encode(np.zeros((2, 80)))
