"""Which schedules and which passes serve which target."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax

from tqc.codec.layout import CacheLayout
from tqc.codegen.target import Target
from tqc.dialect.registry import dtype_of
from tqc.passes.attach_cache import Storage
from tqc.passes.fuse_rotations import FuseRotations
from tqc.passes.lower_to_schedules import Schedules
from tqc.passes.pipeline import Pass
from tqc.records.log import shipped_records

from .configurations import Configure, by_records


@dataclass(frozen=True)
class Backend:
    """What a target adds to the pipeline: passes on the dialect's ops (`prepare`), kernel generators, passes on the
    weights, passes on TVM's own functions."""

    schedules: Schedules
    layout_weights: Sequence[Pass]
    schedule: Sequence[Pass]
    prepare: Sequence[Pass] = ()


STORAGE = {"cpu": Storage(), "cuda": Storage("fragments", "float16", ("float32", "float16"))}
"""How the kernels of a kind of target hold a cache."""


def backend(target: Target, weights: MutableMapping[str, Any], configure: Configure | None = None) -> Backend:
    """The backend of `target`; its passes update `weights`. `configure`: what kernels are built with, by default what
    the records that come with the compiler speak for."""
    makers: dict[str, Callable[[Target, MutableMapping[str, Any], Configure], Backend]] = {"cpu": _cpu, "cuda": _cuda}
    return makers[target.kind](target, weights, configure or by_records(target, shipped_records()))


def _cpu(target: Target, weights: MutableMapping[str, Any], configure: Configure) -> Backend:
    from tqc.passes.layout_nbits import LayoutNbits
    from tqc.passes.layout_weights import LayoutWeights
    from tqc.passes.schedule_cpu import ScheduleCpu
    from tqc.passes.share_tied_weights import ShareTiedWeights
    from tqc.schedules.cpu_append import make_append
    from tqc.schedules.cpu_basis import make_basis
    from tqc.schedules.cpu_decode import make_decode
    from tqc.schedules.cpu_matmul import MatmulConfig
    from tqc.schedules.cpu_nbits import nbits_config
    from tqc.schedules.cpu_norm import make_rms_norm
    from tqc.schedules.cpu_prefill import make_prefill
    from tqc.schedules.cpu_rope import make_rope

    products = MatmulConfig.for_target(target.tvm_target())

    def change_basis(call: relax.Call) -> tvm.tirx.PrimFunc:
        x, matrix = (arg.ty for arg in call.args)
        return make_basis(int(x.shape[1]), int(matrix.shape[0]), int(x.shape[3]), dtype_of(x), config=products)

    def rms_norm(call: relax.Call) -> tvm.tirx.PrimFunc:
        x, weight = (arg.ty for arg in call.args)
        return make_rms_norm(
            int(x.shape[-1]),
            float(call.attrs["epsilon"]),
            dtype_of(x),
            weight_dtype=dtype_of(weight),
            leading=len(x.shape) - 1,
        )

    def rope(call: relax.Call) -> tvm.tirx.PrimFunc | None:
        x = call.args[0].ty
        if call.attrs["interleaved"]:
            return None
        return make_rope(int(x.shape[1]), int(x.shape[3]), dtype_of(x), scaling=float(call.attrs["scaling"]))

    return Backend(
        Schedules(
            append=lambda layout: make_append(layout, config=configure("append", layout).config),
            decode=lambda layout, **options: make_decode(layout, config=configure("decode", layout).config, **options),
            prefill=lambda layout, **options: make_prefill(
                layout, config=configure("prefill", layout).config, **options
            ),
            others={"change_basis": change_basis, "rms_norm": rms_norm, "rope": rope},
            decisions=lambda schedule, layout: (
                configure(schedule, layout).decisions() if layout else {"isa": target.isa}
            ),
        ),
        layout_weights=[
            LayoutNbits(nbits_config(target.tvm_target()), weights),
            LayoutWeights(config=products, weights=weights),
            ShareTiedWeights(weights),
        ],
        schedule=[ScheduleCpu()],
    )


def _cuda(target: Target, weights: MutableMapping[str, Any], configure: Configure) -> Backend:
    from tvm.s_tir import dlight

    from tqc.schedules.cuda_append import make_append
    from tqc.schedules.cuda_append_token import make_append_token
    from tqc.schedules.cuda_decode import make_decode
    from tqc.schedules.cuda_prefill import make_prefill
    from tqc.schedules.cuda_queries import can_turn
    from tqc.schedules.cuda_rotate import Turn, can_rotate, make_rotate

    def common(schedule: str, layout: CacheLayout) -> dict[str, Any]:
        return {"config": configure(schedule, layout).config, "arch": target.arch}

    def append(layout: CacheLayout, *, dtype: str, turns: tuple = (), tokens: int = 0) -> tvm.tirx.PrimFunc:
        options = common("append", layout) | {"dtype": dtype}
        if tokens == 1:
            return make_append_token(layout, turns={side: Turn(*turn) for side, turn in turns}, **options)
        return make_append(layout, **options)

    def decode(layout: CacheLayout, *, turns: tuple = (), **options: Any) -> tvm.tirx.PrimFunc:
        made = {side: Turn(*turn) for side, turn in turns}
        around = {"turn": made.get("q"), "turn_back": made.get("y")}
        return make_decode(layout, **around, **options, **common("decode", layout))

    def prefill(layout: CacheLayout, **options: Any) -> tvm.tirx.PrimFunc:
        return make_prefill(layout, **options, **common("prefill", layout))

    def rotate(call: relax.Call) -> tvm.tirx.PrimFunc | None:
        x = call.args[0].ty
        head_dim, dtype = int(x.shape[-1]), dtype_of(x)
        if not can_rotate(head_dim) or dtype not in ("float16", "float32"):
            return None
        options = {"seed": int(call.attrs["seed"]), "rounds": int(call.attrs["rounds"])}
        return make_rotate(len(x.shape) - 1, head_dim, dtype, inverse=bool(call.attrs["inverse"]), **options)

    rules = [dlight.gpu.Matmul(), dlight.gpu.GEMV(), dlight.gpu.Reduction(), dlight.gpu.GeneralReduction()]
    return Backend(
        Schedules(
            append=append,
            decode=decode,
            prefill=prefill,
            others={"rotate": rotate},
            decisions=lambda schedule, layout: configure(schedule, layout).decisions() if layout else {},
            dtypes=STORAGE["cuda"].activations,
            fresh="float16",
            single=True,
        ),
        layout_weights=[],
        schedule=[dlight.ApplyDefaultSchedule(*rules, dlight.gpu.Fallback())],
        prepare=[FuseRotations(can_turn)],
    )
