"""Which weights multiply the outputs of the attentions: what an error of a value is worth depends on them."""

from __future__ import annotations

import tvm
from tvm import relax

from tqc.dialect import is_op_call

_ON_THE_WAY = {"relax.astype", "relax.reshape", "relax.permute_dims"}


def output_weights(mod: tvm.IRModule) -> dict[int, str]:
    """Layer → name of the parameter [H·D, N] that its attention's output is multiplied by in `main`.

    Layers whose output goes elsewhere, through a packed weight or to several users, are left out.
    """
    func = mod["main"]
    values = {b.var: b.value for block in func.body.blocks for b in block.bindings}
    users: dict[relax.Var, list[relax.Var]] = {}
    for var, value in values.items():
        for used in relax.analysis.free_vars(value):
            users.setdefault(used, []).append(var)
    for returned in relax.analysis.free_vars(func.body.body):
        users.setdefault(returned, []).append(returned)
    params, found = set(func.params), {}
    for var, value in values.items():
        if isinstance(value, relax.TupleGetItem) and value.index == 0:
            attention = values.get(value.tuple_value)
            if is_op_call(attention, "attention"):
                weight = _multiplier(var, values, users)
                if weight in params:
                    found[int(attention.attrs["layer"])] = weight.name
    return found


def _multiplier(
    var: relax.Var, values: dict[relax.Var, relax.Expr], users: dict[relax.Var, list[relax.Var]]
) -> relax.Expr | None:
    """The right operand of the only matmul that reads `var`, after operations of layout."""
    while len(set(users.get(var, []))) == 1:
        user = users[var][0]
        call = values.get(user) if user is not var else None
        if not isinstance(call, relax.Call) or not hasattr(call.op, "name"):
            return None
        if call.op.name == "relax.matmul" and call.args[0].same_as(var):
            return call.args[1]
        if call.op.name not in _ON_THE_WAY:
            return None
        var = user
    return None
