"""Subtracts a constant vector from every key of a KV head: it cancels in the softmax and makes the codes finer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import tvm
from tvm import relax

from tqc.dialect import is_op_call
from tqc.dialect.attention import sinks_of
from tqc.dialect.registry import cast, dtype_of

from .base import KEEP, ModulePass, num_input, re_emit, rewrite_functions


def mean_name(layer: int) -> str:
    """The parameter that holds a layer's key mean."""
    return f"layer{layer}.key_mean"


@dataclass(frozen=True)
class CentreKeys(ModulePass):
    """Gives `tqc.attention` of every layer in `means` the keys minus the layer's mean.

    `means` maps a layer to float32 [Hk, D]; the means become parameters [Hk, 1, D]. With centred keys k − μ every score
    of a query changes by the same q·μ·scale, so the softmax does not change. A layer with a softcap is left alone:
    c·tanh is not invariant under the shift. So is one with sink logits: the shift would have to move the logit, by
    another amount for each query. `past_k` must then hold centred keys too, as the attached cache does.
    """

    name: ClassVar[str] = "centre-keys"
    means: Mapping[int, np.ndarray] = field(default_factory=dict, repr=False)

    def apply(self, mod: tvm.IRModule) -> tvm.IRModule:
        return rewrite_functions(mod, self._centre)

    def _centre(self, func: relax.Function, name: str) -> tvm.IRModule:
        params = {
            layer: relax.Var(mean_name(layer), relax.TensorType((mean.shape[0], 1, mean.shape[1]), "float32"))
            for layer, mean in self.means.items()
        }
        used: list[relax.Var] = []

        def rule(bb: relax.BlockBuilder, _var: relax.Var, value: relax.Expr) -> relax.Expr | None:
            if not is_op_call(value, "attention") or int(value.attrs["layer"]) not in params:
                return KEEP
            if float(value.attrs["softcap"]) or sinks_of(value) is not None:
                return KEEP
            mean = params[int(value.attrs["layer"])]
            used.append(mean)
            q, k, *rest = value.args
            centred = bb.emit(relax.op.subtract(cast(bb, k, "float32"), mean))
            return relax.Call(value.op, [q, cast(bb, centred, dtype_of(k.ty)), *rest], value.attrs)

        # The parameters are declared first: a function cannot gain one while its body is written.
        every = [*func.params, *params.values()]
        builder = re_emit(func, name, rule, params=every, attrs=dict(func.attrs))
        unused = {var.name for var in params.values()} - {var.name for var in used}
        return _without(builder.get(), name, unused) if unused else builder.get()


def _without(mod: tvm.IRModule, name: str, names: set[str]) -> tvm.IRModule:
    func = mod[name]
    kept = [var for index, var in enumerate(func.params) if index < num_input(func) or var.name not in names]
    return re_emit(func, name, lambda *_: KEEP, params=kept, attrs=dict(func.attrs)).get()
