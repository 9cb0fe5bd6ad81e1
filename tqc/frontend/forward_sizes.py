"""Size arithmetic of a graph without a cache, done with symbols: arrays whose elements are numbers or expressions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator
from tvm import sym, tirx

from .graph import Node

Sizes = np.ndarray
"""Of dtype object, with int and PrimExpr elements, rank 0 or 1."""


_MOST = 1 << 20
"""Elements of constants that are computed with here; more are left to the library."""


def _int(value: object) -> object:
    return int(value) if isinstance(value, int | np.integer | tirx.IntImm) else value


def sizes(values: object) -> Sizes:
    """An array of simplified elements."""
    analyzer = sym.Analyzer()
    flat = [_int(analyzer.simplify(v)) if isinstance(v, tirx.Expr) else _int(v) for v in np.ravel(values)]
    out = np.empty(len(flat), object)
    out[:] = flat
    return out.reshape(np.shape(values))


def known(values: Sizes) -> bool:
    """Whether all elements are numbers."""
    return values.dtype != object or all(isinstance(value, int) for value in np.ravel(values))


def _same(a: object, b: object) -> bool | None:
    """Whether two sizes are equal; None if that depends. Symbols stand for at least 1."""
    a, b = _int(a), _int(b)
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    analyzer = sym.Analyzer()
    if analyzer.can_prove_equal(a, b):
        return True
    for number, other in ((a, b), (b, a)):
        if isinstance(number, int) and number < 0 and isinstance(other, tirx.Expr):
            return False  # -1 stands for a size that is left out
    return None


def _equal(a: Sizes, b: Sizes) -> np.ndarray | None:
    pairs = np.broadcast(a, b)
    found = [_same(x, y) for x, y in pairs]
    return None if None in found else np.array(found, bool).reshape(pairs.shape)


def _divide(a: Sizes, b: Sizes) -> Sizes:
    one = np.frompyfunc(lambda x, y: x // y if isinstance(x, int) and isinstance(y, int) else tirx.floordiv(x, y), 2, 1)
    return one(a, b)


def _extreme(least: bool) -> Callable[..., Sizes | None]:
    def apply(*values: Sizes) -> Sizes | None:
        if not all(map(known, values)):
            first, *rest = values
            # max(1, size) and the like: symbols stand for at least 1.
            if least or any(not known(v) or np.max(v.astype(np.int64)) > 1 for v in rest):
                return None
            return first
        return (np.minimum if least else np.maximum).reduce([v.astype(np.int64) for v in values])

    return apply


def evaluate(node: Node, operands: list[np.ndarray | None], opset: int) -> np.ndarray | None:
    """What a node makes of sizes and constants (operands of dtype object, or numbers), None if it is not known.

    Operands left out are None.
    """
    given = [v for v in operands if v is not None]
    if all(v.dtype != object for v in given):
        return _run(node, given, opset)
    a, *rest = operands
    axis = int(node.attrs.get("axis", 0))
    match node.op:
        case "Identity":
            return a
        case "Cast":
            return a if node.attrs["to"] in (6, 7) else None
        case "Add":
            return a + rest[0]
        case "Sub":
            return a - rest[0]
        case "Mul":
            return a * rest[0]
        case "Div":
            return _divide(a, rest[0]) if all(np.min(v) > 0 for v in (rest[0],) if known(v)) else None
        case "Equal":
            return _equal(a, rest[0])
        case "Where":
            return np.where(a, *rest) if a.dtype == bool else None
        case "Max" | "Min":
            return _extreme(node.op == "Min")(*given)
        case "Gather" if axis == 0 and rest[0].dtype != object:
            return np.asarray(a[rest[0]], object)
        case "Concat":
            return np.concatenate([np.asarray(v, object) for v in operands])
        case "Unsqueeze" if a.ndim == 0:
            return a.reshape(1)
        case "Squeeze" if a.ndim == 1 and a.size == 1:
            return a.reshape(())
        case "Reshape" if rest[0].dtype != object and rest[0].size < 2:
            return a.reshape(-1) if rest[0].size else a.reshape(())
        case "Slice" if a.ndim == 1 and all(v is None or v.dtype != object for v in rest):
            starts, ends, _, steps = [None if v is None else int(v.reshape(())) for v in [*rest, None, None][:4]]
            return a[slice(starts, ends, steps)]
        case "ReduceProd":
            return np.asarray(np.prod(a), object).reshape((1,) if node.attrs.get("keepdims", 1) else ())
    return None


def _run(node: Node, operands: list[np.ndarray], opset: int) -> np.ndarray | None:
    """The node on numbers, by ONNX's reference implementation."""
    if node.domain or len(node.outputs) != 1 or sum(v.size for v in operands) > _MOST:
        return None
    proto = node.proto or helper.make_node(node.op, node.inputs, node.outputs, **node.attrs)
    copy = onnx.NodeProto()
    copy.CopyFrom(proto)
    copy.input[:] = node.inputs
    feeds = dict(zip([name for name in node.inputs if name], operands, strict=True))
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for name, v in feeds.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(node.outputs[0])]
    model = helper.make_model(
        helper.make_graph([copy], "one", infos, outputs), opset_imports=[helper.make_opsetid("", opset)]
    )
    (result,) = ReferenceEvaluator(model).run(None, feeds)
    return np.asarray(result)
