"""Models for the frontend's tests: tiny ones as torch exports them, and a handmade one-layer decoder to vary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from tqc.frontend import Imported, import_model


@dataclass(frozen=True)
class Variant:
    """One way to export a tiny model.

    Without `positions` the graph makes them from the sizes; `half` is float16, and `rounded` is float32 with the
    weights of the float16 model.
    """

    arch: str = "llama"
    attention: str = "sdpa"
    opset: int = 17
    positions: bool = True
    half: bool = False
    rounded: bool = False
    head_dim: int = 64
    window: int = 0
    tied: bool = False


VARIANTS = {
    "llama": Variant(attention="eager"),
    "llama-tied": Variant(head_dim=128, tied=True),
    "llama-fp16": Variant(attention="eager", half=True, positions=False),
    "mistral": Variant("mistral", head_dim=80, window=16),
    "mistral-14": Variant("mistral", attention="eager", opset=14, positions=False, window=16),
    "qwen2": Variant("qwen2", attention="eager", head_dim=96),
    "qwen2-fp16": Variant("qwen2", opset=18, half=True),
    "llama-rounded": Variant(attention="eager", rounded=True, positions=False),
    "qwen2-rounded": Variant("qwen2", opset=18, rounded=True),
}


def _with_flat_cache(model: Any, positions: bool) -> Any:
    """The model as a module that takes and returns the cache as separate tensors."""
    import torch
    from transformers import DynamicCache

    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask, *rest):
            options = {"position_ids": rest[0]} if positions else {}
            flat = rest[1:] if positions else rest
            cache = DynamicCache()
            for layer in range(len(flat) // 2):
                cache.update(flat[2 * layer], flat[2 * layer + 1], layer)
            out = model(input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True, **options)
            return out.logits, *(t for layer in out.past_key_values.layers for t in (layer.keys, layer.values))

    return Wrapper().eval()


def _export(variant: Variant, path: Path) -> None:
    torch = pytest.importorskip("torch", reason="models are exported with the extra `export`")
    from tqc.models.tiny import tiny_model

    model = tiny_model(variant.arch, head_dim=variant.head_dim, window=variant.window, tied=variant.tied)
    model.set_attn_implementation(variant.attention)
    dtype = torch.float16 if variant.half else torch.float32
    model = model.half() if variant.rounded else model
    layers, heads = model.config.num_hidden_layers, model.config.num_key_value_heads
    batch, seq, past = 2, 3, 5
    cache = {
        f"past_key_values.{layer}.{side}": torch.zeros(batch, heads, past, variant.head_dim, dtype=dtype)
        for layer in range(layers)
        for side in ("key", "value")
    }
    inputs = {
        "input_ids": torch.ones(batch, seq, dtype=torch.long),
        "attention_mask": torch.ones(batch, past + seq, dtype=torch.long),
    }
    if variant.positions:
        inputs["position_ids"] = torch.arange(past, past + seq).repeat(batch, 1)
    outputs = ["logits", *(name.replace("past_key_values", "present") for name in cache)]
    axes = {name: {0: "batch", 1: "seq"} for name in (*inputs, "logits")} | {"attention_mask": {0: "batch", 1: "total"}}
    axes |= {name: {0: "batch", 2: "past"} for name in cache} | {name: {0: "batch", 2: "total"} for name in outputs[1:]}
    with torch.no_grad():
        torch.onnx.export(
            _with_flat_cache(model.to(dtype), variant.positions),
            (*inputs.values(), *cache.values()),
            path,
            dynamo=False,
            opset_version=variant.opset,
            input_names=[*inputs, *cache],
            output_names=outputs,
            dynamic_axes=axes,
        )


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`exported("llama")` → the path of a variant's model.onnx, exported once a run; only read it."""
    folder, made = tmp_path_factory.mktemp("exported"), {}

    def export(name: str) -> Path:
        if name not in made:
            made[name] = folder / f"{name}.onnx"
            _export(VARIANTS[name], made[name])
        return made[name]

    return export


class Pair:
    """An imported model, compiled for the CPU, beside the same file in onnxruntime."""

    def __init__(self, path: Path) -> None:
        self.imported: Imported = import_model(path)
        self._session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        executable = relax.build(self.imported.mod, tvm.target.Target("llvm"))
        self._main = relax.VirtualMachine(executable, tvm.cpu())["main"]
        self._weights = [tvm.runtime.tensor(weight.numpy()) for weight in self.imported.weights.values()]

    def cache(self, batch: int, past: int, seed: int = 0) -> list[np.ndarray]:
        """Random past keys and values, [batch, kv_heads, past, head_dim], key and value of each layer."""
        random = np.random.default_rng(seed)
        shapes = [(batch, layer.kv_heads, past, layer.head_dim) for layer in self.imported.layers for _ in range(2)]
        return [random.standard_normal(shape, np.float32).astype(self.imported.dtype) for shape in shapes]

    def run(self, tokens: np.ndarray, positions: np.ndarray, cache: list[np.ndarray]) -> list[np.ndarray]:
        arguments = [tvm.runtime.tensor(np.ascontiguousarray(a)) for a in (tokens, positions, *cache)]
        return [result.numpy() for result in self._main(*arguments, *self._weights)]

    def onnx_at(self, path: Path, *arguments) -> list[np.ndarray]:
        """What another file with the same interface computes in onnxruntime, in float32."""
        tokens, positions, cache = arguments
        other = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        return self._feed(other, tokens, positions, [a.astype(np.float32) for a in cache], None)

    def onnx(self, tokens, positions, cache: list[np.ndarray], mask: np.ndarray | None = None) -> list[np.ndarray]:
        return self._feed(self._session, tokens, positions, cache, mask)

    @staticmethod
    def _feed(session, tokens, positions, cache, mask) -> list[np.ndarray]:
        mask = np.ones((len(tokens), tokens.shape[1] + cache[0].shape[2]), np.int64) if mask is None else mask
        feeds = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}
        names = (f"past_key_values.{n}.{side}" for n in range(len(cache) // 2) for side in ("key", "value"))
        feeds |= dict(zip(names, cache, strict=True))
        return session.run(None, {entry.name: feeds[entry.name] for entry in session.get_inputs()})


@pytest.fixture(scope="session")
def pair(exported: Callable[[str], Path]) -> Callable[[str], Pair]:
    """`pair("llama")` → a variant compiled and in onnxruntime, made once a run."""
    made: dict[str, Pair] = {}

    def make(name: str) -> Pair:
        if name not in made:
            made[name] = Pair(exported(name))
        return made[name]

    return make


@pytest.fixture
def pair_at() -> type[Pair]:
    """`pair_at(path)` → the model there, compiled and in onnxruntime."""
    return Pair


class Decoder:
    """A one-layer decoder written by hand: 2 query heads, 1 KV head, head_dim 16, width 32, vocabulary 40.

    Positions do not matter in it. `mask` names how scores are masked; `repeat` how the KV head is repeated.
    """

    heads, kv_heads, dim, width, vocab = 4, 2, 16, 32, 40
    opset = 17

    def __init__(self, mask: str = "causal", repeat: str = "expand", dim: int = 16, window: int = 6) -> None:
        self.dim, self.window = dim, window
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)
        self._build(mask, repeat)

    def constant(self, name: str, value: np.ndarray) -> str:
        if all(tensor.name != name for tensor in self.initializers):
            self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant("ints_" + "_".join(map(str, values)), np.array(values, np.int64))

    def int(self, value: int) -> str:
        return self.constant(f"int_{value}", np.array(value, np.int64))

    def weight(self, name: str, *shape: int) -> str:
        return self.constant(name, self.random.standard_normal(shape, np.float32) / 4)

    def add(self, op: str, inputs: list[str], output: str, **attrs) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"node_{output}", **attrs))
        return output

    def _size(self, tensor: str, axis: int, output: str) -> str:
        shape = self.add("Shape", [tensor], f"{output}_shape")
        return self.add("Gather", [shape, self.int(axis)], output, axis=0)

    def _heads(self, x: str, name: str, heads: int) -> str:
        product = self.add("MatMul", [x, self.weight(f"w_{name}", self.width, heads * self.dim)], f"{name}_product")
        split = self.add("Reshape", [product, self.ints(0, 0, heads, self.dim)], f"{name}_split")
        return self.add("Transpose", [split], name, perm=[0, 2, 1, 3])

    def _repeat(self, x: str, how: str) -> str:
        group = self.heads // self.kv_heads
        if how == "none":
            return x
        axis = 2 if how == "expand" else 1
        spread = self.add("Unsqueeze", [x, self.ints(axis)], f"{x}_spread")
        target = [1, 1, 1, 1, 1]
        target[axis] = group
        wide = self.add("Expand", [spread, self.ints(*target)], f"{x}_wide")
        return self.add("Reshape", [wide, self.ints(0, self.heads, -1, self.dim)], f"{x}_repeated")

    def _allowed(self, mask: str) -> str:
        """Boolean [seq, total] of the visible keys."""
        past, seq = self._size("past_key_values.0.key", 2, "past_size"), self._size("input_ids", 1, "seq_size")
        total = self.add("Add", [past, seq], "total_size")
        queries = self.add("Range", [past, total, self.int(1)], "queries_flat")
        i = self.add("Unsqueeze", [queries, self.ints(1)], "i")
        j = self.add("Range", [self.int(0), total, self.int(1)], "j")
        causal = self.add("LessOrEqual", [j, i], "causal")
        if mask == "window":
            first = self.add("Sub", [i, self.int(self.window)], "first")
            return self.add("And", [causal, self.add("Greater", [j, first], "recent")], "allowed")
        if mask == "strict":
            return self.add("Less", [j, i], "allowed")
        if mask == "dilated":
            even = self.add("Mod", [self.add("Sub", [i, j], "distance"), self.int(2)], "odd")
            return self.add("And", [causal, self.add("Equal", [even, self.int(0)], "even")], "allowed")
        if mask == "bidirectional":
            return self.add("GreaterOrEqual", [self.add("Add", [i, j], "sum"), self.int(0)], "allowed")
        return causal

    def _masked(self, scores: str, mask: str) -> str:
        if mask == "none":
            return scores
        allowed = self._allowed(mask)
        low, zero = self.constant("low", np.float32(-np.inf)), self.constant("zero", np.float32(0))
        if mask == "select":
            return self.add("Where", [allowed, scores, low], "masked")
        added = self.add("Where", [allowed, zero, low], "added")
        if mask == "biased":
            distance = self.add("Cast", ["j"], "slope", to=TensorProto.FLOAT)
            added = self.add("Add", [added, distance], "biased")
        if mask == "padded":
            key = self.add("Unsqueeze", ["attention_mask", self.ints(1, 2)], "keys")
            real = self.add("Cast", [key], "real", to=TensorProto.BOOL)
            added = self.add("Add", [added, self.add("Where", [real, zero, low], "padding")], "added_padding")
        return self.add("Add", [scores, added], "masked")

    def _attention(self, x: str, mask: str, repeat: str) -> str:
        """[batch, seq, heads * dim], and defines present.0.key and present.0.value; other decoders override this."""
        kv_heads = self.heads if repeat == "none" else self.kv_heads
        q, k, v = self._heads(x, "q", self.heads), self._heads(x, "k", kv_heads), self._heads(x, "v", kv_heads)
        self.kv_heads = kv_heads
        self.add("Concat", ["past_key_values.0.key", k], "present.0.key", axis=2)
        self.add("Concat", ["past_key_values.0.value", v], "present.0.value", axis=2)
        keys, values = self._repeat("present.0.key", repeat), self._repeat("present.0.value", repeat)
        turned = self.add("Transpose", [keys], "keys_turned", perm=[0, 1, 3, 2])
        scores = self.add("Mul", [self.add("MatMul", [q, turned], "raw"), self.constant("scale", np.float32(0.3))], "s")
        weights = self.add("Softmax", [self._masked(scores, mask)], "weights", axis=-1)
        mixed = self.add("Transpose", [self.add("MatMul", [weights, values], "y")], "joined", perm=[0, 2, 1, 3])
        return self.add("Reshape", [mixed, self.ints(0, 0, self.heads * self.dim)], "flat")

    def _build(self, mask: str, repeat: str) -> None:
        x = self.add("Gather", [self.weight("embedding", self.vocab, self.width), "input_ids"], "x")
        flat = self._attention(x, mask, repeat)
        out = self.add("MatMul", [flat, self.weight("w_o", self.heads * self.dim, self.width)], "out")
        total = self.add("Add", [out, x], "residual")
        self.add("MatMul", [total, self.weight("w_logits", self.width, self.vocab)], "logits")

    def model(self) -> onnx.ModelProto:
        def info(name: str, dtype: int, *shape: int | str) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, dtype, shape)

        inputs = [info("input_ids", TensorProto.INT64, "batch", "seq")]
        inputs += [info("attention_mask", TensorProto.INT64, "batch", "total")]
        sides, shape = ("key", "value"), ("batch", self.kv_heads)
        inputs += [info(f"past_key_values.0.{side}", TensorProto.FLOAT, *shape, "past", self.dim) for side in sides]
        outputs = [info("logits", TensorProto.FLOAT, "batch", "seq", self.vocab)]
        outputs += [info(f"present.0.{side}", TensorProto.FLOAT, *shape, "total", self.dim) for side in sides]
        graph = helper.make_graph(self.nodes, "decoder", inputs, outputs, self.initializers)
        domains = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=domains, ir_version=8 if self.opset < 19 else 11)

    def save(self, folder: Path) -> Path:
        path = folder / "model.onnx"
        onnx.save(self.model(), path)
        return path


@pytest.fixture
def decoder() -> type[Decoder]:
    return Decoder


@pytest.fixture
def beside_onnxruntime() -> type[Pair]:
    """`beside_onnxruntime(path)` → a model compiled and in onnxruntime, for models of one test."""
    return Pair
