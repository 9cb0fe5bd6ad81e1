"""Past and present tensors leave the interface; each attention reads and writes a paged cache instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm import relax, tirx

from tqc.codec.layout import CacheLayout, ring_pages
from tqc.dialect import cache_append, cached_attention, is_op_call, positions
from tqc.dialect.attention import sinks_of
from tqc.dialect.registry import cast, dtype_of
from tqc.errors import PassError

from .base import DROP, KEEP, ModulePass, num_input, re_emit

PHASES = {"decode": 1, "prefill": None, "prefill_all": None}
"""The functions of an artifact and the chunk length each is fixed to."""


def _size(dim: int | str, symbols: dict[str, tirx.Var]) -> int | tirx.Var:
    """A dimension of a state tensor; equal symbols are one variable, which `symbols` learns."""
    return symbols.setdefault(dim, tirx.Var(dim, "int64")) if isinstance(dim, str) else dim


def _state_vars(layout: CacheLayout, layer: int, symbols: dict[str, tirx.Var]) -> list[relax.Var]:
    """One variable for each tensor of a layer's cache."""
    return [
        relax.Var(
            f"layer{layer}_{spec.name}",
            relax.TensorType([_size(dim, symbols) for dim in spec.shape], spec.dtype),
        )
        for spec in layout.tensors()
    ]


@dataclass(frozen=True)
class Storage:
    """How the kernels of a target hold a cache: the order of pages, the type of exact tokens, and the types of queries,
    keys and values that they take; others are cast to the first of these."""

    order: str = "lanes"
    exact_dtype: str = "float32"
    activations: tuple[str, ...] = ("float32",)

    def __str__(self) -> str:
        return f"{self.order}/{self.exact_dtype}"


@dataclass(frozen=True)
class AttachCache(ModulePass):
    """Turns `main(input_ids, positions, past…, weights…)` into the functions `decode`, `prefill` and `prefill_all`.

    Each takes `(input_ids [B, S], length [B], new_len [B], page_table [B, N], state…, weights…)` and returns the logits
    and the state. Positions follow from `length`. Decode appends and then attends over the cache alone; prefill
    attends to the cache and to the chunk's own exact keys and values, then appends. Every cache is exact here.
    A layer with a sliding window keeps only the coded pages that its window can touch.
    """

    name: ClassVar[str] = "attach-cache"
    sinks: int = 4
    recent: int = 128
    page: int = 64
    storage: Storage = Storage()

    def apply(self, mod: tvm.IRModule) -> tvm.IRModule:
        out = tvm.IRModule(attrs=mod.attrs)
        for phase, chunk in PHASES.items():
            copy = relax.utils.copy_with_new_vars(mod["main"]).without_attr("global_symbol")
            single = tvm.IRModule({"main": copy.with_attr("global_symbol", "main")})
            if chunk is not None:
                single = relax.transform.BindSymbolicVars({"seq": chunk}, "main")(single)
            for gv, func in self._attach(single["main"], phase).functions_items():
                out[gv] = func
        return out

    def _attach(self, func: relax.Function, phase: str) -> tvm.IRModule:
        inputs, weights = list(func.params[: num_input(func)]), list(func.params[num_input(func) :])
        by_name = {var.name: var for var in inputs}
        input_ids = by_name["input_ids"]
        batch = input_ids.ty.shape[0]
        symbols = {"batch": batch}
        width = tirx.Var("table_width", "int64")
        length, new_len = (relax.Var(name, relax.TensorType((batch,), "int32")) for name in ("length", "new_len"))
        page_table = relax.Var("page_table", relax.TensorType((batch, width), "int32"))
        state: list[relax.Var] = []
        attention_results: dict[relax.Var, relax.Expr] = {}
        appended: list[relax.Expr] = []

        for binding in (b for block in func.body.blocks for b in block.bindings):
            if is_op_call(binding.value, "attention"):
                state += _state_vars(self._layout(binding.value), int(binding.value.attrs["layer"]), symbols)
        if not state:
            raise PassError("the module has no attention to attach a cache to", where=self.name)
        state_by_name = {var.name: var for var in state}

        def attend(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
            layout, layer = self._layout(call), int(call.attrs["layer"])
            kept, *_ = taken = self.storage.activations
            q, k, v = (x if dtype_of(x.ty) in taken else cast(bb, x, kept) for x in call.args[:3])
            tensors = relax.Tuple([state_by_name[f"layer{layer}_{spec.name}"] for spec in layout.tensors()])
            sinks = sinks_of(call)
            options = {
                "sink_logits": None if sinks is None else cast(bb, sinks, "float32"),
                "layout": layout,
                "scale": float(call.attrs["scale"]),
                "softcap": float(call.attrs["softcap"]),
                "window": int(call.attrs["window"]),
                "layer": layer,
            }
            if phase == "decode":
                written = bb.emit(cache_append(k, v, length, new_len, page_table, tensors, layout=layout, layer=layer))
                y = cached_attention(q, None, length, new_len, page_table, written, **options)
            else:
                y = bb.emit(cached_attention(q, (k, v), length, new_len, page_table, tensors, **options))
                written = bb.emit(cache_append(k, v, length, new_len, page_table, tensors, layout=layout, layer=layer))
            appended.append(written)
            y = y if isinstance(y, relax.Var) else bb.emit(y)
            return cast(bb, y, dtype_of(call.args[0].ty))

        def rule(bb: relax.BlockBuilder, var: relax.Var, value: relax.Expr) -> relax.Expr | str | None:
            if is_op_call(value, "attention"):
                attention_results[var] = attend(bb, value)
                return DROP
            if isinstance(value, relax.TupleGetItem) and value.tuple_value in attention_results:
                return attention_results[value.tuple_value] if value.index == 0 else DROP
            if isinstance(value, relax.Tuple):  # the old result: logits and presents
                return value.fields[0]
            return KEEP

        builder = re_emit(
            func,
            phase,
            rule,
            params=[input_ids, length, new_len, page_table, *state, *weights],
            attrs={"global_symbol": phase, "num_input": 4 + len(state), "num_state": len(state)},
            prologue=[(by_name["positions"], positions(length, input_ids))],
            output=lambda logits: relax.Tuple([logits, *appended]),
        )
        return builder.get()

    def _layout(self, call: relax.Call) -> CacheLayout:
        heads, dim = int(call.args[0].ty.shape[1]), int(call.args[0].ty.shape[3])
        kv_heads = int(call.args[1].ty.shape[1])
        window = int(call.attrs["window"])
        exact, form = self.storage.exact_dtype, {"float32": "fp32", "float16": "fp16"}
        return CacheLayout(
            heads,
            kv_heads,
            dim,
            *(form[exact], form[exact]),
            *(self.sinks, self.recent, self.page),
            exact_dtype=exact,
            ring=ring_pages(window, self.recent, self.page) if window else 0,
            order=self.storage.order,
        )
