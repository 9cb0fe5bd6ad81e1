"""What holds for a page in any order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tqc.codec.orders import ORDERS

sides = st.sampled_from("kv")


@pytest.mark.parametrize("name", ORDERS)
@given(side=sides, bits=st.integers(1, 8), rows=st.sampled_from([16, 48]), seed=st.integers(0, 99))
def test_codes_come_back(name: str, side: str, bits: int, rows: int, seed: int) -> None:
    order, codes = ORDERS[name], np.random.default_rng(seed).integers(0, 2**bits, (2, 64, rows), np.uint8)
    units = order.pack(codes, bits, side)
    assert (units.dtype, units.shape) == (np.uint16, (2, 64 * rows * bits // 16))
    np.testing.assert_array_equal(order.unpack(units, bits, rows, side), codes)


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("side", ["k", "v"])
def test_exact_values_come_back(name: str, side: str) -> None:
    order, values = ORDERS[name], np.random.default_rng(0).standard_normal((2, 64, 48)).astype(np.float16)
    stored = order.pack_exact(values, side)
    assert stored.shape == (2, 64 * 48)
    np.testing.assert_array_equal(order.unpack_exact(stored, 48, side), values)


@pytest.mark.parametrize("name", ORDERS)
def test_every_token_has_a_scale(name: str) -> None:
    assert sorted(ORDERS[name].tokens(64)) == list(range(64))
