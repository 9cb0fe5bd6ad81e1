"""Caches hold TurboQuant codes: queries, keys and values enter them rotated, outputs leave them rotated back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import tvm
from tvm import relax

from tqc.codec.layout import CacheLayout, code_bits
from tqc.dialect import is_op_call, layout_of, rotate
from tqc.dialect.cache import sink_logits_of, with_layout
from tqc.errors import PassError

from .base import KEEP, ModulePass, num_input, re_emit, rewrite_functions


@dataclass(frozen=True)
class QuantizeCache(ModulePass):
    """Sets the scheme of K and V of every layer; `plan` maps a layer to (k, v), `default` serves the others.

    A coded side is rotated before it enters the cache, exact tokens included, so that kernels only ever see one basis:
    scores are `(Πq)·(Πk)`, and the output of rotated values is rotated back once per query head (ALGORITHMS: rotate q
    instead of un-rotating K). An exact side (fp16, fp32) is not rotated.
    """

    name: ClassVar[str] = "quantize-cache"
    default: tuple[str, str] = ("tq4", "tq4")
    plan: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    seed: int = 0

    def apply(self, mod: tvm.IRModule) -> tvm.IRModule:
        return rewrite_functions(mod, self._quantize)

    def _quantize(self, func: relax.Function, name: str) -> tvm.IRModule:
        layouts = self._layouts(func)
        first_state = num_input(func) - int(func.attrs["num_state"])
        symbols = _symbols(func.params[first_state : num_input(func)])
        state = {
            layer: {
                spec.name: relax.Var(
                    f"layer{layer}_{spec.name}",
                    relax.TensorType([symbols.get(dim, dim) for dim in spec.shape], spec.dtype),
                )
                for spec in layout.tensors()
            }
            for layer, layout in layouts.items()
        }
        every = [var for tensors in state.values() for var in tensors.values()]

        def rotated(bb: relax.BlockBuilder, x: relax.Expr, scheme: str) -> relax.Expr:
            return bb.emit(rotate(x, seed=self.seed)) if code_bits(scheme) else x

        def rule(bb: relax.BlockBuilder, _var: relax.Var, value: relax.Expr) -> relax.Expr | None:
            if is_op_call(value, "cache_append"):
                layer = int(value.attrs["layer"])
                layout, (k, v, *counts, _) = layouts[layer], value.args
                arguments = [rotated(bb, k, layout.k), rotated(bb, v, layout.v), *counts]
                return with_layout(value, layout, [*arguments, relax.Tuple(list(state[layer].values()))])
            if is_op_call(value, "cached_attention"):
                layer = int(value.attrs["layer"])
                layout, (q, fresh, *counts, tensors) = layouts[layer], list(value.args)[:6]
                if isinstance(tensors, relax.Tuple):  # prefill reads the cache as it was before the append
                    tensors = relax.Tuple(list(state[layer].values()))
                if isinstance(fresh, relax.Tuple) and len(fresh.fields):
                    k, v = fresh.fields
                    fresh = relax.Tuple([rotated(bb, k, layout.k), rotated(bb, v, layout.v)])
                logits = sink_logits_of(value)
                arguments = [rotated(bb, q, layout.k), fresh, *counts, tensors]
                y = with_layout(value, layout, arguments if logits is None else [*arguments, logits])
                return rotate(bb.emit(y), seed=self.seed, inverse=True) if code_bits(layout.v) else y
            return KEEP

        params = [*func.params[:first_state], *every, *func.params[num_input(func) :]]
        attrs = dict(func.attrs) | {"num_input": first_state + len(every), "num_state": len(every)}
        built = re_emit(func, name, rule, params=params, attrs=attrs).get()
        # Prefill rotates k and v for the attention and for the append: one of each is enough.
        return relax.transform.EliminateCommonSubexpr()(built)

    def _layouts(self, func: relax.Function) -> dict[int, CacheLayout]:
        layouts = {}
        for binding in (b for block in func.body.blocks for b in block.bindings):
            if is_op_call(binding.value, "cache_append"):
                layer = int(binding.value.attrs["layer"])
                k, v = self.plan.get(layer, self.default)
                layouts[layer] = replace(layout_of(binding.value), k=k, v=v)
        unknown = sorted(set(self.plan) - set(layouts))
        if unknown:
            raise PassError("the plan names layers the model does not have", where=f"layers {unknown}")
        return layouts


def _symbols(state: list[relax.Var]) -> dict[str, tvm.tirx.Var]:
    """The symbolic sizes of the exact state that is being replaced."""
    return {str(dim.name): dim for var in state for dim in var.ty.shape if isinstance(dim, tvm.tirx.Var)}
