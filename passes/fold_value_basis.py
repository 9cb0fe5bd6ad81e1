"""The basis of values moves into the weights around the attention, where it costs nothing at run time."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import tvm
import tvm_ffi
from tvm import relax

from tqc.dialect import is_op_call
from tqc.dialect.registry import dtype_of
from tqc.dialect.rotate import factor_of

from .base import KEEP, ModulePass, num_input, re_emit, rewrite_functions
from .bases import Bases, basis_arrays


@dataclass(frozen=True)
class Factor:
    """The right factor that an op applies to every head: `matrices` float64 [n, D, D], matrix h // (heads / n) to head
    h. `text` says which it is."""

    text: str
    matrices: np.ndarray = field(repr=False, compare=False)

    def of_heads(self, heads: int) -> np.ndarray:
        """The matrix of each of `heads` heads."""
        return np.repeat(self.matrices, heads // len(self.matrices), axis=0)

    @property
    def head_dim(self) -> int:
        return self.matrices.shape[-1]


@dataclass(frozen=True)
class TurnColumns:
    """W [K, heads·D] → every head's D columns times its factor, as if x·W was multiplied by it; a bias [heads·D]
    alike."""

    factor: Factor

    def apply(self, array: np.ndarray) -> np.ndarray:
        blocks = array.reshape(*array.shape[:-1], -1, 1, self.factor.head_dim).astype(np.float64)
        return (blocks @ self.factor.of_heads(blocks.shape[-3])).reshape(array.shape).astype(array.dtype)


@dataclass(frozen=True)
class TurnRows:
    """W [heads·D, N] → every head's factor times its D rows, as if its input was multiplied by it."""

    factor: Factor

    def apply(self, array: np.ndarray) -> np.ndarray:
        blocks = array.reshape(-1, self.factor.head_dim, array.shape[-1]).astype(np.float64)
        return (self.factor.of_heads(len(blocks)) @ blocks).reshape(array.shape).astype(array.dtype)


@dataclass(frozen=True)
class FoldValueBasis(ModulePass):
    """Removes the rotation or matrix of v and its inverse on the output where W_v and W_o can take them over exactly.

    Exactly means: v is a float32 matmul with a weight nobody else uses (and at most a bias), cut into heads; the output
    is merged and multiplied by such a weight. Rounding turned weights back to fp16 would not be exact, so those stay.
    `weights` maps parameter names to weights with `then(transform)`; it is updated in place. `bases` holds the numbers
    of the matrices that are parameters; those nobody reads any more leave the parameters. The projections of a sketch
    stay: what values add up to in them is added back before the output's basis is undone.
    """

    name: ClassVar[str] = "fold-value-basis"
    weights: MutableMapping[str, Any] = field(default_factory=dict, repr=False)
    bases: Mapping[int, Bases] = field(default_factory=dict, repr=False)

    def apply(self, mod: tvm.IRModule) -> tvm.IRModule:
        matrices = basis_arrays(self.bases)
        plans = [_plan(func, matrices) for _, func in mod.functions_items() if isinstance(func, relax.Function)]
        # The functions of a module share their weights: fold only what every one of them can.
        shared = {name: t for name, t in plans[0].transforms.items() if all(name in p.transforms for p in plans)}
        for name, transform in shared.items():
            self.weights[name] = self.weights[name].then(transform)
        return rewrite_functions(mod, lambda func, name: _remove(func, name, shared, matrices))


@dataclass
class _Plan:
    """What one function allows: a transform per weight, the ops it makes needless, and constants that are turned."""

    transforms: dict[str, TurnColumns | TurnRows] = field(default_factory=dict)
    needless: dict[relax.Var, str] = field(default_factory=dict)
    biases: dict[relax.Var, tuple[str, int, TurnColumns]] = field(default_factory=dict)


class _Graph:
    """Definitions and users of the variables of a function."""

    def __init__(self, func: relax.Function) -> None:
        self.params = set(func.params)
        self.values = {b.var: b.value for block in func.body.blocks for b in block.bindings}
        self.users: dict[relax.Var, list[relax.Var]] = {}
        for var, value in self.values.items():
            for used in set(relax.analysis.free_vars(value)):
                self.users.setdefault(used, []).append(var)

    def is_op(self, var: relax.Expr, name: str) -> bool:
        value = self.values.get(var)
        return isinstance(value, relax.Call) and getattr(value.op, "name", "") == f"relax.{name}"

    def only_user(self, var: relax.Var) -> relax.Var | None:
        users = self.users.get(var, [])
        return users[0] if len(users) == 1 else None

    def keeps_shape(self, var: relax.Expr) -> bool:
        """Whether `var` is a reshape to the shape it already had, as exporters leave around the attention."""
        return self.is_op(var, "reshape") and tvm_ffi.structural_equal(var.ty.shape, self.values[var].args[0].ty.shape)

    def swaps_heads(self, var: relax.Expr) -> bool:
        return self.is_op(var, "permute_dims") and [int(a) for a in self.values[var].attrs.axes] == [0, 2, 1, 3]

    def own_matrix(self, weight: relax.Expr) -> bool:
        """Whether `weight` is a float32 matrix parameter with one user."""
        return weight in self.params and self.only_user(weight) is not None and dtype_of(weight.ty) == "float32"


def _plan(func: relax.Function, matrices: Mapping[str, np.ndarray]) -> _Plan:
    plan, graph = _Plan(), _Graph(func)
    for var, value in graph.values.items():
        factor = _factor(value, matrices)
        if factor is not None:
            (_fold_output if _leaves_cache(graph, value.args[0]) else _fold_input)(plan, graph, var, factor)
    return plan


def _factor(value: relax.Expr, matrices: Mapping[str, np.ndarray]) -> Factor | None:
    """What a change of basis multiplies its heads by; None for other expressions and for matrices not known."""
    if is_op_call(value, "rotate"):
        text = ",".join(f"{key}={int(value.attrs[key])}" for key in ("seed", "rounds", "inverse"))
        return Factor(f"rotation {text}", factor_of(value)[None])
    if is_op_call(value, "change_basis") and value.args[1].name in matrices:
        return Factor(value.args[1].name, matrices[value.args[1].name].astype(np.float64))
    return None


def _leaves_cache(graph: _Graph, var: relax.Expr) -> bool:
    """Whether `var` is the output of an attention, or that with its sketch added back."""
    value = graph.values.get(var)
    if is_op_call(value, "sketch"):
        value = graph.values.get(value.args[0])
    return is_op_call(value, "cached_attention")


def _fold_input(plan: _Plan, graph: _Graph, var: relax.Var, factor: Factor) -> None:
    heads = graph.values[var].args[0]
    while graph.keeps_shape(heads) and graph.only_user(heads) is not None:
        heads = graph.values[heads].args[0]
    if graph.only_user(heads) is None or not graph.swaps_heads(heads):
        return
    split = graph.values[heads].args[0]
    if not graph.is_op(split, "reshape") or graph.only_user(split) is None:
        return
    flat, bias_at = graph.values[split].args[0], None
    if graph.is_op(flat, "add"):
        total = flat
        sides = list(graph.values[total].args)
        bias_at = next((i for i, side in enumerate(sides) if side not in graph.values), None)
        if bias_at is None or len(sides[bias_at].ty.shape) != 1 or graph.only_user(total) is None:
            return
        flat = sides[1 - bias_at]
    if not graph.is_op(flat, "matmul") or graph.only_user(flat) is None:
        return
    weight = graph.values[flat].args[1]
    if not graph.own_matrix(weight):
        return
    transform = TurnColumns(factor)
    if bias_at is not None:
        bias = sides[bias_at]
        if bias in graph.params:
            if not graph.own_matrix(bias):
                return
            plan.transforms[bias.name] = transform
        else:
            plan.biases[total] = (weight.name, bias_at, transform)
    plan.transforms[weight.name] = transform
    plan.needless[var] = weight.name


def _fold_output(plan: _Plan, graph: _Graph, var: relax.Var, factor: Factor) -> None:
    swapped = graph.only_user(var)
    while swapped is not None and graph.keeps_shape(swapped):
        swapped = graph.only_user(swapped)
    if swapped is None or not graph.swaps_heads(swapped):
        return
    merged = graph.only_user(swapped)
    if merged is None or not graph.is_op(merged, "reshape"):
        return
    product = graph.only_user(merged)
    if product is None or not graph.is_op(product, "matmul") or not graph.values[product].args[0].same_as(merged):
        return
    weight = graph.values[product].args[1]
    if not graph.own_matrix(weight):
        return
    plan.transforms[weight.name] = TurnRows(factor)
    plan.needless[var] = weight.name


def _remove(
    func: relax.Function, name: str, shared: dict[str, Any], matrices: Mapping[str, np.ndarray]
) -> tvm.IRModule:
    plan = _plan(func, matrices)

    def rule(_bb: relax.BlockBuilder, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if plan.needless.get(var) in shared:
            return value.args[0]
        if var in plan.biases and plan.biases[var][0] in shared:
            _, at, transform = plan.biases[var]
            sides = list(value.args)
            sides[at] = relax.const(transform.apply(sides[at].value.numpy()))
            return relax.Call(value.op, sides, value.attrs)
        return KEEP

    turned = re_emit(func, name, rule).get()
    read = set(relax.analysis.free_vars(turned[name].body))
    first = num_input(func)
    kept = [v for i, v in enumerate(turned[name].params) if i < first or v in read or v.name not in matrices]
    return re_emit(turned[name], name, lambda *_: KEEP, params=kept).get()
