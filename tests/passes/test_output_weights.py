"""The weights behind the attentions of exported models."""

from __future__ import annotations

import pytest
import tvm
from tvm import relax

from tqc.dialect.attention import attention
from tqc.frontend import import_model
from tqc.passes.output_weights import output_weights


@pytest.mark.parametrize("arch", ["llama", "qwen2", "mistral"])
def test_every_layer_has_one(tiny_onnx, arch: str) -> None:
    imported = import_model(tiny_onnx(arch=arch))
    found = output_weights(imported.mod)
    assert list(found) == [layer.layer for layer in imported.layers]
    assert len(set(found.values())) == len(found)
    for layer in imported.layers:
        weight = imported.weights[found[layer.layer]]
        assert weight.shape[0] == layer.query_heads * layer.head_dim


def test_an_output_with_another_reader_is_left_out() -> None:
    mod = tvm.IRModule({"main": _attention(branch=False)})
    assert output_weights(mod) == {0: "w"}
    assert output_weights(tvm.IRModule({"main": _attention(branch=True)})) == {}


def _attention(*, branch: bool) -> relax.Function:
    """y·w of one attention; with `branch` the merged y is an output too."""
    bb = relax.BlockBuilder()
    q, *rest = (relax.Var(name, relax.TensorType((1, 2, 3, 16), "float32")) for name in ("q", "k", "v", "pk", "pv"))
    w = relax.Var("w", relax.TensorType((32, 8), "float32"))
    with bb.function("main", [q, *rest, w]):
        called = bb.emit(attention(q, *rest, scale=1.0, softcap=0.0, window=0, layer=0))
        swapped = bb.emit(relax.op.permute_dims(bb.emit(relax.TupleGetItem(called, 0)), [0, 2, 1, 3]))
        merged = bb.emit(relax.op.reshape(swapped, (1, 3, 32)))
        product = bb.emit(relax.op.matmul(merged, w))
        bb.emit_func_output(relax.Tuple([product, merged]) if branch else product)
    return bb.get()["main"]
