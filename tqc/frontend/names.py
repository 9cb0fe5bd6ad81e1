"""Parameter names: identifiers that still say which weight of the model they are."""

from __future__ import annotations

import re

from .graph import Graph, Node


def identifier(text: str) -> str:
    """`text` with everything but letters, digits and underscores turned into single underscores."""
    name = re.sub(r"\W+", "_", text).strip("_")
    return name if name and not name[0].isdigit() else f"p_{name}"


def _from_reader(node: Node) -> str:
    path = node.name.rsplit("/", 1)[0]
    return f"{path}.weight" if path else node.name


def parameter_names(graph: Graph) -> dict[str, str]:
    """Weight tensor → unique parameter name, for the weights in use, in the order of their first use.

    Exporters keep the names of some weights; the others (`onnx::MatMul_722`) are named after the node that reads them.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for node in graph.nodes:
        for tensor in node.inputs:
            if tensor not in graph.weights or tensor in names:
                continue
            text = _from_reader(node) if "::" in tensor and node.name else tensor
            base = name = identifier(text)
            suffix = 1
            while name in taken:
                suffix += 1
                name = f"{base}_{suffix}"
            taken.add(name)
            names[tensor] = name
    return names
