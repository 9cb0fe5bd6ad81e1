"""RotaryEmbedding of ai.onnx (opset 23) and com.microsoft → `tqc::Rope` (onnxruntime, docs/ContribOperators.md).

With tables of cosines and sines their frequencies are recovered, and the positions are claimed to be the usual ones.
Cosines and sines that are computed stay; `fuse_rotary` looks at their values later.
"""

from __future__ import annotations

from tqc.frontend.claims import Claim
from tqc.frontend.graph import Node

from .context import Expansion
from .decompose import join_heads, split_heads
from .rope_tables import NoRotation, frequencies

_END = (1 << 31) - 1


def rotate(expansion: Expansion, x: str, cos: str, sin: str, dim: int | None = None, interleaved: bool = False) -> str:
    """x [B, heads, S, dim] turned by the angles of constant tables [rows, R/2]; R < dim leaves the rest of a head.

    Raises FrontendError for tables that are no rotation by position.
    """
    key = (rotate, cos, sin)
    if key not in expansion.shared:
        try:
            inv_freq, scaling = frequencies(expansion.array(cos), expansion.array(sin))
        except NoRotation as reason:
            expansion.refuse(
                "Tables of cosines and sines that are no rotation by position.",
                expected="scaling·cos(position·frequency) and the same of sin, one frequency a column",
                found=f"{cos}, {sin}: {reason}",
            )
        name = f"{cos}/inv_freq"
        expansion.graph.constants[name], expansion.graph.types[name] = inv_freq, "float32"
        expansion.shared[key] = name, scaling, 2 * inv_freq.size
    name, scaling, rotary = expansion.shared[key]
    attrs = {"scaling": scaling, "interleaved": int(interleaved)}
    return _first(
        expansion, x, rotary, dim, lambda part: expansion.add("Rope", [part, name], attrs=attrs, domain="tqc")
    )


def _first(expansion: Expansion, x: str, rotary: int, dim: int | None, turn) -> str:
    """x with `turn` applied to the first `rotary` of the `dim` numbers of each head."""
    if dim is None or dim == rotary:
        return turn(x)
    if dim < rotary:
        expansion.refuse("More of a head is rotated than there is.", expected=f"at most {dim}", found=str(rotary))
    return expansion.add(
        "Concat", [turn(_part(expansion, x, 0, rotary)), _part(expansion, x, rotary, _END)], attrs={"axis": -1}
    )


def _part(expansion: Expansion, x: str, start: int, end: int) -> str:
    return expansion.add("Slice", [x, *(expansion.ints(n) for n in (start, end, -1))])


def microsoft(expansion: Expansion, node: Node) -> None:
    """com.microsoft::RotaryEmbedding(x, position_ids, cos_cache, sin_cache)."""
    positions, cos, sin = node.inputs[1:]
    if node.attrs.get("is_packed_batching"):
        expansion.refuse("Packed batches are not supported.", expected="is_packed_batching 0")
    if node.attrs.get("scale", 1.0) != 1.0:
        expansion.refuse("A rotary embedding with a scale is not supported.", found=f"scale {node.attrs['scale']:g}")
    expansion.claim(positions, Claim.START if expansion.rank(positions) == 1 else Claim.POSITIONS)
    _of_heads(expansion, node, lambda heads, dim: rotate(expansion, heads, cos, sin, dim, _interleaved(node)), cos)


def onnx(expansion: Expansion, node: Node) -> None:
    """ai.onnx RotaryEmbedding(x, cos, sin[, position_ids])."""
    cos, sin, positions = [*node.inputs[1:], ""][:3]
    constant = expansion.value(cos) is not None or expansion.weight(cos) is not None
    if constant and not positions:
        expansion.refuse("Cosines and sines for a fixed sequence.", hint="Export with a dynamic sequence length.")
    if constant:
        expansion.claim(positions, Claim.POSITIONS)
        return _of_heads(
            expansion, node, lambda heads, dim: rotate(expansion, heads, cos, sin, dim, _interleaved(node)), cos
        )
    if positions:
        cos, sin = (expansion.add("Gather", [table, positions]) for table in (cos, sin))
    return _of_heads(expansion, node, lambda heads, dim: _turn_by(expansion, node, heads, cos, sin, dim), cos)


def _interleaved(node: Node) -> bool:
    return bool(node.attrs.get("interleaved", 0))


def _of_heads(expansion: Expansion, node: Node, turn, cos: str) -> None:
    """Applies `turn(x, dim)` to x as [B, heads, S, dim] and gives the result x's own layout.

    dim is None for whole heads of unknown size.
    """
    x, (output,) = node.inputs[0], node.outputs
    partial, heads = node.attrs.get("rotary_embedding_dim", 0), node.attrs.get("num_heads", 0)
    width, rank = expansion.width(x), expansion.rank(x)
    if rank == 4:
        if partial and width is None:
            expansion.refuse("The size of the heads is not known, only how much of them is rotated.", found=f"{x}")
        return _rename(expansion, turn(x, width if partial else None), output)
    if rank != 3 or width is None:
        expansion.refuse(
            "The operand of a rotary embedding has an unknown shape.",
            expected="[batch, seq, hidden] with a known width, or [batch, heads, seq, head_dim]",
            found=f"{x} of rank {rank} and width {width}",
        )
    if not heads:
        half = partial // 2 or expansion.width(cos)
        if half is None:
            expansion.refuse("The number of heads is not known.", expected="num_heads")
        heads = width // (2 * half)
    if width % heads:
        expansion.refuse("The width is no multiple of the number of heads.", found=f"{width} and {heads}")
    dim = width // heads
    turned = turn(split_heads(expansion, x, heads, dim), dim)
    join_heads(expansion, turned, heads, dim, output)


def _rename(expansion: Expansion, tensor: str, output: str) -> None:
    """Gives the last node's result the name that the composite's had."""
    node = expansion.graph.producer[tensor]
    node.outputs = [output]
    expansion.graph.types[output] = expansion.graph.types.get(tensor)
    expansion.graph.define(node)


def _turn_by(expansion: Expansion, node: Node, x: str, cos: str, sin: str, dim: int | None) -> str:
    """x·cos + rotate_half(x)·sin with computed cos and sin, [B, S, R/2], as torch's models write it."""
    rotary = node.attrs.get("rotary_embedding_dim", 0) or dim or expansion.width(x)
    if rotary is None or rotary % 2:
        expansion.refuse("The size of the heads is not known or odd.", found=f"{x}: {rotary}")
    half = rotary // 2
    wide = [_wide(expansion, table) for table in (cos, sin)]

    def turn(part: str) -> str:
        if _interleaved(node):
            part = _swapped(expansion, part, [0, 0, 0, half, 2], rotary)
        turned = [expansion.add("Neg", [_part(expansion, part, half, rotary)]), _part(expansion, part, 0, half)]
        rotated = expansion.add("Concat", turned, attrs={"axis": -1})
        products = [expansion.add("Mul", pair) for pair in ([part, wide[0]], [rotated, wide[1]])]
        result = expansion.add("Add", products)
        return _swapped(expansion, result, [0, 0, 0, 2, half], rotary) if _interleaved(node) else result

    return _first(expansion, x, rotary, dim, turn)


def _wide(expansion: Expansion, table: str) -> str:
    """[B, S, R/2] → [B, 1, S, R], once for all that use it."""
    key = (_wide, table)
    if key not in expansion.shared:
        both = expansion.add("Concat", [table, table], attrs={"axis": -1})
        expansion.shared[key] = expansion.add("Unsqueeze", [both, expansion.ints(1)])
    return expansion.shared[key]


def _swapped(expansion: Expansion, x: str, split: list[int], rotary: int) -> str:
    """Pairs side by side → pairs half a head apart, or back."""
    pairs = expansion.add("Reshape", [x, expansion.ints(*split)])
    turned = expansion.add("Transpose", [pairs], attrs={"perm": [0, 1, 2, 4, 3]})
    return expansion.add("Reshape", [turned, expansion.ints(0, 0, 0, rotary)])


EXPANDERS = {"RotaryEmbedding": onnx, "com.microsoft::RotaryEmbedding": microsoft}
