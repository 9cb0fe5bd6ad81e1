"""ONNX's Attention operation: decoders made of it are imported whole, and compute what onnxruntime computes."""

from __future__ import annotations

import re

import numpy as np
import pytest
from onnx import TensorProto, helper

from tqc.errors import FrontendError
from tqc.frontend import import_model


@pytest.fixture
def build(decoder):
    """`build(...)` → a decoder around one Attention node."""

    class Model(decoder):
        def __init__(self, *, opset=24, flat=False, cache="inside", mask="", kv_heads=2, extra=(), outputs=(), **attrs):
            self.opset, self.kv_heads = opset, kv_heads
            self.flat, self.cache, self.extra, self.outputs, self.attrs = flat, cache, extra, outputs, attrs
            super().__init__(mask=mask)

        def _operand(self, x, name, heads):
            if not self.flat:
                return self._heads(x, name, heads)
            return self.add("MatMul", [x, self.weight(f"w_{name}", self.width, heads * self.dim)], name)

        def _attention(self, x, mask, repeat):
            q = self._operand(x, "q", self.heads)
            k, v = (self._operand(x, name, self.kv_heads) for name in ("k", "v"))
            pasts, presents = (
                [f"{prefix}.0.{side}" for side in ("key", "value")] for prefix in ("past_key_values", "present")
            )
            hides, results = self._mask(mask), ["y"]
            if self.cache == "inside":
                operands, results = [q, k, v, hides, *pasts], [*results, *presents]
            else:
                for past, fresh, present in zip(pasts, (k, v), presents, strict=True):
                    self.add("Concat", [past, fresh], present, axis=2)
                operands = [q, *presents, hides]
            for index, name in self.extra:
                operands += [""] * (index + 1 - len(operands))
                operands[index] = name(self)
            while operands[-1] == "":
                operands.pop()
            attrs = self.attrs | ({"q_num_heads": self.heads, "kv_num_heads": self.kv_heads} if self.flat else {})
            self.nodes.append(helper.make_node("Attention", operands, [*results, *self.outputs], "attention", **attrs))
            if self.flat:
                return "y"
            turned = self.add("Transpose", ["y"], "joined", perm=[0, 2, 1, 3])
            return self.add("Reshape", [turned, self.ints(0, 0, self.heads * self.dim)], "flat")

        def _mask(self, mask):
            if not mask:
                return ""
            if mask == "cut":
                allowed = self._allowed("causal")
                return self.add("Slice", [allowed, self.ints(0), self.ints(-1), self.ints(1)], "cut")
            allowed = self._allowed("window" if "window" in mask else "causal")
            if mask.startswith("float"):
                low, zero = self.constant("low", np.float32(-np.inf)), self.constant("zero", np.float32(0))
                return self.add("Where", [allowed, zero, low], "added")
            return self.add("Unsqueeze", [allowed, self.ints(0, 1)], "mask4") if mask.endswith("4") else allowed

        def total(self):
            """[batch] of the number of all keys."""
            return self.add("ReduceSum", ["attention_mask", self.ints(1)], "filled", keepdims=0)

        def ones(self):
            shape = self.add("Shape", ["input_ids"], "ids_shape", start=0, end=1)
            return self.add("Expand", [self.ints(1), shape], "filled")

    return Model


SIZES = [(1, 7, 0), (2, 3, 5), (2, 1, 9)]


def _agrees(pair):
    for batch, seq, past in SIZES:
        tokens = np.random.default_rng(1).integers(0, 40, (batch, seq))
        positions = np.tile(np.arange(past, past + seq), (batch, 1))
        arguments = tokens, positions, pair.cache(batch, past)
        for ours, theirs in zip(pair.run(*arguments), pair.onnx(*arguments), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def described(value: object) -> str:
    """The name of a case: functions lie somewhere else in every process, and names must not."""
    return re.sub("<function .*? at 0x[0-9a-f]+>", "made", str(value))


@pytest.mark.parametrize(
    "options",
    [
        {"is_causal": 1, "opset": 23},
        {"is_causal": 1},
        {"is_causal": 1, "flat": True},
        {"is_causal": 1, "kv_heads": 4, "flat": True},
        {"is_causal": 1, "kv_heads": 1},
        {"is_causal": 1, "scale": 0.3, "softcap": 2.0},
        {"is_causal": 1, "softmax_precision": int(TensorProto.FLOAT)},
        {"mask": "bool", "cache": "outside", "opset": 23},
        {"mask": "bool-4", "cache": "outside"},
        {"mask": "float", "flat": True},
        {"mask": "window"},
        {"mask": "float-window", "is_causal": 1},
        {"is_causal": 1, "cache": "outside", "extra": [(6, lambda model: model.total())]},
        {"is_causal": 1, "left_window_size": 5, "opset": 25},
        {"left_window_size": 5, "right_window_size": 0, "opset": 25},
    ],
    ids=described,
)
def test_equals_onnxruntime(build, beside_onnxruntime, tmp_path, options):
    pair = beside_onnxruntime(build(**options).save(tmp_path))
    (layer,) = pair.imported.layers
    assert (layer.query_heads, layer.kv_heads) == (4, options.get("kv_heads", 2))
    assert layer.scale == pytest.approx(options.get("scale", 0.25), rel=1e-6)
    assert layer.softcap == options.get("softcap", 0)
    assert layer.window == (6 if "window" in str(options) else 0)
    _agrees(pair)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"is_causal": 1, "outputs": ["scores"]}, "fourth output"),
        ({"is_causal": 0}, "Unknown mask"),
        ({"is_causal": 1, "cache": "outside"}, "Unknown mask"),
        ({"mask": "cut"}, "Unknown mask"),
        ({"is_causal": 1, "softmax_precision": int(TensorProto.DOUBLE)}, "unusual precision"),
        ({"is_causal": 1, "softcap": -1.0}, "negative softcap"),
        ({"is_causal": 1, "scale": -1.0}, "its scale is -1"),
        ({"is_causal": 1, "scale": 0.0}, "its scale is 0"),
        ({"left_window_size": 5, "opset": 25}, "Unknown mask"),
        ({"left_window_size": 5, "right_window_size": 1, "opset": 25}, "Unknown mask"),
        ({"is_causal": 1, "left_window_size": -2, "opset": 25}, "negative window"),
        ({"is_causal": 1, "cache": "outside", "extra": [(6, lambda m: m.ones())]}, "does not hold what it should"),
        ({"is_causal": 1, "extra": [(6, lambda m: m.total())]}, "both a past and nonpad_kv_seqlen"),
        ({"is_causal": 1, "extra": [(5, lambda m: "")]}, "past keys or past values alone"),
        ({"cache": "outside", "outputs": ["again"]}, "without a past"),
        ({"extra": [(3, lambda m: m.constant("ints", np.ones((1, 1), np.int64)))]}, "mask of an unusual type"),
    ],
    ids=described,
)
def test_refused(build, tmp_path, options, message):
    with pytest.raises(FrontendError, match=message):
        import_model(build(**options).save(tmp_path))


def test_a_cache_written_in_place_is_refused(build, tmp_path):
    model = build(is_causal=1)
    lengths = model.add("ReduceSum", ["attention_mask", model.ints(1)], "filled", keepdims=0)
    model.add("TensorScatter", ["past_key_values.0.key", "k", lengths], "written", axis=2)
    model.nodes = [node for node in model.nodes if node.name != "attention"]
    operands = ["q", "written", "past_key_values.0.value"]
    model.nodes.append(helper.make_node("Attention", operands, ["y"], is_causal=1))
    with pytest.raises(FrontendError, match=r"TensorScatter(.|\n)*node_written"):
        import_model(model.save(tmp_path))
