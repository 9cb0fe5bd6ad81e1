"""One Relax builder for each operation that can remain in a canonical graph (ONNX operator specification, 14-18)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax, tirx

from tqc import dialect
from tqc.errors import FrontendError

from .folding import DIMS
from .graph import Node
from .interface import POSITIONS, TOKENS

Builder = Callable[["Operands", Node], relax.Expr]


class Operands:
    """The operands of one node while it is built: Relax expressions, or the values of constants."""

    def __init__(self, node: Node, exprs: list[relax.Expr | None], constants: list[np.ndarray | None], context: Any):
        self.node, self.exprs, self.constants, self.context = node, exprs, constants, context

    def __len__(self) -> int:
        return len(self.exprs)

    def __getitem__(self, index: int) -> relax.Expr:
        return self.exprs[index]

    def emit(self, expr: relax.Expr) -> relax.Expr:
        return self.context.emit(expr)

    def has(self, index: int) -> bool:
        return index < len(self.exprs) and bool(self.node.inputs[index])

    def value(self, index: int, attribute: str = "") -> np.ndarray | None:
        """The constant operand, or the attribute that held it in older opsets, None if left out; else FrontendError."""
        if attribute in self.node.attrs:
            return np.asarray(self.node.attrs[attribute])
        if not self.has(index):
            return None
        if self.constants[index] is None:
            raise FrontendError(
                "An operand must be constant.", where=self.node.label, found=f"operand {self.node.inputs[index]}"
            )
        return self.constants[index]

    def ints(self, index: int, attribute: str = "") -> list[int] | None:
        value = self.value(index, attribute)
        return None if value is None else [int(v) for v in value.reshape(-1)]

    def shape(self, index: int) -> list[Any]:
        return list(self.exprs[index].ty.shape)


def _unary(build: Callable[[relax.Expr], relax.Expr]) -> Builder:
    return lambda x, node: build(x[0])


def _binary(build: Callable[[relax.Expr, relax.Expr], relax.Expr]) -> Builder:
    return lambda x, node: build(x[0], x[1])


def _fold_left(build: Callable[[relax.Expr, relax.Expr], relax.Expr]) -> Builder:
    def apply(x: Operands, node: Node) -> relax.Expr:
        result = x[0]
        for index in range(1, len(x)):
            result = x.emit(build(result, x[index]))
        return result

    return apply


def _dtype(x: relax.Expr) -> str:
    dtype = x.ty.dtype
    return str(getattr(dtype, "dtype", dtype))


def _like(x: relax.Expr, value: float) -> relax.Expr:
    return relax.const(value, _dtype(x))


def _product(x: Operands, a: relax.Expr, b: relax.Expr) -> relax.Expr:
    """a @ b; products of narrow floats are summed in float32, as torch and onnxruntime do; TVM does not by itself.

    What meets a bfloat16 weight is float32 otherwise, and rounded for the product as the exporter's graph rounds it.
    """
    if _dtype(b) == "bfloat16":
        return relax.op.matmul(x.context.narrowed(a), b, out_dtype="float32")
    if _dtype(a) != "float16":
        return relax.op.matmul(a, b)
    return relax.op.astype(x.emit(relax.op.matmul(a, b, out_dtype="float32")), "float16")


def _gemm(x: Operands, node: Node) -> relax.Expr:
    a, b = x[0], x[1]
    if node.attrs.get("transA"):
        a = x.emit(relax.op.permute_dims(a, [1, 0]))
    if node.attrs.get("transB"):
        b = x.emit(relax.op.permute_dims(b, [1, 0]))
    result = x.emit(_product(x, a, b))
    if (alpha := node.attrs.get("alpha", 1.0)) != 1.0:
        result = x.emit(relax.op.multiply(result, _like(result, alpha)))
    if not x.has(2):
        return result
    c, beta = x[2], node.attrs.get("beta", 1.0)
    if beta != 1.0:
        c = x.emit(relax.op.multiply(c, _like(c, beta)))
    return relax.op.add(result, c)


def _gather(x: Operands, node: Node) -> relax.Expr:
    """Clipping keeps a token id outside the vocabulary from reading foreign memory; so ONNX's indices from the end are
    counted from the start first. Token ids and positions themselves are never negative."""
    axis, indices, constant = node.attrs.get("axis", 0), x[1], x.constants[1]
    extent = x.shape(0)[axis]
    if constant is not None and (constant < 0).any():
        if not isinstance(extent, tirx.IntImm):
            raise FrontendError("An index counts from the end of a dimension that varies.", where=node.label)
        indices = relax.const(np.where(constant < 0, constant + int(extent), constant))
    elif constant is None and node.inputs[1] not in (TOKENS, POSITIONS) and isinstance(extent, tirx.IntImm):
        from_end = x.emit(relax.op.add(indices, _like(indices, int(extent))))
        indices = x.emit(relax.op.where(x.emit(relax.op.less(indices, _like(indices, 0))), from_end, indices))
    rows = relax.op.take(x[0], indices, axis, mode="clip")
    return relax.op.astype(x.emit(rows), "float32") if _dtype(x[0]) == "bfloat16" else rows


def _slice(x: Operands, node: Node) -> relax.Expr:
    starts, ends = x.ints(1), x.ints(2)
    rank = len(x.shape(0))
    axes = [axis % rank for axis in x.ints(3) or range(len(starts))]
    steps = x.ints(4) or [1] * len(starts)
    return relax.op.strided_slice(x[0], axes, starts, ends, steps)


def _split(x: Operands, node: Node) -> relax.Expr:
    axis = node.attrs.get("axis", 0)
    sizes = x.ints(1)
    if sizes is None:
        return relax.op.split(x[0], node.attrs.get("num_outputs", len(node.outputs)), axis)
    return relax.op.split(x[0], [int(end) for end in np.cumsum(sizes)[:-1]], axis)


def _squeeze(x: Operands, node: Node) -> relax.Expr:
    return relax.op.squeeze(x[0], x.ints(1))


def _reduce(build: Callable[..., relax.Expr]) -> Builder:
    def apply(x: Operands, node: Node) -> relax.Expr:
        axes = x.ints(1, "axes") or None
        if axes is None and node.attrs.get("noop_with_empty_axes", 0):
            return x[0]
        return build(x[0], axes, bool(node.attrs.get("keepdims", 1)))

    return apply


def _layer_norm(x: Operands, node: Node) -> relax.Expr:
    rank = len(x.shape(0))
    axes = list(range(node.attrs.get("axis", -1) % rank, rank))
    epsilon = node.attrs.get("epsilon", 1e-5)
    bias = x[2] if x.has(2) else x.emit(relax.op.zeros_like(x[1]))
    return relax.op.nn.layer_norm(x[0], x[1], bias, axes, epsilon)


def _pow(x: Operands, node: Node) -> relax.Expr:
    """The exponent may be an integer; the result has the base's type."""
    exponent = x[1] if _dtype(x[0]) == _dtype(x[1]) else x.emit(relax.op.astype(x[1], _dtype(x[0])))
    return relax.op.power(x[0], exponent)


def _clip(x: Operands, node: Node) -> relax.Expr:
    low, high = x.value(1), x.value(2)
    bounds = [float(v.reshape(())) if v is not None else limit for v, limit in ((low, -np.inf), (high, np.inf))]
    return relax.op.clip(x[0], min(bounds), bounds[1])  # ONNX: where min > max, all is max


def _attention(x: Operands, node: Node) -> relax.Expr:
    return dialect.attention(*x.exprs, **node.attrs)


def _rms_norm(x: Operands, node: Node) -> relax.Expr:
    if len(x.shape(1)) != 1:
        raise FrontendError("A norm's factors are no vector.", where=node.label, found=str(x.shape(1)))
    return dialect.rms_norm(x[0], x[1], **node.attrs)


def _gelu(x: Operands, node: Node) -> relax.Expr:
    return relax.op.nn.gelu_tanh(x[0]) if node.attrs.get("approximate") == "tanh" else relax.op.nn.gelu(x[0])


BUILDERS: dict[str, Builder] = {
    "Abs": _unary(relax.op.abs),
    "Add": _binary(relax.op.add),
    "And": _binary(relax.op.logical_and),
    "Cast": lambda x, node: relax.op.astype(x[0], x.context.types[node.outputs[0]]),
    "Clip": _clip,
    "Concat": lambda x, node: relax.op.concat(list(x.exprs), node.attrs["axis"]),
    "Cos": _unary(relax.op.cos),
    "Div": _binary(relax.op.divide),
    "Equal": _binary(relax.op.equal),
    "Erf": _unary(relax.op.erf),
    "Exp": _unary(relax.op.exp),
    "Expand": lambda x, node: relax.op.broadcast_to(x[0], x.context.dims(node.attrs[DIMS])),
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "Greater": _binary(relax.op.greater),
    "GreaterOrEqual": _binary(relax.op.greater_equal),
    "LayerNormalization": _layer_norm,
    "Less": _binary(relax.op.less),
    "LessOrEqual": _binary(relax.op.less_equal),
    "Log": _unary(relax.op.log),
    "MatMul": lambda x, node: _product(x, x[0], x[1]),
    "Max": _fold_left(relax.op.maximum),
    "Min": _fold_left(relax.op.minimum),
    "Mul": _binary(relax.op.multiply),
    "Neg": _unary(relax.op.negative),
    "Not": _unary(relax.op.logical_not),
    "Or": _binary(relax.op.logical_or),
    "Pow": _pow,
    "Reciprocal": lambda x, node: relax.op.divide(_like(x[0], 1.0), x[0]),
    "ReduceMax": _reduce(relax.op.max),
    "ReduceMean": _reduce(relax.op.mean),
    "ReduceMin": _reduce(relax.op.min),
    "ReduceSum": _reduce(relax.op.sum),
    "Relu": _unary(relax.op.nn.relu),
    "Reshape": lambda x, node: relax.op.reshape(x[0], x.context.dims(node.attrs[DIMS])),
    "Sigmoid": _unary(relax.op.sigmoid),
    "Sin": _unary(relax.op.sin),
    "Slice": _slice,
    "Softmax": lambda x, node: relax.op.nn.softmax(x[0], node.attrs.get("axis", -1)),
    "Split": _split,
    "Sqrt": _unary(relax.op.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(relax.op.subtract),
    "Tanh": _unary(relax.op.tanh),
    "Transpose": lambda x, node: relax.op.permute_dims(x[0], node.attrs.get("perm")),
    "Unsqueeze": lambda x, node: relax.op.expand_dims(x[0], x.ints(1)),
    "Where": lambda x, node: relax.op.where(x[0], x[1], x[2]),
    "tqc::Attention": _attention,
    "tqc::GatherNBits": lambda x, node: dialect.gather_nbits(*x.exprs, **node.attrs),
    "tqc::MatMulNBits": lambda x, node: dialect.matmul_nbits(*x.exprs, **node.attrs),
    "tqc::RMSNorm": _rms_norm,
    "tqc::Rope": lambda x, node: dialect.rope(x[0], x.context.positions, x[1], **node.attrs),
}
"""Kind of a canonical node → its builder; several outputs come as a tuple."""
