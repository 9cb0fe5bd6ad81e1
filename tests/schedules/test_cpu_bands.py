from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cpu_driver import follow_all_kernels

from tqc.codec.form import form
from tqc.codec.layout import CacheLayout
from tqc.schedules.cpu_bands import partly_poisoned, unstored

# Two scales, one scale over several widths, rows that are not stored, on either side; head_dims, pages, windows.
CASES = [
    ("avx512", CacheLayout(4, 1, 128, "tq2.5", "tq3.5", recent=16), {}),
    ("avx512", CacheLayout(6, 2, 64, "16@5+16@3+32@2", "16@3+32@0+16@2", recent=0, page=32), {"window": 90}),
    ("avx512", CacheLayout(2, 2, 256, "128@1+128@0", "64@4/192@1", recent=32, sinks=0), {"softcap": 8.0}),
    ("avx2", CacheLayout(2, 1, 80, "16@2/32@1+32@3", "tq2.5", recent=16, page=32), {}),
    ("portable", CacheLayout(2, 2, 64, "16@0+48@3", "16@6/16@0+32@2", recent=16, page=16), {"softcap": 20.0}),
    ("avx512", CacheLayout(4, 2, 64, "tq2.5", "32@2+32@0", recent=16, page=16, ring=4), {"window": 50}),
]


@pytest.mark.parametrize(("isa", "layout", "attributes"), CASES)
def test_every_kernel_follows_the_codec(isa: str, layout: CacheLayout, attributes: dict) -> None:
    follow_all_kernels(isa, layout, **attributes)


@pytest.mark.parametrize(("isa", "scheme"), [("avx512", "tq2.5"), ("portable", "16@3+48@0")])
def test_one_lost_scale_poisons_its_token_and_no_other_head(isa: str, scheme: str) -> None:
    """The NaN stands in the second half of one vector: the first has a scale of its own."""
    layout = CacheLayout(4, 2, 64, scheme, scheme, recent=0, page=16)
    run = follow_all_kernels(isa, layout)
    clean = {kernel: run.step([1, 1, 1], kernel) for kernel in ("decode", "prefill")}
    assert all(np.isfinite(y[:, :, 0]).all() for y in clean.values())
    for side in "kv":
        page = run.table[0, 0]
        kept = run.state[f"{side}_scale"][page].copy()
        run.state[f"{side}_scale"][page, 1, -3] = np.nan
        for kernel in clean:
            y = run.step([1, 1, 1], kernel)
            assert np.isnan(y[0, 2:, 0]).all()
            assert np.isfinite(y[0, :2, 0]).all()
            assert np.isfinite(y[1:, :, 0]).all()
        run.state[f"{side}_scale"][page] = kept


def test_what_is_not_stored() -> None:
    assert unstored(form("16@3+32@0+16@2", 64)) == [(16, 48)]
    assert unstored(form("tq4", 64)) == []
    layouts = [replace(CacheLayout(1, 1, 64), v=scheme) for scheme in ("tq4", "tq2.5", "16@3+48@0")]
    assert [partly_poisoned(layout.form("v")) for layout in layouts] == [False, True, True]
