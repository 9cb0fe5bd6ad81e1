"""A tied embedding is stored once: its rows are gathered from the packed vocabulary matrix."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import tvm
from tvm import relax, te

from tqc.frontend.weights import Transpose

from .base import KEEP, ModulePass, num_input, re_emit
from .layout_weights import PackColumns
from .matmul_plan import is_op


@dataclass(frozen=True)
class ShareTiedWeights(ModulePass):
    """`take(E, ids, axis=0)` → rows gathered from P, where P is the same stored tensor, transposed and packed.

    E [V, K] must have no other reader in any function, and P [V/block, K, block] must be a parameter; E then leaves the
    parameters and `weights`. Runs after `LayoutWeights`. A row of P is strided, but a step reads only one per token.
    """

    name: ClassVar[str] = "share-tied-weights"
    weights: MutableMapping[str, Any] = field(default_factory=dict, repr=False)

    def apply(self, mod: tvm.IRModule) -> tvm.IRModule:
        functions = [func for _, func in mod.functions_items() if isinstance(func, relax.Function)]
        tied = {name: twin for name in self.weights if (twin := self._twin(name))}
        for func in functions:
            tied = {name: twin for name, twin in tied.items() if _only_taken(func, name, twin)}
        if not tied:
            return mod
        for name in tied:
            del self.weights[name]
        others = {gv: func for gv, func in mod.functions_items() if not isinstance(func, relax.Function)}
        builder = relax.BlockBuilder(tvm.IRModule(others, attrs=mod.attrs))
        for gv, func in mod.functions_items():
            if isinstance(func, relax.Function):
                _share(func, gv.name_hint, tied, builder)
        return builder.get()

    def _twin(self, name: str) -> str | None:
        """The weight that stores the same tensor as `name`, transposed and packed."""
        plain = self.weights[name]
        for other, weight in self.weights.items():
            if plain.transforms or weight.source != plain.source or len(weight.transforms) not in (1, 2):
                continue
            *before, last = weight.transforms
            turned = isinstance(last, PackColumns) and (last.transposed != (before == [Transpose((1, 0))]))
            if turned and (not before or isinstance(before[0], Transpose)):
                return other
        return None


def _only_taken(func: relax.Function, name: str, twin: str) -> bool:
    params = {var.name: var for var in func.params[num_input(func) :]}
    if name not in params or twin not in params:
        return False
    readers = [b.value for block in func.body.blocks for b in block.bindings if _reads(b.value, params[name])]
    return bool(readers) and all(_is_row_take(value, params[name]) for value in readers)


def _reads(value: relax.Expr, var: relax.Var) -> bool:
    return var in relax.analysis.free_vars(value)


def _is_row_take(value: relax.Expr, weight: relax.Var) -> bool:
    return is_op(value, "take") and value.args[0].same_as(weight) and value.attrs.axis == 0


def _share(func: relax.Function, name: str, tied: dict[str, str], builder: relax.BlockBuilder) -> None:
    params = {var.name: var for var in func.params}

    def rows(packed: te.Tensor, ids: te.Tensor) -> te.Tensor:
        block = packed.shape[2]
        return te.compute(
            (*ids.shape, packed.shape[1]),
            lambda *at: packed[ids[at[:-1]] // block, at[-1], ids[at[:-1]] % block],
            name="rows",
        )

    def rule(bb: relax.BlockBuilder, _var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        for plain, twin in tied.items():
            if _is_row_take(value, params[plain]):
                return bb.call_te(rows, params[twin], value.args[1], primfunc_name_hint="tied_rows")
        return KEEP

    kept = [var for var in func.params if var.name not in tied]
    re_emit(func, name, rule, params=kept, builder=builder)
