"""`prefill` returns logits of the last token only: the row is taken before the vocabulary matmul, not after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm import relax

from tqc.dialect import is_op_call, last_token

from .base import KEEP, ModulePass, re_emit

_ROW_WISE = frozenset(f"relax.{name}" for name in ("astype", "add", "multiply", "divide", "subtract", "tanh", "matmul"))


@dataclass(frozen=True)
class LastTokenLogits(ModulePass):
    """Rewrites the function `prefill` from logits [B, S, V] to [B, 1, V], the row `new_len[b] − 1`.

    Walks back from the logits through row-wise operations (the matmul, softcaps, casts) with weights and constants and
    takes the row at the earliest of them that is not used elsewhere.
    """

    name: ClassVar[str] = "last-token-logits"

    def apply(self, mod: tvm.IRModule) -> tvm.IRModule:
        out = tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs)
        if "prefill" in [gv.name_hint for gv in mod.get_global_vars()]:
            func = mod["prefill"]
            out[mod.get_global_var("prefill")] = self._take_early(func)
        return out

    def _take_early(self, func: relax.Function) -> relax.Function:
        bindings = {b.var: b.value for block in func.body.blocks for b in block.bindings}
        users: dict[relax.Var, int] = {}
        for value in bindings.values():
            relax.analysis.post_order_visit(
                value, lambda e: users.__setitem__(e, users.get(e, 0) + 1) if isinstance(e, relax.Var) else None
            )
        result = bindings[func.body.body]
        source = result.fields[0]
        while source in bindings and users.get(source, 0) == 1:
            before = _data_operand(bindings[source], bindings)
            if before is None:
                break
            source = before
        new_len = next(var for var in func.params if var.name == "new_len")
        rows: dict[relax.Var, relax.Expr] = {}

        def rule(bb: relax.BlockBuilder, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
            if var in chain:
                value = _replace_operand(bindings[var], rows)
                rows[var] = bb.emit(value)
                return rows[var]
            if var.same_as(source):
                kept = bb.emit(value)
                rows[var] = bb.emit(last_token(kept, new_len))
                return kept
            if var.same_as(func.body.body):
                return relax.Tuple([rows[result.fields[0]], *value.fields[1:]])
            return KEEP

        chain = _chain(result.fields[0], source, bindings)
        return re_emit(func, "prefill", rule).get()["prefill"]


def _data_operand(value: relax.Expr, bindings: dict[relax.Var, relax.Expr]) -> relax.Var | None:
    """The one rank-3 operand of a row-wise operation whose other operands are weights or constants."""
    if is_op_call(value, "matmul_nbits"):
        return value.args[0] if value.args[0] in bindings and len(value.args[0].ty.shape) == 3 else None
    if not isinstance(value, relax.Call) or getattr(value.op, "name", "") not in _ROW_WISE:
        return None
    data = [arg for arg in value.args if arg in bindings and len(arg.ty.shape) == 3]
    others = [arg for arg in value.args if arg not in bindings and isinstance(arg.ty, relax.TensorType)]
    if len(data) != 1 or len(data) + len(others) != len(value.args) or any(len(o.ty.shape) > 2 for o in others):
        return None
    return data[0]


def _chain(last: relax.Var, source: relax.Var, bindings: dict[relax.Var, relax.Expr]) -> set[relax.Var]:
    chain = set()
    while not last.same_as(source):
        chain.add(last)
        last = _data_operand(bindings[last], bindings)
    return chain


def _replace_operand(value: relax.Call, rows: dict[relax.Var, relax.Expr]) -> relax.Call:
    return relax.Call(value.op, [rows.get(arg, arg) for arg in value.args], value.attrs, value.ty_args)
