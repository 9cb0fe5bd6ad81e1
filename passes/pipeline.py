"""The compiler in one page: what happens to a module, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from .attach_cache import AttachCache, Storage
from .base import ModulePass
from .bases import Bases
from .bundle_arguments import BundleArguments
from .centre_keys import CentreKeys
from .drop_state_outputs import DropStateOutputs
from .fold_value_basis import FoldValueBasis
from .last_token_logits import LastTokenLogits
from .order_shape_functions import OrderShapeFunctions
from .quantize_cache import QuantizeCache

Pass = Callable[[tvm.IRModule], tvm.IRModule]


def cache_passes(
    *,
    schemes: tuple[str, str],
    sinks: int,
    recent: int,
    page: int,
    means: Mapping[int, np.ndarray],
    weights: MutableMapping[str, Any],
    fold: bool,
    plan: Mapping[int, tuple[str, str]] | None = None,
    bases: Mapping[int, Bases] | None = None,
    seed: int = 0,
    rounds: int = 1,
    storage: Storage = Storage(),  # noqa: B008  (it is frozen)
) -> list[ModulePass]:
    """Phase 1, the same for every target but for `storage`: from an imported model to functions over a cache of codes.

    `plan` gives layers schemes of their own, `bases` matrices in the place of the rotation; see `QuantizeCache`.
    """
    bases = bases or {}
    passes: list[ModulePass] = [
        CentreKeys(means),  # before the cache is attached: the cache then only ever sees centred keys
        AttachCache(sinks, recent, page, storage),  # past and present leave the interface; decode and prefill part ways
        QuantizeCache(schemes, plan or {}, seed, rounds, bases),  # schemes are set, rotations appear around the cache
    ]
    if fold:
        passes.append(FoldValueBasis(weights, bases))  # … and those of the values vanish again
    passes.append(LastTokenLogits())
    return passes


def kernel_passes(prepare: Sequence[Pass], lower: ModulePass, layout_weights: Sequence[Pass]) -> list[Pass]:
    """Phase 2, of one target: dialect ops become kernels, weights take the layout the kernels read."""
    return [*prepare, lower, *layout_weights, BundleArguments()]


def lowering_passes(schedule: Sequence[Pass], returns_state: bool = True) -> list[Pass]:
    """Phase 3: TVM's own lowering, from Relax to calls of scheduled functions in planned memory."""
    return [
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
        *schedule,
        relax.transform.RewriteDataflowReshape(),
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
        *([DropStateOutputs()] if returns_state else []),
        relax.transform.StaticPlanBlockMemory(),
        relax.transform.LowerAllocTensor(),
        relax.transform.KillAfterLastUse(),
        relax.transform.LowerRuntimeBuiltin(),
        relax.transform.ComputePrimValue(),
        relax.transform.VMShapeLower(),
        OrderShapeFunctions(),
        relax.transform.AttachGlobalSymbol(),
    ]


def run(mod: tvm.IRModule, passes: Sequence[Pass], dump: Dump | None = None) -> tvm.IRModule:
    """Applies the passes in order; `dump` receives the module after each."""
    for one in passes:
        mod = one(mod)
        if dump:
            dump(mod, one)
    return mod


class Dump:
    """Writes the module after every pass to `folder/NN-name.py`."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.count = 0

    def __call__(self, mod: tvm.IRModule, applied: Pass | str) -> None:
        name = applied if isinstance(applied, str) else _name(applied)
        text = mod.script(show_meta=False)
        (self.folder / f"{self.count:02d}-{name}.py").write_text(f"# after {applied}\n{text}\n", encoding="utf-8")
        self.count += 1


def _name(one: Pass) -> str:
    if isinstance(one, ModulePass):
        return one.name
    info = getattr(one, "info", None)
    return str(getattr(info, "name", None) or type(one).__name__)
