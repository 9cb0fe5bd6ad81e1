"""Llama decoders of any size in ONNX, written without PyTorch: what is larger than memory cannot be traced.

The graph is what torch's exporter writes for eager attention; the weights lie in one file beside it, as random numbers
that repeat every 16 MB, or as a hole that takes no disk space and reads as zeros.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
GRAPH_FILE, DATA_FILE = "model.onnx", "model.onnx.data"
ALIGNMENT = 4096
"""Bytes at whose multiples a tensor starts in the data file."""


@dataclass(frozen=True)
class Geometry:
    """Sizes of a Llama model; `dtype` is `float32` or `float16`."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    dtype: str = "float32"


def write_large(folder: Path, geometry: Geometry, *, random: bool = True) -> Path:
    """Writes model.onnx and model.onnx.data into the existing `folder`; returns the path of the graph.

    Inputs and outputs are those of `trace.write_onnx`. The logits have a vocabulary matrix of their own. Without
    `random` all weights are zeros.
    """
    decoder = _Decoder(geometry)
    decoder.build()
    (folder / GRAPH_FILE).write_bytes(decoder.model().SerializeToString())
    with (folder / DATA_FILE).open("wb") as data:
        if random:
            numbers = np.random.default_rng(0).standard_normal(1 << 22, np.float32) * 0.02
            block = memoryview(numbers.astype(geometry.dtype)).cast("B")
            for start in range(0, decoder.end, len(block)):
                data.write(block[: decoder.end - start])
        data.truncate(decoder.end)
    return folder / GRAPH_FILE


class _Decoder:
    """Collects nodes and initialisers; `end` is the size of the data file so far."""

    def __init__(self, geometry: Geometry) -> None:
        self.sizes, self.end = geometry, 0
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.element = helper.np_dtype_to_tensor_dtype(np.dtype(geometry.dtype))

    def add(self, op: str, inputs: list[str], output: str, **attrs) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"/{output}/{op}", **attrs))
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        self.initializers.setdefault(name, numpy_helper.from_array(np.asarray(value), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant("ints_" + "_".join(map(str, values)), np.array(values, np.int64))

    def number(self, name: str, value: float, dtype: str | None = None) -> str:
        return self.constant(name, np.array(value, dtype or self.sizes.dtype))

    def weight(self, name: str, *shape: int) -> str:
        size = math.prod(shape) * np.dtype(self.sizes.dtype).itemsize
        tensor = TensorProto(name=name, data_type=self.element, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", DATA_FILE), ("offset", self.end), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
        self.initializers[name] = tensor
        self.end += -(-size // ALIGNMENT) * ALIGNMENT
        return name

    def linear(self, x: str, name: str, rows: int, columns: int) -> str:
        return self.add("MatMul", [x, self.weight(f"{name}.weight", rows, columns)], name)

    def norm(self, x: str, name: str) -> str:
        x = self.add("Cast", [x], f"{name}.wide", to=TensorProto.FLOAT)
        square = self.add("Pow", [x, self.number("two", 2, "float32")], f"{name}.square")
        mean = self.add("ReduceMean", [square], f"{name}.mean", axes=[-1], keepdims=1)
        root = self.add(
            "Sqrt", [self.add("Add", [mean, self.number("epsilon", 1e-5, "float32")], f"{name}.sum")], f"{name}.root"
        )
        normal = self.add("Div", [x, root], f"{name}.normal")
        normal = self.add("Cast", [normal], f"{name}.narrow", to=self.element)
        return self.add("Mul", [normal, self.weight(f"{name}.weight", self.sizes.hidden)], name)

    def angles(self) -> tuple[str, str]:
        """cos and sin, [batch, 1, seq, head_dim]."""
        half = self.sizes.head_dim // 2
        frequencies = (10000.0 ** (-np.arange(half) / half)).astype(np.float32)
        column = self.add("Unsqueeze", ["position_ids", self.ints(1, 3)], "positions")
        column = self.add("Cast", [column], "positions_float", to=TensorProto.FLOAT)
        angle = self.add("Mul", [column, self.constant("inv_freq", frequencies)], "angle")
        angle = self.add("Concat", [angle, angle], "angles", axis=-1)
        found = [self.add(op, [angle], f"{op.lower()}_wide") for op in ("Cos", "Sin")]
        cos, sin = (self.add("Cast", [name], name[:3], to=self.element) for name in found)
        return cos, sin

    def rotate(self, x: str, cos: str, sin: str) -> str:
        half = self.sizes.head_dim // 2
        low = self.add("Slice", [x, self.ints(0), self.ints(half), self.ints(3)], f"{x}.low")
        high = self.add("Slice", [x, self.ints(half), self.ints(2 * half), self.ints(3)], f"{x}.high")
        turned = self.add("Concat", [self.add("Neg", [high], f"{x}.minus"), low], f"{x}.turned", axis=-1)
        sides = [self.add("Mul", [a, b], f"{a}.{b}") for a, b in ((x, cos), (turned, sin))]
        return self.add("Add", sides, f"{x}.rotated")

    def mask(self) -> str:
        """[seq, total]: 0 where a query sees a key, else minus infinity."""

        def size(tensor: str, axis: int) -> str:
            shape = self.add("Shape", [tensor], f"{tensor}.shape")
            return self.add("Gather", [shape, self.constant(f"int_{axis}", np.int64(axis))], f"{tensor}.size", axis=0)

        zero, one = self.constant("int_0", np.int64(0)), self.constant("int_1", np.int64(1))
        past = size("past_key_values.0.key", 2)
        total = self.add("Add", [past, size("input_ids", 1)], "total")
        rows = self.add("Range", [past, total, one], "rows")
        column = self.add("Unsqueeze", [rows, self.ints(1)], "rows_column")
        seen = self.add("LessOrEqual", [self.add("Range", [zero, total, one], "columns"), column], "seen")
        return self.add("Where", [seen, self.number("zero", 0.0), self.number("minus_infinity", -np.inf)], "mask")

    def attention(self, x: str, layer: int, angles: tuple[str, str], mask: str) -> str:
        s, name = self.sizes, f"layers.{layer}.self_attn"
        group = s.heads // s.kv_heads

        def heads(side: str, count: int) -> str:
            flat = self.linear(x, f"{name}.{side}_proj", s.hidden, count * s.head_dim)
            split = self.add("Reshape", [flat, self.ints(0, 0, count, s.head_dim)], f"{name}.{side}_split")
            return self.add("Transpose", [split], f"{name}.{side}", perm=[0, 2, 1, 3])

        def cached(fresh: str, side: str) -> str:
            joined = self.add("Concat", [f"past_key_values.{layer}.{side}", fresh], f"present.{layer}.{side}", axis=2)
            spread = self.add("Unsqueeze", [joined, self.ints(2)], f"{name}.{side}_spread")
            wide = self.add("Expand", [spread, self.ints(1, 1, group, 1, 1)], f"{name}.{side}_wide")
            return self.add("Reshape", [wide, self.ints(0, s.heads, -1, s.head_dim)], f"{name}.{side}_repeated")

        q = self.rotate(heads("q", s.heads), *angles)
        k = cached(self.rotate(heads("k", s.kv_heads), *angles), "key")
        v = cached(heads("v", s.kv_heads), "value")
        turned = self.add("Transpose", [k], f"{name}.k_turned", perm=[0, 1, 3, 2])
        raw = self.add("MatMul", [q, turned], f"{name}.raw")
        scores = self.add("Mul", [raw, self.number("scale", s.head_dim**-0.5)], f"{name}.scores")
        masked = self.add("Add", [scores, mask], f"{name}.masked")
        weights = self.add("Softmax", [masked], f"{name}.weights", axis=-1)
        mixed = self.add("Transpose", [self.add("MatMul", [weights, v], f"{name}.y")], f"{name}.mix", perm=[0, 2, 1, 3])
        flat = self.add("Reshape", [mixed, self.ints(0, 0, s.heads * s.head_dim)], f"{name}.flat")
        return self.linear(flat, f"{name}.o_proj", s.heads * s.head_dim, s.hidden)

    def mlp(self, x: str, layer: int) -> str:
        s, name = self.sizes, f"layers.{layer}.mlp"
        gate, up = (self.linear(x, f"{name}.{side}_proj", s.hidden, s.intermediate) for side in ("gate", "up"))
        active = self.add("Mul", [gate, self.add("Sigmoid", [gate], f"{name}.sigmoid")], f"{name}.active")
        return self.linear(self.add("Mul", [active, up], f"{name}.product"), f"{name}.down", s.intermediate, s.hidden)

    def build(self) -> None:
        s = self.sizes
        x = self.add("Gather", [self.weight("embed_tokens.weight", s.vocab, s.hidden), "input_ids"], "embedded")
        angles, mask = self.angles(), self.mask()
        for layer in range(s.layers):
            normal = self.norm(x, f"layers.{layer}.input_layernorm")
            x = self.add("Add", [x, self.attention(normal, layer, angles, mask)], f"layers.{layer}.middle")
            normal = self.norm(x, f"layers.{layer}.post_attention_layernorm")
            x = self.add("Add", [x, self.mlp(normal, layer)], f"layers.{layer}")
        head = self.weight("lm_head.weight", s.vocab, s.hidden)
        turned = self.add("Transpose", [head], "lm_head.turned", perm=[1, 0])
        self.add("MatMul", [self.norm(x, "norm"), turned], "logits")

    def model(self) -> onnx.ModelProto:
        s, ids = self.sizes, TensorProto.INT64
        caches = [f"{layer}.{side}" for layer in range(s.layers) for side in ("key", "value")]
        info = helper.make_tensor_value_info
        inputs = [info(name, ids, ["batch", "seq"]) for name in ("input_ids", "position_ids")]
        inputs += [info("attention_mask", ids, ["batch", "past + seq"])]
        shape = ["batch", s.kv_heads, "past", s.head_dim]
        inputs += [info(f"past_key_values.{name}", self.element, shape) for name in caches]
        outputs = [info("logits", self.element, ["batch", "seq", s.vocab])]
        shape[2] = "past + seq"
        outputs += [info(f"present.{name}", self.element, shape) for name in caches]
        graph = helper.make_graph(self.nodes, "large", inputs, outputs, list(self.initializers.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
