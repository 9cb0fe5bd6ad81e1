"""Cache ops, norms and RoPE become calls of the kernels that the target's schedules generate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import ClassVar

import tvm
from tvm import relax, tirx

from tqc.codec.layout import CacheLayout
from tqc.dialect import is_op_call, layout_of
from tqc.dialect.cache import sink_logits_of, turns_of
from tqc.dialect.kv_quantize import emit_quantized
from tqc.dialect.registry import cast, dtype_of

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

    `append(layout, **options)`, `decode(layout, **options)` and `prefill(layout, **options)` return PrimFuncs whose
    parameters are those of the op (tuples spread; sink logits, if there are any, behind q, k and v) and then the
    result. Options beyond those of the op: `dtype` of queries, keys and values, where `dtypes` names more than one;
    `turns`, (side, (seed, rounds)) of what the kernel rotates; of append `tokens` = 1, where `single` is set and the
    chunk is one token. `fresh`: the type of a chunk's keys and values in prefill, if it is not that of the queries.
    `others` maps further op names to `call → PrimFunc | None`; None leaves the call to TVM's own lowering.
    `decisions(schedule, layout)`: the configuration of a kernel, for the record; layout None for `others`.
    """

    append: Callable[..., tirx.PrimFunc]
    decode: Callable[..., tirx.PrimFunc]
    prefill: Callable[..., tirx.PrimFunc]
    others: dict[str, Callable[[relax.Call], tirx.PrimFunc | None]] = field(default_factory=dict)
    decisions: Callable[[str, CacheLayout | None], dict[str, int | float | str | bool]] = lambda _schedule, _layout: {}
    dtypes: tuple[str, ...] = ("float32",)
    fresh: str | None = None
    single: bool = False

    def options_of(self, call: relax.Call) -> dict[str, object]:
        """What the maker is told beside the options of the op."""
        found: dict[str, object] = {}
        if len(self.dtypes) > 1:
            found["dtype"] = dtype_of(call.args[0].ty)
        if turns := turns_of(call):
            found["turns"] = tuple(sorted(turns.items()))
        return found


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
                layout = key[1] if isinstance(key[1], CacheLayout) else None
                decided = self.schedules.decisions(key[0], layout)
                decisions = dict(part for item in key[1:] for part in _decisions(item)) | decided
                record = KernelRecord(kernels[key].name_hint, key[0], decisions)
                if all(record.name != other.name for other in self.records):  # equal kernels get one name
                    self.records.append(record)
            return kernels[key]

        def rule(bb: relax.BlockBuilder, _var: relax.Var, value: relax.Expr) -> relax.Expr | None:
            if is_op_call(value, "cache_append"):
                layout, options = layout_of(value), self.schedules.options_of(value)
                if self.schedules.single and _is_one(value.args[0].ty.shape[2]):
                    options["tokens"] = 1
                make = self.schedules.append
                gv = kernel(bb, ("append", layout, tuple(options.items())), lambda: make(layout, **options))
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
                options |= self.schedules.options_of(value)
                phase = "prefill" if fresh else "decode"
                if self.schedules.fresh:
                    fresh = [cast(bb, x, self.schedules.fresh) for x in fresh]
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


def _is_one(size: relax.Expr) -> bool:
    return isinstance(size, tirx.IntImm) and int(size) == 1


def _decisions(item: object) -> list[tuple[str, object]]:
    """What a part of a kernel's key says: the fields of a layout, named options, or the types of its arguments."""
    if isinstance(item, CacheLayout):
        return list(asdict(item).items())
    if all(isinstance(entry, tuple) for entry in item):
        return [pair for name, value in item for pair in (_turns(value) if name == "turns" else [(name, value)])]
    return [("arguments", ", ".join(item))]


def _turns(turns: tuple) -> list[tuple[str, int]]:
    return [(f"turn_{side}", rounds) for side, (_seed, rounds) in turns]


def _spread(bb: relax.BlockBuilder, args: list[relax.Expr]) -> list:
    """Arguments with every tuple turned into the list of its fields."""

    def fields(arg: relax.Expr) -> relax.Expr | list[relax.Expr]:
        if isinstance(arg, relax.Tuple):
            return list(arg.fields)
        if isinstance(arg.ty, relax.TupleType):
            return [bb.emit(relax.TupleGetItem(arg, i)) for i in range(len(arg.ty.fields))]
        return arg

    return [fields(arg) for arg in args]
