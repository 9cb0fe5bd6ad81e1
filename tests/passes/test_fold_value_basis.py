"""The basis of values moves into W_v and W_o."""

import numpy as np
import pytest
from outline import outline
from toy import DIM, toy_module

from tqc.codec import rotation
from tqc.passes.attach_cache import AttachCache
from tqc.passes.bases import Bases
from tqc.passes.fold_value_basis import Factor, FoldValueBasis, TurnColumns, TurnRows
from tqc.passes.quantize_cache import QuantizeCache

RNG = np.random.default_rng(0)
ROTATION = Factor("rotation seed=0,rounds=1,inverse=0", rotation.matrix(DIM).T[None])
BACK = Factor("rotation seed=0,rounds=1,inverse=1", rotation.matrix(DIM)[None])
LEFT = np.eye(DIM) + 0.1 * RNG.standard_normal((1, DIM, DIM))
BASES = {0: Bases.of(LEFT, LEFT)}


class RecordedWeight:
    """Stands for a weight: remembers what it would be transformed by."""

    def __init__(self, transforms=()):
        self.transforms = transforms

    def then(self, transform):
        return RecordedWeight((*self.transforms, transform))


def fold(module, schemes=("tq4", "tq4"), bases=None):
    weights = {name: RecordedWeight() for name in ("embedding", "wq", "wk", "wv", "bv", "wo", "lm_head")}
    quantized = QuantizeCache(schemes, bases=bases or {})(AttachCache(sinks=0)(module))
    folded = FoldValueBasis(weights, bases or {})(quantized)
    return folded, {name: w.transforms for name, w in weights.items() if w.transforms}


@pytest.mark.parametrize("phase", ["decode", "prefill", "prefill_all"])
@pytest.mark.parametrize("views", [False, True])
def test_only_queries_and_keys_are_still_rotated(phase, views):
    folded, transforms = fold(toy_module(views=views))
    assert sum("rotate" in line for line in outline(folded[phase])) == 2
    assert not any("inverse=True" in line for line in outline(folded[phase]))
    assert transforms == {"wv": (TurnColumns(ROTATION),), "wo": (TurnRows(BACK),)}


def test_a_bias_is_rotated_too():
    _, transforms = fold(toy_module(bias=True))
    assert transforms["bv"] == transforms["wv"] == (TurnColumns(ROTATION),)


def test_half_precision_weights_are_left_alone():
    folded, transforms = fold(toy_module(dtype="float16"), bases=BASES)
    assert not transforms
    assert sum("change_basis" in line for line in outline(folded["decode"])) == 4


@pytest.mark.parametrize("views", [False, True])
def test_matrices_of_values_fold_and_leave_the_parameters(views):
    folded, transforms = fold(toy_module(views=views, bias=True), ("tq4", "16@3"), BASES)
    for phase in ("decode", "prefill", "prefill_all"):
        left = [line.split(", ")[1] for line in outline(folded[phase]) if "change_basis" in line]
        assert left == ["layer0.key_basis)", "layer0.query_basis)"]
        assert [var.name for var in folded[phase].params if "basis" in var.name] == [
            "layer0.key_basis",
            "layer0.query_basis",
        ]
    assert [(name, type(t).__name__, t.factor.text) for name, (t,) in sorted(transforms.items())] == [
        ("bv", "TurnColumns", "layer0.value_basis"),
        ("wo", "TurnRows", "layer0.output_basis"),
        ("wv", "TurnColumns", "layer0.value_basis"),
    ]
    np.testing.assert_array_equal(transforms["wv"][0].factor.matrices, BASES[0].value)


def test_the_sketch_of_values_stays():
    folded, transforms = fold(toy_module(), ("tq4", "tqp3"))
    lines = [line for line in outline(folded["decode"]) if "sketch" in line or "rotate" in line]
    assert [line.split(" = ")[1].split("(")[0] for line in lines] == ["tqc.rotate", "tqc.rotate", "tqc.sketch"]
    assert set(transforms) == {"wv", "wo"}


def test_folding_changes_no_product():
    x, w_v, w_o = RNG.standard_normal((5, 32)), RNG.standard_normal((32, 3 * DIM)), RNG.standard_normal((3 * DIM, 8))
    rotated = (x @ w_v).reshape(5, 3, DIM) @ rotation.matrix(DIM, 0).T
    np.testing.assert_allclose(x @ TurnColumns(ROTATION).apply(w_v), rotated.reshape(5, -1), atol=1e-12)
    np.testing.assert_allclose(rotated.reshape(5, -1) @ TurnRows(BACK).apply(w_o), x @ w_v @ w_o, atol=1e-12)


def test_query_heads_take_the_matrix_of_their_kv_head():
    """Two KV heads, four query heads that copy their values: turned and turned back is nothing."""
    made = RNG.standard_normal((2, DIM, DIM))
    into, back = Factor("into", made), Factor("back", np.linalg.inv(made))
    x, w_v, w_o = RNG.standard_normal((5, 32)), RNG.standard_normal((32, 2 * DIM)), RNG.standard_normal((4 * DIM, 8))

    def copied(values):
        return np.repeat(values.reshape(5, 2, DIM), 2, axis=1).reshape(5, -1)

    turned = copied(x @ TurnColumns(into).apply(w_v)) @ TurnRows(back).apply(w_o)
    np.testing.assert_allclose(turned, copied(x @ w_v) @ w_o, atol=1e-8)
    bias = RNG.standard_normal(2 * DIM)
    np.testing.assert_allclose(TurnColumns(into).apply(bias)[DIM:], bias[DIM:] @ made[1], atol=1e-12)
