"""Stores a weight once when the exporter has written it twice: tied embeddings, or a matrix beside its transpose."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

SMALLEST_BYTES = 1024


def share_tied_weights(graph: onnx.GraphProto) -> list[str]:
    """Replaces each large weight that equals an earlier one (as it is or transposed) by an Identity or Transpose of it.

    Returns the names of the weights that are no longer stored.
    """
    first_with: dict[tuple, list[onnx.TensorProto]] = {}
    dropped: dict[str, onnx.NodeProto] = {}
    for weight in graph.initializer:
        if not weight.raw_data or len(weight.raw_data) < SMALLEST_BYTES:
            continue
        array = numpy_helper.to_array(weight)
        earlier = first_with.setdefault(_fingerprint(array), [])
        node = next((found for other in earlier if (found := _reference(array, weight.name, other))), None)
        if node is None:
            earlier.append(weight)
        else:
            dropped[weight.name] = node
    for position in reversed(range(len(graph.initializer))):
        if graph.initializer[position].name in dropped:
            del graph.initializer[position]
    for node in dropped.values():
        graph.node.insert(0, node)
    return list(dropped)


def _fingerprint(array: np.ndarray) -> tuple:
    """Equal for an array and its transpose, so that only likely twins are compared value by value."""
    words = array.reshape(-1).view(np.dtype(f"u{array.itemsize}"))
    return array.dtype.str, tuple(sorted(array.shape)), int(words.sum(dtype=np.uint64))


def _reference(array: np.ndarray, name: str, other: onnx.TensorProto) -> onnx.NodeProto | None:
    kept = numpy_helper.to_array(other)
    if np.array_equal(array, kept):
        return helper.make_node("Identity", [other.name], [name], f"shared/{name}")
    if array.ndim == 2 and np.array_equal(array, kept.T):
        return helper.make_node("Transpose", [other.name], [name], f"tied/{name}", perm=[1, 0])
    return None
