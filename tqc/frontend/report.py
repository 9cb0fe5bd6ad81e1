"""What was recognised in a model, as text for people."""

from __future__ import annotations

from .canonical import LayerInfo
from .imported import Imported


def describe_layer(layer: LayerInfo) -> str:
    """One line: heads, head_dim, scale, and softcap and window if there are any."""
    parts = [
        f"layer {layer.layer}",
        f"{layer.query_heads} query heads",
        f"{layer.kv_heads} KV heads",
        f"head_dim {layer.head_dim}",
        f"scale {layer.scale:.6g}",
    ]
    if layer.softcap:
        parts.append(f"softcap {layer.softcap:g}")
    parts.append(f"window {layer.window}" if layer.window else "causal")
    return ", ".join([*parts, f"at {layer.node}"])


def describe(imported: Imported) -> str:
    """A header line for the model, then one line per layer."""
    size = sum(weight.nbytes for weight in imported.weights.values())
    head = (
        f"{imported.path.name}: opset {imported.opset}, {imported.dtype} cache, vocabulary {imported.vocab_size}, "
        f"{len(imported.layers)} layers, {len(imported.weights)} weights of {size / 1e6:.1f} MB"
    )
    return "\n".join([head, *map(describe_layer, imported.layers)])
