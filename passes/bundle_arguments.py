"""State and weights each become one tuple argument, so that a call passes six values instead of hundreds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm import relax

from .base import KEEP, ModulePass, num_input, re_emit, rewrite_functions


@dataclass(frozen=True)
class BundleArguments(ModulePass):
    """`f(ids, length, new_len, page_table, state…, weights…)` → `f(…, state: Tuple, params: Tuple)`."""

    name: ClassVar[str] = "bundle-arguments"

    def apply(self, mod: tvm.IRModule) -> tvm.IRModule:
        return rewrite_functions(mod, self._bundle)

    def _bundle(self, func: relax.Function, name: str) -> tvm.IRModule:
        inputs = num_input(func)
        first_state = inputs - int(func.attrs["num_state"])
        state, weights = list(func.params[first_state:inputs]), list(func.params[inputs:])
        bundled = []
        prologue = []
        for bundle, members in (("state", state), ("params", weights)):
            var = relax.Var(bundle, relax.TupleType([member.ty for member in members]))
            bundled.append(var)
            prologue += [(member, relax.TupleGetItem(var, index)) for index, member in enumerate(members)]
        return re_emit(
            func,
            name,
            lambda *_: KEEP,
            params=[*func.params[:first_state], *bundled],
            attrs={"global_symbol": name, "num_input": first_state},
            prologue=prologue,
        ).get()


def weight_order(mod: tvm.IRModule) -> dict[str, list[str]]:
    """Names of the weights of every function, in the order in which `BundleArguments` packs them."""
    return {
        gv.name_hint: [var.name for var in func.params[num_input(func) :]]
        for gv, func in mod.functions_items()
        if isinstance(func, relax.Function)
    }
