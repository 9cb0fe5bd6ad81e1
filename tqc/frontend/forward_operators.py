"""Relax builders for what only graphs without a cache keep: masks made from sizes, reshapes by symbols, Attention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import relax, sym, tirx

from tqc.errors import FrontendError

from .graph import Node
from .operators import BUILDERS, Builder, Operands

_TO_THE_END = 1 << 31


def _target(x: Operands, index: int) -> list[Any]:
    """The sizes that operand `index` holds."""
    found = x.context.sizes(x.node.inputs[index])
    if found is None:
        raise FrontendError("A shape that depends on the data.", where=x.node.label, found=x.node.inputs[index])
    return [int(size) if isinstance(size, np.integer) else size for size in np.ravel(found)]


def _reshape(x: Operands, node: Node) -> relax.Expr:
    old, target = x.shape(0), _target(x, 1)
    if not node.attrs.get("allowzero", 0):
        target = [old[n] if isinstance(size, int) and size == 0 else size for n, size in enumerate(target)]
    if any(isinstance(size, int) and size == -1 for size in target):
        rest = math.prod((s for s in target if not (isinstance(s, int) and s == -1)), start=tirx.IntImm("int64", 1))
        whole = math.prod(old, start=tirx.IntImm("int64", 1))
        missing = _quotient(whole, rest)
        target = [missing if isinstance(size, int) and size == -1 else size for size in target]
    return relax.op.reshape(x[0], [tirx.IntImm("int64", s) if isinstance(s, int) else s for s in target])


def _quotient(whole: tirx.Expr, rest: tirx.Expr) -> tirx.Expr:
    return sym.Analyzer().simplify(tirx.floordiv(sym.Analyzer().simplify(whole), sym.Analyzer().simplify(rest)))


def _flatten(x: Operands, node: Node) -> relax.Expr:
    shape, one = x.shape(0), tirx.IntImm("int64", 1)
    axis = node.attrs.get("axis", 1)
    axis += len(shape) * (axis < 0)  # the rank itself is an axis: all before it
    return relax.op.reshape(x[0], [math.prod(shape[:axis], start=one), math.prod(shape[axis:], start=one)])


def _expand(x: Operands, node: Node) -> relax.Expr:
    old, target = x.shape(0), _target(x, 1)
    rank = max(len(old), len(target))
    old, target = [1] * (rank - len(old)) + old, [1] * (rank - len(target)) + target
    one = [isinstance(s, int | tirx.IntImm) and int(s) == 1 for s in target]
    return relax.op.broadcast_to(x[0], [a if is_one else b for a, b, is_one in zip(old, target, one, strict=True)])


def _slice(x: Operands, node: Node) -> relax.Expr:
    starts, ends = _target(x, 1), _target(x, 2)
    axes = x.ints(3) or list(range(len(starts)))
    steps = x.ints(4) or [1] * len(starts)
    shape = x.shape(0)
    begin, end = [], []
    for axis, first, last, step in zip(axes, starts, ends, steps, strict=True):
        if step != 1:
            raise FrontendError("A slice with a step.", where=node.label, found=str(step))
        begin.append(_bound(x, first, shape[axis]))
        end.append(_bound(x, last, shape[axis]))
    return relax.op.strided_slice(x[0], axes, begin, end, steps, assume_inbound=True)


def _bound(x: Operands, at: Any, extent: Any) -> Any:
    """A bound of a slice from the start, which does not lie beyond the end."""
    if isinstance(at, int) and at >= _TO_THE_END:
        return extent
    if isinstance(at, int) and isinstance(extent, tirx.IntImm):
        return min(at, int(extent)) if at >= 0 else max(at + int(extent), 0)
    if isinstance(at, int) and at in (0, 1, -1):  # sizes are at least 1
        return extent + at if at < 0 else at
    if not isinstance(at, int):
        if sym.Analyzer().can_prove(at <= extent):
            return at
        if isinstance(at, tirx.Var) and isinstance(extent, tirx.IntImm):
            x.context.limit(at, int(extent))
            return at
    raise FrontendError("A slice that may end beyond its tensor.", where=x.node.label, found=f"{at} of {extent}")


def _range(x: Operands, node: Node) -> relax.Expr:
    start, end, step = (_target(x, n)[0] for n in range(3))
    return relax.op.arange(start, end, step, x.context.types.get(node.outputs[0], "int64"))


def _constant_of_shape(x: Operands, node: Node) -> relax.Expr:
    value = np.asarray(node.attrs.get("value", np.zeros(1, np.float32))).reshape(())
    return relax.op.full(_target(x, 0), relax.const(value, str(value.dtype)), str(value.dtype))


def _trilu(x: Operands, node: Node) -> relax.Expr:
    k = int(x.ints(1)[0]) if x.has(1) else 0
    as_int = x[0].ty.dtype.dtype == "bool"
    data = x.emit(relax.op.astype(x[0], "int8")) if as_int else x[0]
    cut = (relax.op.triu if node.attrs.get("upper", 1) else relax.op.tril)(data, k)
    return relax.op.astype(x.emit(cut), "bool") if as_int else cut


def _cumsum(x: Operands, node: Node) -> relax.Expr:
    if node.attrs.get("reverse") or node.attrs.get("exclusive"):
        raise FrontendError("A sum from the end, or without its own element.", where=node.label)
    return relax.op.cumsum(x[0], int(x.ints(1)[0]))


def _mod(x: Operands, node: Node) -> relax.Expr:
    return relax.op.mod(x[0], x[1]) if node.attrs.get("fmod") else relax.op.floor_mod(x[0], x[1])


def _from_start(x: Operands) -> relax.Expr:
    """The indices, operand 1; TVM reads foreign memory at those from the end."""
    constant = x.constants[1]
    if constant is not None and (constant < 0).any():
        raise FrontendError("An index counts from the end.", where=x.node.label)
    return x[1]


def _heads(x: Operands, t: relax.Expr, count: int) -> relax.Expr:
    """[B, S, heads·dim] → [B, heads, S, dim]."""
    batch, seq, width = t.ty.shape
    split = x.emit(relax.op.reshape(t, [batch, seq, count, int(width) // count]))
    return x.emit(relax.op.permute_dims(split, [0, 2, 1, 3]))


def _attention(x: Operands, node: Node) -> relax.Expr:
    """ONNX's Attention (opset 23 and later) without a cache, decomposed."""
    if any(x.has(n) for n in (4, 5, 6)) or any(node.outputs[1:]):
        raise FrontendError("Attention with a cache inside, in a model without cache inputs.", where=node.label)
    if any(node.attrs.get(f"{side}_window_size", -1) != -1 for side in ("left", "right")):
        raise FrontendError("Attention with a window, in a model without cache inputs.", where=node.label)
    q, k, v = x[0], x[1], x[2]
    flat = len(q.ty.shape) == 3
    if flat:
        counts = (node.attrs["q_num_heads"], *(node.attrs["kv_num_heads"],) * 2)
        q, k, v = (_heads(x, t, count) for t, count in zip((q, k, v), counts, strict=True))
    batch, heads, seq, dim = q.ty.shape
    total, kv_heads = k.ty.shape[2], int(k.ty.shape[1])

    def repeated(t: relax.Expr) -> relax.Expr:
        if int(heads) == kv_heads:
            return t
        spread = x.emit(relax.op.expand_dims(t, 2))
        shape = [batch, kv_heads, int(heads) // kv_heads, total, t.ty.shape[3]]
        wide = x.emit(relax.op.broadcast_to(spread, shape))
        return x.emit(relax.op.reshape(wide, [batch, heads, total, t.ty.shape[3]]))

    dtype = str(q.ty.dtype.dtype)
    turned = x.emit(relax.op.permute_dims(repeated(k), [0, 1, 3, 2]))
    scores = x.emit(relax.op.matmul(q, turned, out_dtype="float32"))
    scale = node.attrs.get("scale") or int(dim) ** -0.5
    scores = x.emit(relax.op.multiply(scores, relax.const(scale, "float32")))
    if cap := node.attrs.get("softcap", 0.0):
        bounded = x.emit(relax.op.tanh(x.emit(relax.op.divide(scores, relax.const(cap, "float32")))))
        scores = x.emit(relax.op.multiply(bounded, relax.const(cap, "float32")))
    low = relax.const(-np.inf, "float32")
    if x.has(3):
        if x[3].ty.dtype.dtype == "bool":
            scores = x.emit(relax.op.where(x[3], scores, low))
        else:
            scores = x.emit(relax.op.add(scores, x.emit(relax.op.astype(x[3], "float32"))))
    if node.attrs.get("is_causal"):
        i = x.emit(relax.op.expand_dims(x.emit(relax.op.arange(0, seq, 1, "int64")), 1))
        j = x.emit(relax.op.arange(0, total, 1, "int64"))
        scores = x.emit(relax.op.where(x.emit(relax.op.less_equal(j, i)), scores, low))
    weights = x.emit(relax.op.astype(x.emit(relax.op.nn.softmax(scores, -1)), dtype))
    mixed = x.emit(relax.op.astype(x.emit(relax.op.matmul(weights, repeated(v), out_dtype="float32")), dtype))
    if not flat:
        return mixed
    turned = x.emit(relax.op.permute_dims(mixed, [0, 2, 1, 3]))
    return relax.op.reshape(turned, [batch, seq, heads * v.ty.shape[3]])


OWN = frozenset({"Attention"})
"""Kinds that are built here and not expanded, because expanding them asks about a cache."""

FORWARD_BUILDERS: dict[str, Builder] = {
    **{kind: build for kind, build in BUILDERS.items() if kind not in ("tqc::Attention", "tqc::Rope")},
    "Attention": _attention,
    "ConstantOfShape": _constant_of_shape,
    "CumSum": _cumsum,
    "Expand": _expand,
    "Flatten": _flatten,
    "GatherElements": lambda x, node: relax.op.gather_elements(x[0], _from_start(x), node.attrs.get("axis", 0)),
    "GatherND": lambda x, node: relax.op.gather_nd(x[0], _from_start(x), node.attrs.get("batch_dims", 0)),
    "Identity": lambda x, node: x[0],
    "IsNaN": lambda x, node: relax.op.isnan(x[0]),
    "Mod": _mod,
    "Range": _range,
    "Reshape": _reshape,
    "Slice": _slice,
    "Tile": lambda x, node: relax.op.tile(x[0], x.ints(1)),
    "Trilu": _trilu,
}
