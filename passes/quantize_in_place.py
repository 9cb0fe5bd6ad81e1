"""Attention without a cache: keys and values pass through their codes where they stand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import tvm
from tvm import relax
from tvm.ir.expr import Constant

from tqc import dialect
from tqc.codec.limits import check_head_dim
from tqc.dialect.kv_quantize import emit_quantized, form_without_basis
from tqc.errors import PassError

from .base import KEEP, ModulePass, num_input, re_emit, rewrite_functions

_SCORES = frozenset(
    (
        "add subtract multiply divide where tanh maximum minimum clip astype reshape expand_dims squeeze broadcast_to"
    ).split()
)
"""What may lie between the product of queries and keys and the softmax."""

_WEIGHTS = frozenset("astype where multiply divide reshape expand_dims squeeze nn.dropout".split())
"""What may lie between the softmax and the product with the values."""


@dataclass(frozen=True)
class Place:
    """Operand `index` of the binding of `reader` is a tensor of keys or values, head_dim along `axis`."""

    reader: relax.Var
    index: int
    axis: int
    head_dim: int


@dataclass(frozen=True)
class AttentionPlaces:
    """Where the keys and the values of one attention can be changed."""

    k: Place
    v: Place


@dataclass(frozen=True)
class QuantizeInPlace(ModulePass):
    """Puts `tqc.kv_quantize` on K and V of every softmax(q·kᵀ)·v; masks, scales and heads stay as they are.

    Each is met as early as its vectors are whole: before it is repeated over query heads or scaled, after RoPE. A
    scheme with a sketch is written out, op by op, so that its signs can be seen (`tqc.sign_sketch`). `plan` maps the
    number of an attention, in their order, to (k, v); `schemes` serves the others. What was found is appended to
    `found`. Raises PassError where there is no attention, or one that is not fully understood, or fewer than the plan
    names, CodecError for a scheme that needs a measured basis.
    """

    name: ClassVar[str] = "quantize-in-place"
    schemes: tuple[str, str] = ("tq4", "tq4")
    plan: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    seed: int = 0
    rounds: int = 1
    found: list[AttentionPlaces] = field(default_factory=list, repr=False)

    def apply(self, mod: tvm.IRModule) -> tvm.IRModule:
        out = rewrite_functions(mod, self._quantize)
        if not self.found:
            raise PassError("No attention found.", expected="softmax(q·kᵀ)·v of three computed tensors")
        if unknown := sorted(set(self.plan) - set(range(len(self.found)))):
            raise PassError("the plan names layers the model does not have", where=f"layers {unknown}")
        return out

    def _quantize(self, func: relax.Function, name: str) -> tvm.IRModule:
        places = find_attention(func)
        self.found.extend(places)
        changed: dict[relax.Var, list[tuple[Place, str]]] = defaultdict(list)
        for number, attention in enumerate(places):
            schemes = self.plan.get(number, self.schemes)
            for place, scheme in zip((attention.k, attention.v), schemes, strict=True):
                form_without_basis(scheme, place.head_dim)
                if all(place != known for known, _ in changed[place.reader]):
                    changed[place.reader].append((place, scheme))

        def rule(bb: relax.BlockBuilder, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
            if var not in changed:
                return KEEP
            args = list(value.args)
            for place, scheme in changed[var]:
                args[place.index] = self._through_codes(bb, args[place.index], place.axis, scheme)
            return relax.Call(value.op, args, value.attrs, value.ty_args)

        return re_emit(func, name, rule).get()

    def _through_codes(self, bb: relax.BlockBuilder, x: relax.Expr, axis: int, scheme: str) -> relax.Expr:
        rank = len(x.ty.shape)
        if axis == rank - 1:
            return self._quantized(bb, x, scheme)
        order = [*(n for n in range(rank) if n != axis), axis]
        back = [order.index(n) for n in range(rank)]
        coded = self._quantized(bb, bb.emit(relax.op.permute_dims(x, order)), scheme)
        return bb.emit(relax.op.permute_dims(coded, back))

    def _quantized(self, bb: relax.BlockBuilder, x: relax.Expr, scheme: str) -> relax.Expr:
        options = {"scheme": scheme, "seed": self.seed, "rounds": self.rounds}
        if form_without_basis(scheme, int(x.ty.shape[-1])).sketch_rows:
            return emit_quantized(bb, x, **options)
        return bb.emit(dialect.kv_quantize(x, **options))


class _Function:
    """A function's bindings as a graph."""

    def __init__(self, func: relax.Function) -> None:
        self.values = {b.var: b.value for block in func.body.blocks for b in block.bindings}
        self.users: dict[relax.Var, list[relax.Var]] = defaultdict(list)
        for var, value in self.values.items():
            for used in relax.analysis.free_vars(value):
                self.users[used].append(var)
        self.weights = set(func.params[num_input(func) :])

    def op(self, var: relax.Expr) -> str:
        value = self.values.get(var)
        op = getattr(value, "op", None)
        return op.name.removeprefix("relax.") if isinstance(op, tvm.ir.Op) else ""

    def args(self, var: relax.Var) -> list[relax.Expr]:
        return list(self.values[var].args)

    def is_weight(self, var: relax.Expr) -> bool:
        while self.op(var) in ("permute_dims", "astype", "reshape"):
            (var, *_) = self.args(var)
        return isinstance(var, Constant) or var in self.weights

    def is_product(self, var: relax.Expr) -> bool:
        """Whether it is a product of two computed tensors."""
        return self.op(var) == "matmul" and not any(self.is_weight(arg) for arg in self.args(var))


def find_attention(func: relax.Function) -> list[AttentionPlaces]:
    """The attention at every softmax whose operand comes from a product of two computed tensors, in order.

    Raises PassError, naming the softmax, where there are two such products or none with values behind.
    """
    graph = _Function(func)
    found = []
    for var in graph.values:
        if graph.op(var) != "nn.softmax":
            continue
        scores = _scores(graph, graph.args(var)[0])
        if not scores:
            continue  # a choice of experts, say
        if len(scores) > 1:
            raise PassError("Attention with several products in its scores.", where=var.name)
        (product,) = scores
        mix = _values_product(graph, var)
        rank = len(graph.args(product)[1].ty.shape)
        k = _earliest(graph, product, rank - 2, var.name)
        v = _earliest(graph, mix, len(graph.args(mix)[1].ty.shape) - 1, var.name)
        found.append(AttentionPlaces(k, v))
    return found


def _scores(graph: _Function, start: relax.Expr) -> set[relax.Var]:
    found, seen, stack = set(), set(), [start]
    while stack:
        var = stack.pop()
        if var in seen or not isinstance(var, relax.Var):
            continue
        seen.add(var)
        if graph.is_product(var):
            found.add(var)
        elif graph.op(var) in _SCORES:
            stack.extend(graph.args(var))
    return found


def _values_product(graph: _Function, softmax: relax.Var) -> relax.Var:
    var = softmax
    while True:
        users = [user for user in graph.users[var] if graph.op(user) not in ("isnan",)]
        if len(users) != 1:
            raise PassError(
                "Attention whose weights are used otherwise.", where=softmax.name, found=f"{len(users)} uses"
            )
        (user,) = users
        if graph.is_product(user) and graph.args(user)[0].same_as(var):
            return user
        if graph.op(user) not in _WEIGHTS:
            raise PassError("Attention whose weights meet no values.", where=softmax.name, found=graph.op(user))
        var = user


def _earliest(graph: _Function, reader: relax.Var, axis: int, where: str) -> Place:
    """Goes from operand 1 of a product back to where whole vectors first stand."""
    index = 1
    while True:
        x = graph.args(reader)[index]
        if not isinstance(x, relax.Var) or x not in graph.values or len(graph.users[x]) != 1:
            break
        step = _before(graph, x, axis)
        if step is None:
            break
        reader, (index, axis) = x, step
    dim = graph.args(reader)[index].ty.shape[axis]
    if not isinstance(dim, tvm.tirx.IntImm):
        raise PassError("The head_dim of an attention is not fixed.", where=where, found=str(dim))
    check_head_dim(int(dim))
    return Place(reader, index, axis, int(dim))


def _same(a: tvm.tirx.Expr, b: tvm.tirx.Expr) -> bool:
    return tvm.sym.Analyzer().can_prove_equal(a, b)


def _before(graph: _Function, var: relax.Var, axis: int) -> tuple[int, int] | None:
    """Operand and axis of the binding `var` that hold the same vectors as its axis `axis`, None if it changes them."""
    value, op = graph.values[var], graph.op(var)
    old = [list(arg.ty.shape) if isinstance(arg.ty, relax.TensorType) else None for arg in getattr(value, "args", [])]
    rank = len(var.ty.shape)
    if op == "permute_dims":
        axes = value.attrs.axes
        return 0, int(axes[axis]) if axes is not None else rank - 1 - axis
    if op == "expand_dims":
        inserted = {int(n) % rank for n in value.attrs.axis}
        return None if axis in inserted else (0, axis - sum(n < axis for n in inserted))
    if op == "broadcast_to":
        at = axis - (rank - len(old[0]))
        same = at >= 0 and _same(old[0][at], var.ty.shape[axis])
        return (0, at) if same else None
    if op == "tile":
        repeats = [1] * (rank - len(value.attrs.repeats)) + [int(n) for n in value.attrs.repeats]
        return (0, axis) if len(old[0]) == rank and repeats[axis] == 1 else None
    if op == "reshape":
        behind = rank - axis  # the axis and all behind it stay what they are
        at = len(old[0]) - behind
        same = at >= 0 and all(map(_same, old[0][at:], list(var.ty.shape)[axis:]))
        return (0, at) if same else None
    if op in ("multiply", "divide"):
        scalars = [isinstance(arg, Constant) and all(int(size) == 1 for size in arg.ty.shape) for arg in value.args]
        if scalars == [False, True] or (op == "multiply" and scalars == [True, False]):
            index = scalars.index(False)
            return (index, axis) if len(old[index]) == rank else None
    return None
