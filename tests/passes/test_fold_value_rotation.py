"""The rotation of values moves into W_v and W_o."""

import numpy as np
import pytest
from outline import outline
from toy import DIM, toy_module

from tqc.codec import rotation
from tqc.passes.attach_cache import AttachCache
from tqc.passes.fold_value_rotation import FoldValueRotation, RotateColumns, RotateRows
from tqc.passes.quantize_cache import QuantizeCache


class RecordedWeight:
    """Stands for a weight: remembers what it would be transformed by."""

    def __init__(self, transforms=()):
        self.transforms = transforms

    def then(self, transform):
        return RecordedWeight((*self.transforms, transform))


def fold(module):
    weights = {name: RecordedWeight() for name in ("embedding", "wq", "wk", "wv", "bv", "wo", "lm_head")}
    folded = FoldValueRotation(weights)(QuantizeCache()(AttachCache(sinks=0)(module)))
    return folded, {name: w.transforms for name, w in weights.items() if w.transforms}


@pytest.mark.parametrize("phase", ["decode", "prefill", "prefill_all"])
@pytest.mark.parametrize("views", [False, True])
def test_only_queries_and_keys_are_still_rotated(phase, views):
    folded, transforms = fold(toy_module(views=views))
    assert sum("rotate" in line for line in outline(folded[phase])) == 2
    assert not any("inverse=True" in line for line in outline(folded[phase]))
    assert transforms == {"wv": (RotateColumns(DIM, 0),), "wo": (RotateRows(DIM, 0),)}


def test_a_bias_is_rotated_too():
    _, transforms = fold(toy_module(bias=True))
    assert transforms["bv"] == transforms["wv"] == (RotateColumns(DIM, 0),)


def test_half_precision_weights_are_left_alone():
    folded, transforms = fold(toy_module(dtype="float16"))
    assert not transforms
    assert sum("rotate" in line for line in outline(folded["decode"])) == 4


def test_folding_changes_no_product():
    rng = np.random.default_rng(0)
    x, w_v, w_o = rng.standard_normal((5, 32)), rng.standard_normal((32, 3 * DIM)), rng.standard_normal((3 * DIM, 8))
    matrix = rotation.matrix(DIM, 0)
    rotated = (x @ w_v).reshape(5, 3, DIM) @ matrix.T
    np.testing.assert_allclose(x @ RotateColumns(DIM, 0).apply(w_v), rotated.reshape(5, -1), atol=1e-12)
    np.testing.assert_allclose(rotated.reshape(5, -1) @ RotateRows(DIM, 0).apply(w_o), x @ w_v @ w_o, atol=1e-12)
