"""What an expander works with: it adds nodes in place of one, and claims what the operands it drops say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from tqc.errors import FrontendError
from tqc.frontend.claims import Claim, Claimed
from tqc.frontend.graph import Graph, Node
from tqc.frontend.weights import Weight

_KEEPS_WIDTH = frozenset({"Add", "Mul", "Sub", "Cast", "Identity", "tqc::RMSNorm", "LayerNormalization", "Sigmoid"})
"""Kinds whose result is as wide as their first operand that is no scalar."""


class Expansion:
    """The graph under expansion; `nodes` is what it consists of so far."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self._node: Node | None = None
        self._count = 0

    def begin(self, node: Node) -> None:
        """From here on, nodes are added in place of `node`."""
        self._node, self._count = node, 0

    def keep(self, node: Node) -> None:
        """Takes a node over unchanged."""
        self.nodes.append(node)
        self.graph.define(node)

    def _fresh(self, hint: str) -> str:
        self._count += 1
        output = next(name for name in self._node.outputs if name)
        return f"{output}/{hint}_{self._count}"

    def add(
        self,
        op: str,
        inputs: Sequence[str],
        *,
        attrs: Mapping[str, Any] | None = None,
        domain: str = "",
        dtype: str | None = None,
        output: str | None = None,
    ) -> str:
        """Adds a node with one output and returns its name, `output` or a new one.

        `dtype` is the output's element type, by default that of the first input.
        """
        name = output or self._fresh(op)
        node = Node(op, list(inputs), [name], dict(attrs or {}), f"{self._node.name or name}/{op}", domain)
        found = dtype or self.graph.types.get(inputs[0])
        if found:
            self.graph.types[name] = found
        self.keep(node)
        return name

    def constant(self, array: np.ndarray, hint: str = "constant") -> str:
        """A new constant; vectors of integers are shared by their values."""
        array = np.asarray(array)
        name = self._fresh(hint)
        self.graph.constants[name] = array
        self.graph.types[name] = str(array.dtype)
        return name

    def ints(self, *values: int) -> str:
        """An int64 vector."""
        name = "tqc/ints_" + "_".join(map(str, values))
        self.graph.constants[name] = np.array(values, np.int64)
        self.graph.types[name] = "int64"
        return name

    def value(self, tensor: str) -> np.ndarray | None:
        """The value of a constant, None for everything else."""
        return self.graph.constants.get(tensor)

    def weight(self, tensor: str) -> Weight | None:
        """The weight of that name, None for everything else."""
        return self.graph.weights.get(tensor)

    def array(self, tensor: str) -> np.ndarray:
        """The numbers of a constant or a weight, read from the file. Raises FrontendError for computed tensors."""
        if tensor in self.graph.constants:
            return self.graph.constants[tensor]
        if tensor in self.graph.weights:
            return self.graph.weights[tensor].numpy()
        self.refuse("An operand must be a constant.", found=tensor)

    def rank(self, tensor: str) -> int | None:
        """The rank of an input, constant or weight, or of a Reshape with a constant target; None if it is not known."""
        for table in (self.graph.constants, self.graph.weights, self.graph.inputs):
            if tensor in table:
                return len(table[tensor].shape)
        node = self.graph.producer.get(tensor)
        if node and node.kind == "Reshape" and (target := self.value(node.inputs[1])) is not None:
            return int(target.size)
        if node and node.kind == "Transpose" and "perm" in node.attrs:
            return len(node.attrs["perm"])
        return None

    def width(self, tensor: str) -> int | None:
        """The length of a tensor's last axis where weights say it, None if they do not."""
        graph = self.graph
        while True:
            for table in (graph.constants, graph.weights):
                if tensor in table:
                    shape = table[tensor].shape
                    return int(shape[-1]) if shape else None
            node = graph.producer.get(tensor)
            if node is None:
                return None
            if node.kind == "tqc::MatMulNBits":
                return int(node.attrs["n"])
            if node.kind == "tqc::GatherNBits":
                return int(node.attrs["width"])
            if node.kind == "Reshape":
                target = self.value(node.inputs[1])
                return int(target[-1]) if target is not None and target.size and target[-1] > 0 else None
            if node.kind == "MatMul":
                tensor = node.inputs[1]
            elif node.kind == "Gather" and node.inputs[0] in graph.weights:
                tensor = node.inputs[0]
            elif node.kind == "Gemm" and node.inputs[1] in graph.weights:
                return graph.weights[node.inputs[1]].shape[0 if node.attrs.get("transB") else 1]
            elif node.kind in _KEEPS_WIDTH:
                scalars = [t for t in node.inputs if t in graph.constants and graph.constants[t].size == 1]
                tensor = next((t for t in node.inputs if t not in scalars), "")
            else:
                return None

    def claim(self, tensor: str, claim: Claim) -> None:
        """Whoever drops an operand says what it must be: it is checked when the graph is probed."""
        self.graph.claims.append(Claimed(tensor, claim, self._node.label))

    def refuse(self, what: str, **context: str) -> NoReturn:
        """Raises FrontendError that names the node."""
        raise FrontendError(what, where=self._node.label, **context)
