"""Caches hold codes: queries, keys and values enter them in the basis of their scheme, outputs are brought back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import tvm
from tvm import relax

from tqc.codec.layout import CacheLayout
from tqc.dialect import change_basis, is_op_call, layout_of, rotate, sketch
from tqc.dialect.cache import sink_logits_of, with_layout
from tqc.errors import PassError

from .base import KEEP, ModulePass, num_input, re_emit, rewrite_functions
from .bases import SIDES, Bases, basis_arrays, basis_name


@dataclass(frozen=True)
class QuantizeCache(ModulePass):
    """Sets the scheme of K and V of every layer; `plan` maps a layer to (k, v), `default` serves the others.

    A side's vectors enter the cache in the basis that its form asks for, exact tokens included, so that kernels only
    ever see one basis: the shared rotation (`seed`, `rounds`), or the matrices in `bases`, which become parameters
    `layer{i}.key_basis` and so on. Where a layer has matrices of a side, they take the place of its rotation. Scores
    are `(Πq)·(Πk)`, and outputs are brought back once per query head (rotate q instead of un-rotating K).
    Queries of a scheme with a sketch have their projections behind them, and what values add up to there is added back
    before the output's basis is undone. Exact sides, `polar-plain` and QJL without outliers stay as they are.

    Raises PassError for layers that do not exist, and for matrices that are missing or do not fit.
    """

    name: ClassVar[str] = "quantize-cache"
    default: tuple[str, str] = ("tq4", "tq4")
    plan: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    seed: int = 0
    rounds: int = 1
    bases: Mapping[int, Bases] = field(default_factory=dict, repr=False)

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
        matrices = self._matrices(layouts)

        def turned(bb: relax.BlockBuilder, x: relax.Expr, layer: int, which: str) -> relax.Expr:
            """x in the basis of the cache, or an output that leaves it."""
            side, back = ("k" if which in SIDES["k"] else "v"), which == "output"
            stored = layouts[layer].form(side)
            if back and stored.sketch_rows:
                x = bb.emit(self._sketch(x, layouts[layer], side, inverse=True))
            if self._has_matrix(layer, layouts[layer], side):
                x = bb.emit(change_basis(x, matrices[basis_name(self.bases[layer], layer, which)]))
            elif stored.basis == "rotation":
                x = bb.emit(rotate(x, seed=self.seed, rounds=self.rounds, inverse=back))
            if which == "query" and stored.sketch_rows:
                x = bb.emit(self._sketch(x, layouts[layer], side))
            return x

        def rule(bb: relax.BlockBuilder, _var: relax.Var, value: relax.Expr) -> relax.Expr | None:
            if is_op_call(value, "cache_append"):
                layer = int(value.attrs["layer"])
                k, v, *counts, _ = value.args
                arguments = [turned(bb, k, layer, "key"), turned(bb, v, layer, "value"), *counts]
                return with_layout(value, layouts[layer], [*arguments, relax.Tuple(list(state[layer].values()))])
            if is_op_call(value, "cached_attention"):
                layer = int(value.attrs["layer"])
                q, fresh, *counts, tensors = list(value.args)[:6]
                if isinstance(tensors, relax.Tuple):  # prefill reads the cache as it was before the append
                    tensors = relax.Tuple(list(state[layer].values()))
                if isinstance(fresh, relax.Tuple) and len(fresh.fields):
                    k, v = fresh.fields
                    fresh = relax.Tuple([turned(bb, k, layer, "key"), turned(bb, v, layer, "value")])
                logits = sink_logits_of(value)
                arguments = [turned(bb, q, layer, "query"), fresh, *counts, tensors]
                y = with_layout(value, layouts[layer], arguments if logits is None else [*arguments, logits])
                return turned(bb, bb.emit(y), layer, "output")
            return KEEP

        params = [*func.params[:first_state], *every, *func.params[num_input(func) :], *matrices.values()]
        attrs = dict(func.attrs) | {"num_input": first_state + len(every), "num_state": len(every)}
        built = re_emit(func, name, rule, params=params, attrs=attrs).get()
        # Prefill turns k and v for the attention and for the append: one of each is enough.
        return relax.transform.EliminateCommonSubexpr()(built)

    def _sketch(self, x: relax.Expr, layout: CacheLayout, side: str, *, inverse: bool = False) -> relax.Call:
        return sketch(x, scheme=getattr(layout, side), head_dim=layout.head_dim, seed=self.seed, inverse=inverse)

    def _layouts(self, func: relax.Function) -> dict[int, CacheLayout]:
        layouts = {}
        for binding in (b for block in func.body.blocks for b in block.bindings):
            if is_op_call(binding.value, "cache_append"):
                layer = int(binding.value.attrs["layer"])
                k, v = self.plan.get(layer, self.default)
                layouts[layer] = replace(layout_of(binding.value), k=k, v=v)
        unknown = sorted((set(self.plan) | set(self.bases)) - set(layouts))
        if unknown:
            raise PassError("the plan names layers the model does not have", where=f"layers {unknown}")
        return layouts

    def _has_matrix(self, layer: int, layout: CacheLayout, side: str) -> bool:
        given = layer in self.bases and self.bases[layer].has(side)
        return given and layout.form(side).basis != "none"

    def _matrices(self, layouts: Mapping[int, CacheLayout]) -> dict[str, relax.Var]:
        """The parameter of every matrix that is used, by name."""
        made = {}
        for layer, layout in layouts.items():
            for side in SIDES:
                where = f"{side.upper()} of layer {layer}"
                if self._has_matrix(layer, layout, side):
                    bases = self.bases[layer]
                    bases.check(side, layout.kv_heads, layout.head_dim, where=where)
                    arrays = basis_arrays({layer: bases})
                    for which in SIDES[side]:
                        name = basis_name(bases, layer, which)
                        made[name] = relax.Var(name, relax.TensorType(arrays[name].shape, "float32"))
                elif layout.form(side).basis == "matrix":
                    raise PassError(
                        f"{getattr(layout, side)} needs a basis that was measured",
                        where=where,
                        hint="compile with calibration, or choose a scheme without outliers and bands",
                    )
        return made


def _symbols(state: list[relax.Var]) -> dict[str, tvm.tirx.Var]:
    """The symbolic sizes of the exact state that is being replaced."""
    return {str(dim.name): dim for var in state for dim in var.ty.shape if isinstance(dim, tvm.tirx.Var)}
