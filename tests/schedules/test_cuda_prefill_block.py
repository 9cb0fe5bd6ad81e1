"""Blocks of prefill whose warps multiply by themselves: every kind of page, with many warps and rows and with few."""

from __future__ import annotations

import pytest
from cuda_driver import cuda_layout
from test_cuda_prefill import NEW, check, chunk, prefill, prepared

from tqc.schedules.cuda_config import PrefillConfig


@pytest.mark.parametrize(
    ("heads", "schemes", "options", "config"),
    [
        ((8, 2, 128), ("tq4", "tq4"), {}, PrefillConfig(4, 2)),
        ((20, 1, 64), ("fp16", "bf16"), {"sinks": 20}, PrefillConfig(2, 3)),
        ((3, 1, 80), ("tq5", "tq6"), {"sinks": 0, "recent": 0}, PrefillConfig(1, 4, expand=False)),
        ((4, 2, 64), ("qjl2o", "tqp3"), {}, PrefillConfig(4, 1)),
        ((4, 4, 48), ("polar", "16@5/32@0"), {"recent": 0}, PrefillConfig(4, 1)),
        ((2, 1, 256), ("tq3.5", "tq1"), {}, PrefillConfig(8, 1, expand=False)),
    ],
)
def test_every_kind_of_page_and_of_tiling(heads: tuple, schemes: tuple, options: dict, config: PrefillConfig) -> None:
    run = prepared(0, 3, 290, 137, 50, layout=cuda_layout(*heads, *schemes, **options), config=config)
    fresh = chunk(run)
    check(run, fresh, prefill(run, *fresh, NEW), NEW)
