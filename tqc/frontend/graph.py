"""The ONNX graph as the canonicaliser edits it: named tensors, each defined once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from .claims import Claimed
from .weights import Weight


@dataclass(eq=False)
class Node:
    """One operation. `inputs` may hold '' for an operand left out; `proto` is the exporter's node, if it is its own."""

    op: str
    inputs: list[str]
    outputs: list[str]
    attrs: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    domain: str = ""
    proto: onnx.NodeProto | None = None

    @property
    def kind(self) -> str:
        return f"{self.domain}::{self.op}" if self.domain else self.op

    @property
    def label(self) -> str:
        """What an error calls the node: its name, or its first output if it has none."""
        return f"{self.kind} {self.name or self.outputs[0]}"


@dataclass(frozen=True)
class Input:
    """A graph input: element type, and shape with names for the dimensions that vary."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(eq=False)
class Graph:
    """`outputs` maps a public name to the tensor behind it. `types` are element types.

    Tensors are defined by nodes, inputs, constants and weights. `claims` are still to be checked; their tensors stay.
    `longest` is the number of tokens up to which the graph is what was read, None if it always is.
    """

    inputs: dict[str, Input]
    outputs: dict[str, str]
    constants: dict[str, np.ndarray]
    weights: dict[str, Weight]
    nodes: list[Node]
    opset: int
    types: dict[str, str]
    claims: list[Claimed] = field(default_factory=list)
    longest: int | None = None

    def __post_init__(self) -> None:
        self.producer: dict[str, Node] = {}
        for node in self.nodes:
            self._claim(node)
        self.prune()

    def _claim(self, node: Node) -> None:
        for name in node.outputs:
            if name:
                self.producer[name] = node

    def define(self, node: Node) -> Node:
        """Adds a node; it takes over its outputs from the nodes that defined them. Call `prune` when done."""
        self._claim(node)
        return node

    def replace(self, nodes: list[Node]) -> None:
        """Other nodes in place of all."""
        self.nodes = nodes
        self.producer = {}
        for node in nodes:
            self._claim(node)
        self.prune()

    def prune(self) -> None:
        """Drops what no output needs and puts the nodes in topological order, in time linear in the graph."""
        order: list[Node] = []
        state: dict[int, bool] = {}
        wanted = [*self.outputs.values(), *(claimed.tensor for claimed in self.claims)]
        stack = [self.producer[t] for t in reversed(wanted) if t in self.producer]
        while stack:
            node = stack[-1]
            if state.get(id(node)):
                stack.pop()
                continue
            if id(node) in state:
                state[id(node)] = True
                order.append(node)
                stack.pop()
                continue
            state[id(node)] = False
            for name in reversed(node.inputs):
                source = self.producer.get(name)
                if source is not None and id(source) not in state:
                    stack.append(source)
        self.nodes = order
        self.producer = {}
        self.users: dict[str, list[Node]] = defaultdict(list)
        for node in order:
            self._claim(node)
            for name in dict.fromkeys(node.inputs):
                if name:
                    self.users[name].append(node)

    def op(self, tensor: str) -> str:
        """The kind of the node that defines a tensor, '' for inputs, constants and weights."""
        node = self.producer.get(tensor)
        return node.kind if node else ""

    def constant(self, tensor: str) -> np.ndarray | None:
        return self.constants.get(tensor)

    def ancestors(self, tensors: Iterable[str], *, values_only: bool = False) -> set[str]:
        """Every tensor that the given ones are computed from, themselves included.

        `values_only` leaves out what matters only through its shape, that is the operands of Shape.
        """
        seen: set[str] = set()
        stack = list(tensors)
        while stack:
            tensor = stack.pop()
            if not tensor or tensor in seen:
                continue
            seen.add(tensor)
            node = self.producer.get(tensor)
            if node and not (values_only and node.kind in ("Shape", "Size")):
                stack.extend(node.inputs)
        return seen
