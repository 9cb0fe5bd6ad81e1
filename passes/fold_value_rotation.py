"""The rotation of values moves into the weights around the attention, where it costs nothing at run time."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import tvm
import tvm_ffi
from tvm import relax

from tqc.codec import rotation
from tqc.dialect import is_op_call
from tqc.dialect.registry import dtype_of

from .base import KEEP, ModulePass, re_emit, rewrite_functions


@dataclass(frozen=True)
class RotateColumns:
    """W [K, heads·D] → every head's D columns times Πᵀ, so that x·W comes out rotated; a bias [heads·D] alike."""

    head_dim: int
    seed: int

    def apply(self, array: np.ndarray) -> np.ndarray:
        blocks = array.reshape(*array.shape[:-1], -1, self.head_dim).astype(np.float64)
        return (blocks @ rotation.matrix(self.head_dim, self.seed).T).reshape(array.shape).astype(array.dtype)


@dataclass(frozen=True)
class RotateRows:
    """W [heads·D, N] → Π times every head's D rows, so that rotated inputs give the unrotated product."""

    head_dim: int
    seed: int

    def apply(self, array: np.ndarray) -> np.ndarray:
        blocks = array.reshape(-1, self.head_dim, array.shape[-1]).astype(np.float64)
        return (rotation.matrix(self.head_dim, self.seed) @ blocks).reshape(array.shape).astype(array.dtype)


@dataclass(frozen=True)
class FoldValueRotation(ModulePass):
    """Removes `tqc.rotate` of v and its inverse on the output where W_v and W_o can take them over exactly.

    Exactly means: v is a float32 matmul with a weight nobody else uses (and at most a bias), cut into heads; the output
    is merged and multiplied by such a weight. Rounding rotated weights back to fp16 would not be exact, so those stay.
    `weights` maps parameter names to weights with `then(transform)`; it is updated in place.
    """

    name: ClassVar[str] = "fold-value-rotation"
    weights: MutableMapping[str, Any] = field(default_factory=dict, repr=False)

    def apply(self, mod: tvm.IRModule) -> tvm.IRModule:
        plans = [_plan(func) for _, func in mod.functions_items() if isinstance(func, relax.Function)]
        # The functions of a module share their weights: fold only what every one of them can.
        shared = {name: t for name, t in plans[0].transforms.items() if all(name in p.transforms for p in plans)}
        for name, transform in shared.items():
            self.weights[name] = self.weights[name].then(transform)
        return rewrite_functions(mod, lambda func, name: _remove(func, name, shared))


@dataclass
class _Plan:
    """What one function allows: a transform per weight, the rotations it makes needless, and rotated constants."""

    transforms: dict[str, RotateColumns | RotateRows] = field(default_factory=dict)
    needless: dict[relax.Var, str] = field(default_factory=dict)
    biases: dict[relax.Var, tuple[str, int, RotateColumns]] = field(default_factory=dict)


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


def _plan(func: relax.Function) -> _Plan:
    plan, graph = _Plan(), _Graph(func)
    for var, value in graph.values.items():
        if is_op_call(value, "rotate"):
            (_fold_output if bool(value.attrs["inverse"]) else _fold_input)(plan, graph, var, value)
    return plan


def _fold_input(plan: _Plan, graph: _Graph, var: relax.Var, value: relax.Call) -> None:
    heads = value.args[0]
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
    transform = RotateColumns(int(value.args[0].ty.shape[3]), int(value.attrs["seed"]))
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


def _fold_output(plan: _Plan, graph: _Graph, var: relax.Var, value: relax.Call) -> None:
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
    plan.transforms[weight.name] = RotateRows(int(var.ty.shape[3]), int(value.attrs["seed"]))
    plan.needless[var] = weight.name


def _remove(func: relax.Function, name: str, shared: dict[str, Any]) -> tvm.IRModule:
    plan = _plan(func)

    def rule(_bb: relax.BlockBuilder, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if plan.needless.get(var) in shared:
            return value.args[0]
        if var in plan.biases and plan.biases[var][0] in shared:
            _, at, transform = plan.biases[var]
            sides = list(value.args)
            sides[at] = relax.const(transform.apply(sides[at].value.numpy()))
            return relax.Call(value.op, sides, value.attrs)
        return KEEP

    return re_emit(func, name, rule).get()
