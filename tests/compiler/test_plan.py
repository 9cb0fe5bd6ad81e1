"""Plans as files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tqc.compiler.plan import LayerPlan, Plan, bits_per_value, check_plan, read_plan
from tqc.errors import PassError
from tqc.frontend.canonical import LayerInfo

LAYERS = {n: LayerInfo(n, 9, 3, 64, 0.125, 0.0, 0, f"/layers.{n}/Softmax") for n in range(2)}
PLAN = Plan(
    bits_per_value=3.5,
    budget=3.5,
    layers=[LayerPlan(layer=0, k="16@5+48@3", v="tq2", why="‖b_k‖ = 600"), LayerPlan(layer=1, k="tq4", v="tq3.5")],
)


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(PLAN.text(), encoding="utf-8")
    assert read_plan(path) == PLAN
    assert PLAN.schemes() == {0: ("16@5+48@3", "tq2"), 1: ("tq4", "tq3.5")}
    lines = PLAN.text().splitlines()
    assert sum('"layer"' in line for line in lines) == 2  # one line a layer
    assert "‖b_k‖" in PLAN.text()


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"tqc_plan": 2}, "tqc_plan"),
        ({"layers": []}, "layers"),
        ({"layers": [{"layer": 0, "k": 4, "v": "tq4"}]}, "layers.0.k"),
        ({"extra": 1}, "extra"),
    ],
)
def test_reject_what_is_no_plan(tmp_path: Path, change: dict, where: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(json.loads(PLAN.text()) | change))
    with pytest.raises(PassError, match="not a plan") as caught:
        read_plan(path)
    assert where in caught.value.where


def test_reject_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PassError, match="cannot be read"):
        read_plan(tmp_path / "none.json")
    (tmp_path / "text.json").write_text("k4v3")
    with pytest.raises(PassError, match="not a plan"):
        read_plan(tmp_path / "text.json")


def test_a_plan_fits_its_model() -> None:
    check_plan(PLAN, LAYERS)
    for layers in (PLAN.layers[:1], [*PLAN.layers, PLAN.layers[0]]):
        with pytest.raises(PassError, match="not one of this model's layers"):
            check_plan(PLAN.model_copy(update={"layers": layers}), LAYERS)
    for k, v in (("16@5+16@3", "tq4"), ("tq4", "qjl2"), ("tq44", "tq4")):
        wrong = PLAN.model_copy(update={"layers": [LayerPlan(layer=0, k=k, v=v), PLAN.layers[1]]})
        with pytest.raises(PassError, match="cannot be used"):
            check_plan(wrong, LAYERS)


def test_bits_count_scales() -> None:
    assert bits_per_value({0: ("tq4", "tq4"), 1: ("tq3", "tq2")}, LAYERS) == (4.25 + 4.25 + 3.25 + 2.25) / 4
