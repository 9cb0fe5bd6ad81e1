"""A tied embedding is gathered from the packed vocabulary matrix."""

import numpy as np
import tvm
from outline import outline
from toy import HIDDEN, VOCAB, toy_module

from tqc.frontend.weights import ArrayTensor, Transpose, Weight
from tqc.passes.attach_cache import AttachCache
from tqc.passes.base import num_input
from tqc.passes.layout_weights import LayoutWeights
from tqc.passes.share_tied_weights import ShareTiedWeights

TABLE = np.random.default_rng(0).standard_normal((VOCAB, HIDDEN)).astype("float32")


def weights_of(module, tied: bool):
    """Weights of the toy module; embedding and lm_head share their source if `tied`."""
    func = module["main"]
    source = ArrayTensor(TABLE)
    weights = {}
    for var in func.params[num_input(func) :]:
        shape = tuple(int(dim) for dim in var.ty.shape)
        weights[var.name] = Weight(var.name, shape, "float32", ArrayTensor(np.zeros(shape, "float32")), var.name)
    weights["embedding"] = Weight("embedding", TABLE.shape, "float32", source, "table")
    own = source if tied else ArrayTensor(TABLE.copy())
    weights["lm_head"] = Weight("lm_head", TABLE.T.shape, "float32", own, "table", (Transpose((1, 0)),))
    return weights


def shared(tied: bool):
    module = toy_module()
    weights = weights_of(module, tied)
    module = LayoutWeights(weights=weights)(AttachCache()(module))
    return ShareTiedWeights(weights)(module), weights


def test_the_embedding_leaves_and_its_rows_come_from_the_vocabulary_matrix():
    module, weights = shared(tied=True)
    for phase in ("decode", "prefill", "prefill_all"):
        assert "embedding" not in [var.name for var in module[phase].params]
        assert not any("take(" in line for line in outline(module[phase]))
    assert "embedding" not in weights
    assert weights["lm_head"].numpy().shape == (VOCAB // 32 + 1, HIDDEN, 32)


def test_an_embedding_of_its_own_stays():
    module, weights = shared(tied=False)
    assert "embedding" in weights
    assert any("take(embedding" in line for line in outline(module["decode"]))


def test_the_rows_are_those_of_the_table():
    module, weights = shared(tied=True)
    decode = module["decode"]
    call = next(b.value for block in decode.body.blocks for b in block.bindings if "tied_rows" in str(b.value))
    kernel = module[call.args[0]].with_attr("global_symbol", "rows")
    built = tvm.compile(kernel, target=tvm.target.Target("llvm"))
    ids = np.array([5, 33, VOCAB - 1], "int64")
    out = tvm.runtime.tensor(np.zeros((3, HIDDEN), "float32"))
    built["rows"](tvm.runtime.tensor(weights["lm_head"].numpy()), tvm.runtime.tensor(ids), out)
    np.testing.assert_array_equal(out.numpy(), TABLE[ids])
