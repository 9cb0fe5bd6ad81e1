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
_KEEPS_RANK = frozenset(
    {"Cast", "Identity", "Slice", "Split", "Concat", "tqc::RMSNorm", "tqc::Rope", "tqc::MatMulNBits"}
)
"""Kinds whose result has as many axes as their first operand."""


class Expansion:
    """The graph under expansion; `nodes` is what it consists of so far."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self.shared: dict[tuple, Any] = {}
        """What nodes of one kind have in common, kept for the next."""
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
        fresh = self._fresh(op)
        name = output or fresh
        label = f"{self._node.name}/{op}_{self._count}" if self._node.name else fresh
        node = Node(op, list(inputs), [name], dict(attrs or {}), label, domain)
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
        """A tensor's number of axes where the operations before it say it, None if they do not."""
        graph = self.graph
        while True:
            for table in (graph.constants, graph.weights, graph.inputs):
                if tensor in table:
                    return len(table[tensor].shape)
            node = graph.producer.get(tensor)
            if node is None:
                return None
            if node.kind == "Reshape":
                target = self.value(node.inputs[1])
                return None if target is None else int(target.size)
            if node.kind == "Transpose" and "perm" in node.attrs:
                return len(node.attrs["perm"])
            if node.kind in ("Gather", "tqc::GatherNBits") and len(self._shape(node.inputs[0])) == 2:
                inner = self.rank(node.inputs[1])  # token ids: an input, or close to one
                return None if inner is None else inner + 1
            if node.kind in ("Add", "Mul"):
                tensor = next((t for t in node.inputs if not self._shape(t)), node.inputs[0])
            elif node.kind in _KEEPS_RANK or (node.kind == "MatMul" and len(self._shape(node.inputs[1])) == 2):
                tensor = node.inputs[0]
            else:
                return None

    def _shape(self, tensor: str) -> tuple[int, ...]:
        """The shape of a constant or weight, () for everything else."""
        known = self.graph.constants.get(tensor, self.graph.weights.get(tensor))
        return () if known is None else tuple(known.shape)

    def width(self, tensor: str) -> int | None:
        """The length of a tensor's last axis where weights say it, None if they do not."""
        graph = self.graph
        while True:
            for table in (graph.constants, graph.weights, graph.inputs):
                if tensor in table:
                    shape = table[tensor].shape
                    return int(shape[-1]) if shape and isinstance(shape[-1], int) else None
            node = graph.producer.get(tensor)
            if node is None:
                return None
            if node.kind == "tqc::MatMulNBits":
                return int(node.attrs["n"])
            if node.kind == "tqc::GatherNBits":
                return int(node.attrs["width"])
            if node.kind == "Reshape":
                return self._last(node.inputs[1])
            if node.kind == "Split":
                sizes = self.value(node.inputs[1]) if len(node.inputs) > 1 else None
                last = node.attrs.get("axis", 0) in (-1, (self.rank(node.inputs[0]) or 0) - 1)
                return int(sizes[node.outputs.index(tensor)]) if last and sizes is not None else None
            if node.kind == "Transpose" and "perm" in node.attrs:
                if node.attrs["perm"][-1] != len(node.attrs["perm"]) - 1:
                    return None
                tensor = node.inputs[0]
            elif node.kind == "MatMul":
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

    def _last(self, vector: str) -> int | None:
        """The last number of a Reshape's target, if it is a constant and a size."""
        target, node = self.value(vector), self.graph.producer.get(vector)
        if target is None and node and node.kind == "Concat":
            target = self.value(node.inputs[-1])
        return int(target[-1]) if target is not None and target.size and target[-1] > 0 else None

    def claim(self, tensor: str, claim: Claim) -> None:
        """Whoever drops an operand says what it must be: it is checked when the graph is probed."""
        self.graph.claims.append(Claimed(tensor, claim, self._node.label))

    def refuse(self, what: str, **context: str) -> NoReturn:
        """Raises FrontendError that names the node."""
        raise FrontendError(what, where=self._node.label, **context)
