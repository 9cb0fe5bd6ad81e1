from __future__ import annotations

import numpy as np
import pytest
from ptx_compile import needs_nvcc


def test_rounding_to_a_type():
    from mma_forms import e4m3, e4m3_book, int8_book, int8_rows

    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (50, 32))
    assert np.abs(e4m3(x) / x - 1).max() <= 1 / 16  # four bits of significand
    assert np.abs(int8_rows(x) - x).max() <= np.abs(x).max() / 254 + 1e-12
    book = np.array([-0.9, -0.31, 0.31, 0.9])
    for rounded in (int8_book(book), e4m3_book(book)):
        np.testing.assert_allclose(rounded, book, rtol=0.04)
        np.testing.assert_array_equal(rounded, -rounded[::-1])


def test_int8_adds_less_noise_than_e4m3(monkeypatch):
    import mma_forms

    monkeypatch.setattr(mma_forms, "KEYS", 300)
    found = {(row["bits"], row["type"]): row for row in mma_forms.noise()}
    for bits in mma_forms.BITS:
        assert 0 < found[bits, "int8"]["both"] < found[bits, "e4m3"]["both"] < 0.2


def test_what_becomes_of_a_form(monkeypatch):
    needs_nvcc()
    import mma_forms

    from tqc.codegen.cuda_toolchain import find_nvdisasm
    from tqc.errors import TargetError

    try:
        find_nvdisasm()
    except TargetError as error:
        pytest.skip(error.what)
    monkeypatch.setattr(mma_forms, "ARCHS", ("sm_80",))
    found = {row["form"]: row["instructions"] for row in mma_forms.forms()}
    assert found["mma.sync int8, k32"] == {"IMMA": 1}
    assert found["mma.sync e4m3, k32"] is None
    text = mma_forms.tables({"forms": mma_forms.forms(), "noise": []})
    assert "| mma.sync e4m3, k32 | no" in text
