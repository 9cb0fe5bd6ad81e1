"""Functions return the logits alone: the state was only returned to keep its in-place updates alive until here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm import relax

from .base import ModulePass


@dataclass(frozen=True)
class DropStateOutputs(ModulePass):
    """`return (logits, state…)` → `return logits`, once every kernel call is explicit and has effects of its own.

    Runs after `CallTIRRewrite`; from then on no pass removes a call whose result is unused.
    """

    name: ClassVar[str] = "drop-state-outputs"

    def apply(self, mod: tvm.IRModule) -> tvm.IRModule:
        out = tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs)
        for gv, func in mod.functions_items():
            if isinstance(func, relax.Function) and isinstance(func.ret_ty, relax.TupleType):
                out[gv] = _logits_only(func)
        return out


def _logits_only(func: relax.Function) -> relax.Function:
    result = func.body.body
    blocks = []
    for block in func.body.blocks:
        kept = []
        for binding in block.bindings:
            if binding.var.same_as(func.body.body):
                result = binding.value.fields[0]
            else:
                kept.append(binding)
        blocks.append(relax.BindingBlock(kept))
    return relax.Function(func.params, relax.SeqExpr(blocks, result), result.ty, False, func.attrs)
