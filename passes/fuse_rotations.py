"""Rotations around the cache become part of the kernels that read and write it: no launch, no trip through memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import tvm
from tvm import relax

from tqc.dialect import is_op_call
from tqc.dialect.cache import TURNED_INPUTS, with_turns

from .base import KEEP, ModulePass, re_emit


@dataclass(frozen=True)
class FuseRotations(ModulePass):
    """In `decode`: `cache_append(rotate(k), rotate(v))` → `cache_append(k, v) {turn_k, turn_v}` and
    `rotate⁻¹(cached_attention(rotate(q)))` → `cached_attention(q) {turn_q, turn_y}`.

    A rotation whose result is used elsewhere too stays, and so do those of head_dims for which `takes` is false, and of
    queries and outputs with the rows of a sketch behind them. Prefill shares one rotation of its keys between attention
    and append.
    """

    name: ClassVar[str] = "fuse-rotations"
    takes: Callable[[int], bool] = field(default=lambda _head_dim: True, repr=False)

    def apply(self, mod: tvm.IRModule) -> tvm.IRModule:
        out = tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs)
        for gv, func in mod.functions_items():
            if gv.name_hint == "decode" and isinstance(func, relax.Function):
                out[gv] = self._fuse(func)
        return out

    def _fuse(self, func: relax.Function) -> relax.Function:
        bindings = {b.var: b.value for block in func.body.blocks for b in block.bindings}
        users: Counter[relax.Expr] = Counter()
        for value in bindings.values():
            relax.analysis.post_order_visit(value, lambda e: users.update([e]) if isinstance(e, relax.Var) else None)
        # Outputs that nothing but a rotation back reads.
        outputs = {
            call.args[0]: call
            for call in bindings.values()
            if self._is_rotation(call, inverse=True)
            and is_op_call(bindings.get(call.args[0]), "cached_attention")
            and users[call.args[0]] == 1
        }

        def rule(bb: relax.BlockBuilder, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
            old = bindings[var]
            if self._is_rotation(old, inverse=True) and old.args[0] in outputs:
                return value.args[0]
            inputs = TURNED_INPUTS.get(getattr(getattr(old, "op", None), "name", ""), ())
            arguments, turns = list(getattr(value, "args", ())), {}
            for position, side in enumerate(inputs):
                made = bindings.get(old.args[position])
                if users[old.args[position]] == 1 and self._is_rotation(made, inverse=False):
                    turns[side] = made
                    arguments[position] = bb.lookup_binding(value.args[position]).args[0]
            if var in outputs:
                turns["y"] = outputs[var]
            return with_turns(value, arguments, turns) if turns else KEEP

        built = re_emit(func, "decode", rule).get()
        return relax.transform.DeadCodeElimination()(built)["decode"]

    def _is_rotation(self, value: relax.Expr | None, *, inverse: bool) -> bool:
        if not is_op_call(value, "rotate") or bool(value.attrs["inverse"]) != inverse:
            return False
        return self.takes(int(value.args[0].ty.shape[-1]))
