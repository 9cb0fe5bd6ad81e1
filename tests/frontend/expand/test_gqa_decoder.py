"""A decoder as the model builder writes it, imported whole: a node for the attention, no mask, a table that depends on
the length."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tqc.errors import FrontendError
from tqc.frontend import import_model

SHORT = 12


@pytest.fixture
def build(decoder):
    """`build(...)` → a decoder around GroupQueryAttention; `wrong` changes one of its bookkeeping operands."""

    class Model(decoder):
        def __init__(self, *, wrong="", long_rope=False, compare="Greater", **attrs):
            self.wrong, self.long_rope, self.compare, self.attrs = wrong, long_rope, compare, attrs
            super().__init__()

        def _attention(self, x, _mask, _repeat):
            gamma = self.weight("gamma", self.width)
            normed = self.add("SimplifiedLayerNormalization", [x, gamma], "normed", epsilon=1e-5, axis=-1, stash_type=1)
            wide = (self.heads + 2 * self.kv_heads) * self.dim
            packed = self.add("MatMul", [normed, self.weight("w_qkv", self.width, wide)], "packed")
            last, total = self._lengths()
            pasts, presents = ([f"{p}.0.{s}" for s in ("key", "value")] for p in ("past_key_values", "present"))
            operands = [packed, "", "", *pasts, last, total, *self._tables()]
            attrs = {"num_heads": self.heads, "kv_num_heads": self.kv_heads, "do_rotary": 1} | self.attrs
            outputs = ["flat", *presents]
            node = helper.make_node("GroupQueryAttention", operands, outputs, "gqa", domain="com.microsoft", **attrs)
            self.nodes.append(node)
            return "flat"

        def _lengths(self):
            filled = self.add("ReduceSum", ["attention_mask", self.ints(1)], "filled", keepdims=0)
            off = self.int(0 if self.wrong == "last" else 1)
            last = self.add("Cast", [self.add("Sub", [filled, off], "last")], "last32", to=TensorProto.INT32)
            total = self._size("input_ids" if self.wrong == "total" else "attention_mask", 1, "total_tokens")
            return last, self.add("Cast", [total], "total32", to=TensorProto.INT32)

        def _table(self, stretch, rows=64):
            frequencies = 10.0 ** -np.arange(self.dim // 2) / stretch
            angle = np.arange(rows, dtype=np.float32)[:, None] * frequencies.astype(np.float32)
            return np.cos(angle), np.sin(angle)

        def _tables(self):
            names = ["cos", "sin"]
            if not self.long_rope:
                return [self.constant(name, value) for name, value in zip(names, self._table(1), strict=True)]
            branches = {
                "then_branch": self._branch("long", self._table(3)),
                "else_branch": self._branch("short", self._table(1, SHORT)),
            }
            if self.compare.startswith("Less"):
                branches = dict(zip(branches, reversed(branches.values()), strict=True))
            condition = self.add(self.compare, ["total_tokens", self.int(SHORT)], "is_long")
            self.nodes.append(helper.make_node("If", [condition], names, "choice", **branches))
            return names

        def _branch(self, name, tables):
            outputs = [f"{name}_{i}" for i in range(2)]
            nodes = [
                helper.make_node("Constant", [], [output], value=numpy_helper.from_array(table))
                for output, table in zip(outputs, tables, strict=True)
            ]
            infos = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None) for output in outputs]
            return helper.make_graph(nodes, name, [], infos)

        def model(self):
            proto = super().model()
            for entry in proto.graph.input:
                if entry.name.startswith("past"):
                    entry.type.tensor_type.shape.dim[3].dim_param = "kv_cache_dim"
            return proto

    return Model


@pytest.mark.parametrize(
    "options",
    [{}, {"local_window_size": 6, "softcap": 2.0, "scale": 0.4}, {"long_rope": True, "smooth_softmax": 1}],
    ids=str,
)
def test_equals_onnxruntime(build, beside_onnxruntime, tmp_path, options):
    pair = beside_onnxruntime(build(**options).save(tmp_path))
    (layer,) = pair.imported.layers
    assert (layer.query_heads, layer.kv_heads, layer.head_dim) == (4, 2, 16)
    assert layer.window == options.get("local_window_size", 0)
    assert layer.softcap == options.get("softcap", 0)
    assert layer.sinks == ("smooth_softmax" in options)
    assert layer.rope.dims == 16
    assert pair.imported.longest == (SHORT if options.get("long_rope") else None)
    for batch, seq, past in [(1, 11, 0), (2, 5, 0), (1, 3, 8), (2, 1, 9)]:
        tokens = np.random.default_rng(1).integers(0, 40, (batch, seq))
        positions = np.tile(np.arange(past, past + seq), (batch, 1))
        arguments = tokens, positions, pair.cache(batch, past)
        for ours, theirs in zip(pair.run(*arguments), pair.onnx(*arguments), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("compare", "longest"), [("Greater", 12), ("GreaterOrEqual", 11), ("Less", 11), ("LessOrEqual", 12)]
)
def test_a_choice_of_tables_limits_the_length(build, tmp_path, compare, longest):
    imported = import_model(build(long_rope=True, compare=compare).save(tmp_path))
    assert imported.longest == longest
    assert imported.layers[0].rope.slowest == pytest.approx(1e-7, rel=1e-3)  # that of the short table


@pytest.mark.parametrize(("wrong", "operand"), [("last", "last32"), ("total", "total32")])
def test_wrong_bookkeeping_is_refused(build, tmp_path, wrong, operand):
    with pytest.raises(FrontendError, match="does not hold what it should") as error:
        import_model(build(wrong=wrong).save(tmp_path))
    assert operand in str(error.value)
    assert "gqa" in str(error.value)


def test_tables_that_are_no_rotation_are_refused(build, tmp_path):
    model = build()
    model.initializers = [t for t in model.initializers if t.name != "sin"]
    model.constant("sin", model._table(1.5)[1])
    with pytest.raises(FrontendError, match="no rotation") as error:
        import_model(model.save(tmp_path))
    assert "gqa" in str(error.value)


def test_other_control_flow_is_refused(build, tmp_path):
    proto = build(long_rope=True).model()
    (choice,) = (node for node in proto.graph.node if node.op_type == "If")
    for attribute in choice.attribute:
        attribute.g.node.append(helper.make_node("Neg", [attribute.g.output[0].name], ["negated"]))
        attribute.g.output[0].name = "negated"
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    with pytest.raises(FrontendError, match="Control flow") as error:
        import_model(path)
    assert "choice" in str(error.value)
