"""One library for each target from the same module, and the weights that all of them take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import tvm

from tqc.artifact import Param
from tqc.artifact.params import storage_dtype
from tqc.codegen.target import Target
from tqc.errors import ArtifactError
from tqc.frontend.slabs import slabs
from tqc.frontend.weights import Weight
from tqc.passes.pipeline import Dump
from tqc.records.record import Record

from .build import Built, build
from .configurations import by_records
from .options import Progress


def build_targets(
    mod: tvm.IRModule,
    targets: Sequence[Target],
    weights: dict[str, Weight],
    dump: Dump | None,
    progress: Progress,
    records: Sequence[Record] = (),
    longest: int | None = None,
) -> tuple[list[Built], list[Param]]:
    """The library of each target, and the weights in the layout that they share.

    Kernels are configured by `records` for contexts of up to `longest` tokens, see `by_records`.

    Raises ArtifactError if the targets want different layouts, TargetError if a toolchain is missing.
    """
    builts = []
    for index, target in enumerate(targets):
        progress(f"building for {target}", 0.4 + 0.4 * index / len(targets))
        laid_out = dict(weights)
        builts.append((build(mod, target, laid_out, dump, by_records(target, records, longest)), laid_out))
    first, final = builts[0]
    if any(_wanted(other.params, own) != _wanted(first.params, final) for other, own in builts[1:]):
        raise ArtifactError("The targets want different weight layouts", hint="compile them into separate artifacts")
    params = [
        Param(name, final[name].shape, final[name].dtype, partial(_stored_slabs, final[name])) for name in first.params
    ]
    return [built for built, _ in builts], params


def _stored_slabs(weight: Weight) -> Iterator[np.ndarray]:
    """The parts of a weight in the type that holds them in memory."""
    return (part.view(storage_dtype(weight.dtype)) for part in slabs(weight))


def _wanted(params: tuple[str, ...], weights: dict[str, Weight]) -> list[tuple]:
    """What a library expects of the weight file."""
    return [(name, weights[name].shape, weights[name].dtype, weights[name].transforms) for name in params]
