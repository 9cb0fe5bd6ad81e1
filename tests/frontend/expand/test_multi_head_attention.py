"""onnxruntime's MultiHeadAttention: decoders made of it are imported whole, and compute what onnxruntime computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tqc.errors import FrontendError
from tqc.frontend import import_model

OPERANDS = [
    *("query", "key", "value", "bias", "key_padding_mask", "attention_bias", "past_key", "past_value"),
    *("past_sequence_length", "cache_indirection"),
]


@pytest.fixture
def build(decoder):
    """`build(...)` → a decoder around one MultiHeadAttention node; `padding`, `bias`, `pack` name its operands."""

    class Model(decoder):
        kv_heads = 4

        def __init__(
            self, *, cache="inside", mask="", bias=False, padding="", pack="", operands=(), outputs=(), **attrs
        ):
            self.cache, self.bias, self.padding, self.pack = cache, bias, padding, pack
            self.operands, self.outputs, self.attrs = dict(operands), outputs, attrs
            super().__init__(mask=mask, repeat="none")

        def _projections(self, x):
            names = ("q", "k", "v")
            wide = [self.weight(f"w_{name}", self.width, self.heads * self.dim) for name in names]
            return [self.add("MatMul", [x, w], name) for name, w in zip(names, wide, strict=True)]

        def _packed(self, parts, name):
            shape = self.ints(0, 0, self.heads, 1, self.dim)
            apart = [self.add("Reshape", [part, shape], f"{part}_apart") for part in parts]
            return self.add("Concat", apart, name, axis=3)

        def _attention(self, x, mask, repeat):
            q, k, v = self._projections(x)
            given = {"query": q, "key": k, "value": v}
            if self.pack == "qkv":
                given = {"query": self._packed([q, k, v], "packed")}
            elif self.pack == "kv":
                given = {"query": q, "key": self._packed([k, v], "packed")}
            pasts, presents = (
                [f"{prefix}.0.{side}" for side in ("key", "value")] for prefix in ("past_key_values", "present")
            )
            results = ["y"]
            if self.cache == "inside":
                given |= dict(zip(("past_key", "past_value"), pasts, strict=True))
                results += presents
            else:
                for past, present, name in zip(pasts, presents, (k, v), strict=True):
                    split = self.add("Reshape", [name, self.ints(0, 0, self.heads, self.dim)], f"{name}_split")
                    fresh = self.add("Transpose", [split], f"{name}_heads", perm=[0, 2, 1, 3])
                    self.add("Concat", [past, fresh], present, axis=2)
                given |= {"key": presents[0], "value": presents[1]}
                if self.cache == "flat":
                    for side, present in zip(("key", "value"), presents, strict=True):
                        turned = self.add("Transpose", [present], f"{present}_turned", perm=[0, 2, 1, 3])
                        target = self.ints(0, 0, self.heads * self.dim)
                        given[side] = self.add("Reshape", [turned, target], f"{present}_flat")
            if self.bias:
                given["bias"] = self.weight("bias", 3 * self.heads * self.dim)
            if mask:
                given["attention_bias"] = self._added(mask)
            if self.padding:
                given["key_padding_mask"] = getattr(self, f"_padding_{self.padding}")()
            given |= self.operands
            operands = [given.get(name, "") for name in OPERANDS]
            while operands[-1] == "":
                operands.pop()
            attrs = {"num_heads": self.heads, "domain": "com.microsoft"} | self.attrs
            results = [*results, *self.outputs]
            self.nodes.append(helper.make_node("MultiHeadAttention", operands, results, "attention", **attrs))
            return "y"

        def _added(self, mask):
            """[1, 1, seq, total] or, `tiled`, [batch, heads, seq, total]."""
            allowed = self._allowed(mask.removesuffix("-tiled"))
            low, zero = self.constant("low", np.float32(-np.inf)), self.constant("zero", np.float32(0))
            added = self.add("Where", [allowed, zero, low], "added_flat")
            added = self.add("Unsqueeze", [added, self.ints(0, 1)], "added")
            if mask == "biased":
                return self.add("Add", [added, self.constant("slope", np.float32(1))], "biased")
            if not mask.endswith("tiled"):
                return added
            batch = self.add("Unsqueeze", [self._size("input_ids", 0, "batch_size"), self.ints(0)], "batch_dim")
            target = self.add("Concat", [batch, self.ints(self.heads), self.ints(1, 1)], "tiles", axis=0)
            return self.add("Tile", [added, target], "tiled")

        def _padding_mask(self):
            return self.add("Cast", ["attention_mask"], "mask32", to=TensorProto.INT32)

        def _padding_mask3(self):
            rows = self.add("Unsqueeze", [self._padding_mask(), self.ints(1)], "rows")
            return self.add("Squeeze", [self.add("Unsqueeze", [rows, self.ints(1)], "rows4"), self.ints(1)], "mask3")

        def _padding_lengths(self):
            total = self.add("ReduceSum", ["attention_mask", self.ints(1)], "filled", keepdims=0)
            return self.add(
                "Reshape", [self.add("Cast", [total], "lengths32", to=TensorProto.INT32), self.ints(-1)], "ls"
            )

        def _padding_short(self):
            fewer = self.add("Sub", [self._padding_lengths(), self.constant("one32", np.int32(1))], "fewer")
            return self.add("Reshape", [fewer, self.ints(-1)], "fewer_flat")

    return Model


CAUSAL = {"unidirectional": 1}


@pytest.mark.parametrize(
    "options",
    [
        CAUSAL,
        CAUSAL | {"bias": True},
        CAUSAL | {"scale": 0.3},
        CAUSAL | {"scale": 0.0},
        CAUSAL | {"padding": "mask"},
        CAUSAL | {"padding": "lengths"},
        {"mask": "causal"},
        {"mask": "causal-tiled"},
        {"mask": "window"},
        {"mask": "causal", "cache": "outside"},
        {"mask": "causal-tiled", "cache": "flat"},
    ],
    ids=str,
)
def test_equals_onnxruntime(build, beside_onnxruntime, tmp_path, options):
    pair = beside_onnxruntime(build(**options).save(tmp_path))
    (layer,) = pair.imported.layers
    assert (layer.query_heads, layer.kv_heads) == (4, 4)
    assert layer.scale == pytest.approx(options.get("scale") or 0.25, rel=1e-6)
    assert layer.window == (6 if options.get("mask") == "window" else 0)
    for batch, seq, past in [(1, 7, 0), (2, 3, 5), (2, 1, 9)]:
        tokens = np.random.default_rng(1).integers(0, 40, (batch, seq))
        positions = np.tile(np.arange(past, past + seq), (batch, 1))
        arguments = tokens, positions, pair.cache(batch, past)
        for ours, theirs in zip(pair.run(*arguments), pair.onnx(*arguments), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pack", ["qkv", "kv"])
def test_packed_operands_equal_separate_ones(build, tmp_path, pack):
    """onnxruntime has packed operands on GPUs only: the truth is the same model with separate ones."""
    import tvm
    from tvm import relax

    def run(**options):
        folder = tmp_path / str(len(options))
        folder.mkdir()
        imported = import_model(build(**CAUSAL, **options).save(folder))
        executable = relax.build(imported.mod, tvm.target.Target("llvm"))
        random = np.random.default_rng(0)
        arguments = [np.arange(6).reshape(2, 3), np.tile(np.arange(5, 8), (2, 1))]
        arguments += [random.standard_normal((2, 4, 5, 16), np.float32) for _ in range(2)]
        arguments += [weight.numpy() for weight in imported.weights.values()]
        return relax.VirtualMachine(executable, tvm.cpu())["main"](*map(tvm.runtime.tensor, arguments))

    for packed, separate in zip(run(pack=pack), run(), strict=True):
        np.testing.assert_allclose(packed.numpy(), separate.numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Unknown mask"),
        ({"mask": "causal", "mask_filter_value": -5.0, "padding": "mask"}, "weakened"),
        (CAUSAL | {"cache": "outside"}, "unidirectional over a cache that it does not have"),
        (CAUSAL | {"outputs": ["qk"]}, "fourth output"),
        (CAUSAL | {"padding": "mask3"}, "form of key_padding_mask"),
        (CAUSAL | {"padding": "short"}, "does not hold what it should"),
        (CAUSAL | {"operands": {"past_sequence_length": "input_ids"}}, "shared between steps"),
        (CAUSAL | {"operands": {"past_value": ""}}, "past keys or past values alone"),
        (CAUSAL | {"pack": "kv", "bias": True}, "packed operands and a bias"),
        (CAUSAL | {"num_heads": 0}, "number of heads"),
        ({"mask": "causal", "cache": "outside", "outputs": ["again"]}, "without a past"),
        ({"mask": "biased"}, "Unknown mask"),
    ],
    ids=str,
)
def test_refused(build, tmp_path, options, message):
    with pytest.raises(FrontendError, match=message) as caught:
        import_model(build(**options).save(tmp_path))
    assert "attention" in str(caught.value)


def test_a_mask_that_differs_between_heads_is_refused(build, tmp_path):
    model = build(mask="causal-tiled")
    slope = model.constant("slope", np.array([0, 0, 0, -1e5], np.float32).reshape(1, 4, 1, 1))
    (node,) = (n for n in model.nodes if n.name == "attention")
    node.input[OPERANDS.index("attention_bias")] = "sloped"
    at = model.nodes.index(node)
    model.add("Add", ["tiled", slope], "sloped")
    model.nodes.insert(at, model.nodes.pop())
    onnx.checker.check_model(model.model())
    with pytest.raises(FrontendError, match="Unknown mask"):
        import_model(model.save(tmp_path))
