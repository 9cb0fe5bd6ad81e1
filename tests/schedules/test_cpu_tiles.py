"""The tile of each vector unit, and what tiles refuse."""

import pytest
from tvm.target import Target

from tqc.errors import PassError
from tqc.schedules.cpu_matmul import make_matmul
from tqc.schedules.cpu_tiles import MatmulConfig


def test_a_wider_vector_unit_takes_larger_tiles():
    configs = [MatmulConfig.for_target(Target({"kind": "llvm", "mcpu": f"x86-64-v{level}"})) for level in (2, 3, 4)]
    assert [config.lanes for config in configs] == [4, 8, 16]
    assert [config.rows for config in configs] == [3, 6, 12]


def test_columns_narrow_until_a_tile_stays_in_registers():
    config = MatmulConfig(lanes=16, registers=24)
    assert [config.columns(rows, 64) for rows in (1, 6, 12, 24)] == [64, 64, 32, 16]
    assert config.columns(48, 64) == 16  # never narrower than a vector


def test_a_block_of_half_vectors_is_refused():
    with pytest.raises(PassError, match="whole vectors"):
        make_matmul(8, 24, block=24)


def test_only_a_single_product_takes_a_residual():
    with pytest.raises(PassError, match="single product"):
        make_matmul(8, (32, 32), residual=True)
