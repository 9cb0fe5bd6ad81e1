"""How a layer's queries are rotated, read off the fused `tqc::Rope`, for reports."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .graph import Graph

_PASSED = frozenset({"Cast", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Mul", "Div", "Concat"})
"""What may lie between the rotation and the scores: layout, scale, and joining the part that is not rotated."""


@dataclass(frozen=True)
class RopeForm:
    """A rotary embedding of the first `dims` elements of a head.

    The frequencies are theta^(-2i/dims) for i < dims/2; where they are not (scaled ones are not), `theta` is None.
    `slowest` is the least of them, in radians a token; `scaling` multiplies cos and sin. `frequencies` lists them all.
    """

    dims: int
    theta: float | None
    slowest: float
    scaling: float
    interleaved: bool
    frequencies: tuple[float, ...] = field(default=(), compare=False, repr=False)

    def __str__(self) -> str:
        named = f"theta {self.theta:g}" if self.theta else f"{self.dims // 2} frequencies down to {self.slowest:.3g}"
        parts = [named, f"{self.dims} dims"]
        if self.scaling != 1:
            parts.append(f"scaling {self.scaling:g}")
        if self.interleaved:
            parts.append("interleaved")
        return ", ".join(parts)


def rope_form(graph: Graph, queries: str) -> RopeForm | None:
    """The rotation of the tensor `queries`, None if none leads to it."""
    stack, seen = [queries], set()
    while stack:
        node = graph.producer.get(stack.pop())
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if node.kind == "tqc::Rope" and (inv_freq := graph.constants.get(node.inputs[1])) is not None:
            return _form(inv_freq, float(node.attrs.get("scaling", 1.0)), bool(node.attrs.get("interleaved", 0)))
        if node.kind in _PASSED:
            stack.extend(node.inputs)
    return None


def _form(inv_freq: np.ndarray, scaling: float, interleaved: bool) -> RopeForm:
    count = inv_freq.size
    theta = float(inv_freq[-1]) ** (-count / (count - 1)) if count > 1 and inv_freq[-1] > 0 else None
    if theta is not None:
        theta = float(f"{theta:.4g}")
        exact = theta ** (-np.arange(count) / count)
        theta = theta if np.allclose(inv_freq, exact, rtol=1e-4, atol=0) else None
    return RopeForm(2 * count, theta, float(inv_freq.min()), scaling, interleaved, tuple(inv_freq.tolist()))
