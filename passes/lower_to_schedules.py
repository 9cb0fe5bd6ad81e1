"""Cache ops, norms and RoPE become calls of the kernels that the target's schedules generate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import ClassVar

import tvm
from tvm import relax, tirx

from tqc.codec.layout import CacheLayout
from tqc.dialect import is_op_call, layout_of
from tqc.dialect.cache import sink_logits_of
from tqc.dialect.kv_quantize import emit_quantized

from .base import KEEP, ModulePass, re_emit


@dataclass(frozen=True)
class KernelRecord:
    """One generated kernel: its name in the library, the schedule it comes from and the decisions taken."""

    name: str
    schedule: str
    config: dict[str, int | float | str | bool]


@dataclass(frozen=True)
class Schedules:
    """The kernel generators of one target.

    `append(layout)`, `decode(layout, **options)` and `prefill(layout, **options)` return PrimFuncs whose parameters are
    those of the op (tuples spread; sink logits, if there are any, behind q, k and v) and then the result. `others` maps
    further op names to `call → PrimFunc | None`; None leaves the call to TVM's own lowering.
    """

    append: Callable[..., tirx.PrimFunc]
    decode: Callable[..., tirx.PrimFunc]
    prefill: Callable[..., tirx.PrimFunc]
    others: dict[str, Callable[[relax.Call], tirx.PrimFunc | None]] = field(default_factory=dict)
    config: dict[str, int | float | str | bool] = field(default_factory=dict)


@dataclass(frozen=True)
class LowerToSchedules(ModulePass):
    """Replaces `tqc.cache_append` by an in-place kernel call and the other dialect ops by kernel calls.

    Layers of equal geometry and options share a kernel. What was generated is appended to `records`.
    """

    name: ClassVar[str] = "lower-to-schedules"
    schedules: Schedules = field(repr=False, kw_only=True)
    records: list[KernelRecord] = field(default_factory=list, repr=False)

    def apply(self, mod: tvm.IRModule) -> tvm.IRModule:
        builder = relax.BlockBuilder()
        kernels: dict[tuple, tvm.ir.GlobalVar] = {}
        for gv, func in mod.functions_items():
            if not isinstance(func, relax.Function):
                builder.add_func(func, gv.name_hint)
        for gv, func in mod.functions_items():
            if isinstance(func, relax.Function):
                re_emit(func, gv.name_hint, self._rule(kernels), builder=builder)
        return builder.get()

    def _rule(self, kernels: dict[tuple, tvm.ir.GlobalVar]) -> Callable:
        def kernel(
            bb: relax.BlockBuilder, key: tuple, make: Callable[[], tirx.PrimFunc | None]
        ) -> tvm.ir.GlobalVar | None:
            if key not in kernels:
                func = make()
                if func is None:
                    return None
                kernels[key] = bb.add_func(func.with_attr("tirx.is_scheduled", True), f"tqc_{key[0]}")
                decisions = dict(part for item in key[1:] for part in _decisions(item)) | self.schedules.config
                record = KernelRecord(kernels[key].name_hint, key[0], decisions)
                if all(record.name != other.name for other in self.records):  # equal kernels get one name
                    self.records.append(record)
            return kernels[key]

        def rule(bb: relax.BlockBuilder, _var: relax.Var, value: relax.Expr) -> relax.Expr | None:
            if is_op_call(value, "cache_append"):
                layout = layout_of(value)
                gv = kernel(bb, ("append", layout), lambda: self.schedules.append(layout))
                *arguments, state = _spread(bb, value.args)
                indices = list(range(len(arguments), len(arguments) + len(state)))
                return relax.op.call_tir_inplace(gv, [*arguments, *state], indices, [x.ty for x in state])
            if is_op_call(value, "cached_attention"):
                layout = layout_of(value)
                options = {
                    "softmax_scale": float(value.attrs["scale"]),
                    "softcap": float(value.attrs["softcap"]),
                    "window": int(value.attrs["window"]),
                }
                q, fresh, *counts, state = _spread(bb, list(value.args)[:6])
                logits = [] if sink_logits_of(value) is None else [sink_logits_of(value)]
                if logits:
                    options["sink_logits"] = True
                phase = "prefill" if fresh else "decode"
                make = getattr(self.schedules, phase)
                gv = kernel(bb, (phase, layout, tuple(options.items())), lambda: make(layout, **options))
                return relax.op.call_tir(gv, [q, *fresh, *logits, *counts, *state], value.ty)
            if is_op_call(value, "kv_quantize"):  # written out here, its rotations meet the layout of weights
                options = {key: int(value.attrs[key]) for key in ("seed", "rounds")}
                return emit_quantized(bb, value.args[0], scheme=str(value.attrs["scheme"]), **options)
            name = getattr(getattr(value, "op", None), "name", "")
            if isinstance(name, str) and name.removeprefix("tqc.") in self.schedules.others and name.startswith("tqc."):
                short = name.removeprefix("tqc.")
                types = tuple(str(arg.ty) for arg in value.args)
                options = tuple((str(k), value.attrs[k]) for k in sorted(value.attrs.keys()))
                gv = kernel(bb, (short, types, options), lambda: self.schedules.others[short](value))
                return KEEP if gv is None else relax.op.call_tir(gv, list(value.args), value.ty)
            return KEEP

        return rule


def _decisions(item: object) -> list[tuple[str, object]]:
    """What a part of a kernel's key says: the fields of a layout, named options, or the types of its arguments."""
    if isinstance(item, CacheLayout):
        return list(asdict(item).items())
    if all(isinstance(entry, tuple) for entry in item):
        return [(name, value) for name, value in item]
    return [("arguments", ", ".join(item))]


def _spread(bb: relax.BlockBuilder, args: list[relax.Expr]) -> list:
    """Arguments with every tuple turned into the list of its fields."""

    def fields(arg: relax.Expr) -> relax.Expr | list[relax.Expr]:
        if isinstance(arg, relax.Tuple):
            return list(arg.fields)
        if isinstance(arg.ty, relax.TupleType):
            return [bb.emit(relax.TupleGetItem(arg, i)) for i in range(len(arg.ty.fields))]
        return arg

    return [fields(arg) for arg in args]
