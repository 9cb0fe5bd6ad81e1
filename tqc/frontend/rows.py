"""Tokens meet in attention alone: whatever else would mix them is refused.

A session computes sequences of different lengths side by side, chunk by chunk. Attention knows which tokens are there;
any other operation along an axis whose length varies would see padding, or a chunk in place of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import relax, tirx

from tqc.errors import FrontendError

from .graph import Node

_REDUCTIONS = frozenset({"ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"})


def _axes(node: Node, constants: Sequence[np.ndarray | None], rank: int) -> list[int]:
    """The axes of the first operand whose entries a node combines, or of which it drops some."""

    def constant(index: int) -> list[int] | None:
        value = constants[index] if index < len(constants) else None
        return None if value is None else [int(v) for v in value.reshape(-1)]

    if node.kind in _REDUCTIONS:
        axes = node.attrs.get("axes") or constant(1)
        if not axes and node.attrs.get("noop_with_empty_axes"):
            return []
        return list(axes or range(rank))
    if node.kind in ("Split", "Concat"):
        return [node.attrs.get("axis", 0)]
    if node.kind == "LayerNormalization":
        return list(range(node.attrs.get("axis", -1) % rank, rank))
    if node.kind == "Slice":
        return constant(3) or list(range(len(constant(1) or [])))
    return [-1] if node.kind in ("MatMul", "Gemm") else []


def refuse_mixed_tokens(
    node: Node, operands: Sequence[relax.Expr | None], constants: Sequence[np.ndarray | None]
) -> None:
    """Raises FrontendError if a node computes along an axis of varying length; integers, such as positions, may be."""
    x = operands[0] if operands else None
    ty = getattr(x, "ty", None)
    if not isinstance(ty, relax.TensorType) or ty.shape is None or "float" not in str(ty.dtype):
        return
    shape = list(ty.shape)
    if any(not isinstance(shape[axis], tirx.IntImm) for axis in _axes(node, constants, len(shape))):
        raise FrontendError(
            "Tokens are mixed outside attention.",
            where=node.label,
            expected="operations that treat every token alike",
            found=f"{node.op} over an axis of {shape}",
        )
