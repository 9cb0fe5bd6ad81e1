"""Builds the Relax module of a canonical graph; weights become parameters without data."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import tvm
from tvm import relax, tirx

from tqc.errors import FrontendError

from .canonical import Canonical
from .graph import Graph, Node
from .interface import POSITIONS, TOKENS
from .names import identifier, parameter_names
from .operators import BUILDERS, Operands
from .rows import refuse_mixed_tokens
from .sizes import BATCH, PAST, SEQ, TOTAL, Dim
from .weights import Weight

_TAKE_NARROW = frozenset({"MatMul", "Gemm", "Gather"})
"""Operations that read a bfloat16 weight as it is; for all others it is widened first."""


class _Context:
    """The function under construction: symbolic sizes, and tensor name → Relax expression."""

    def __init__(self, graph: Graph, builder: relax.BlockBuilder) -> None:
        self._graph, self._builder = graph, builder
        batch, seq, past = (tirx.Var(name, "int64") for name in (BATCH, SEQ, PAST))
        self._sizes = {BATCH: batch, SEQ: seq, PAST: past, TOTAL: past + seq}
        self.types = graph.types
        self.values: dict[str, relax.Expr] = {}
        self.positions: relax.Var | None = None
        self._narrowed: dict[relax.Expr, relax.Expr] = {}

    def dims(self, dims: tuple[Dim, ...]) -> list[tirx.Expr]:
        return [
            math.prod((self._sizes[s] for s in dim.symbols), start=tirx.IntImm("int64", dim.factor)) for dim in dims
        ]

    def variable(self, name: str, dims: tuple[Dim, ...], dtype: str) -> relax.Var:
        return relax.Var(name, relax.TensorType(self.dims(dims), dtype))

    def emit(self, expr: relax.Expr, name: str = "") -> relax.Expr:
        return self._builder.emit(expr, name)

    def narrowed(self, x: relax.Expr) -> relax.Expr:
        """x in bfloat16, rounded once for all products it is part of."""
        if x not in self._narrowed:
            self._narrowed[x] = self.emit(relax.op.astype(x, "bfloat16"))
        return self._narrowed[x]

    def operand(self, tensor: str) -> relax.Expr | None:
        if tensor and tensor not in self.values:
            array = np.ascontiguousarray(self._graph.constants[tensor])
            self.values[tensor] = relax.const(array, str(array.dtype))
        return self.values.get(tensor)

    def _widened(self, tensor: str, x: relax.Expr | None) -> relax.Expr | None:
        weight = self._graph.weights.get(tensor)
        return self.emit(relax.op.astype(x, "float32")) if weight and weight.dtype == "bfloat16" else x

    def build(self, node: Node) -> None:
        constants = [self._graph.constants.get(t) for t in node.inputs]
        exprs = [self.operand(t) for t in node.inputs]
        if node.kind not in _TAKE_NARROW:
            exprs = [self._widened(t, x) for t, x in zip(node.inputs, exprs, strict=True)]
        refuse_mixed_tokens(node, exprs, constants)
        operands = Operands(node, exprs, constants, self)
        try:
            result = self.emit(BUILDERS[node.kind](operands, node), identifier(node.outputs[0]))
        except FrontendError:
            raise
        except Exception as error:
            raise FrontendError(
                "An operation cannot be converted.", where=node.label, found=str(error).strip().splitlines()[0]
            ) from error
        if len(node.outputs) == 1:
            self.values[node.outputs[0]] = result
            return
        for index, tensor in enumerate(node.outputs):
            if tensor:
                self.values[tensor] = self.emit(relax.TupleGetItem(result, index))


def convert(canonical: Canonical) -> tuple[tvm.IRModule, dict[str, Weight]]:
    """The module of a canonical graph and the weights its parameters stand for.

    `main(input_ids, positions, past_key_0, past_value_0, …, weights…) -> (logits, present_key_0, …)`, where input_ids
    and positions are [batch, seq] int64, past tensors [batch, kv_heads, past, head_dim], and batch, seq and past are
    symbolic. The attribute `num_input` counts the parameters before the weights. Raises FrontendError.
    """
    graph, interface = canonical.graph, canonical.interface
    builder = relax.BlockBuilder()
    context = _Context(graph, builder)
    batch, seq, past = Dim(1, (BATCH,)), Dim(1, (SEQ,)), Dim(1, (PAST,))

    tokens = context.variable(TOKENS, (batch, seq), "int64")
    context.positions = context.variable("positions", (batch, seq), "int64")
    params = [tokens, context.positions]
    context.values |= {TOKENS: tokens, POSITIONS: context.positions}
    for n, cache in enumerate(interface.layers):
        for side, tensor in (("key", cache.past_key), ("value", cache.past_value)):
            dims = (batch, Dim(cache.kv_heads), past, Dim(cache.head_dim))
            context.values[tensor] = context.variable(f"past_{side}_{n}", dims, cache.dtype)
            params.append(context.values[tensor])
    inputs = len(params)

    weights: dict[str, Weight] = {}
    for tensor, name in parameter_names(graph).items():
        weight = weights[name] = replace(graph.weights[tensor], name=name)
        context.values[tensor] = context.variable(name, tuple(map(Dim, weight.shape)), weight.dtype)
        params.append(context.values[tensor])

    results = [interface.logits, *(t for c in interface.layers for t in (c.present_key, c.present_value))]
    with builder.function("main", params, attrs={"num_input": inputs}):
        with builder.dataflow():
            for node in graph.nodes:
                context.build(node)
            returned = builder.emit_output(relax.Tuple([context.values[graph.outputs[name]] for name in results]))
        builder.emit_func_output(returned)
    return builder.get(), weights
