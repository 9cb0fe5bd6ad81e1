"""What the command line asks to tune: a kernel with heads and schemes, or the caches of a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqc.bench.kernels import layout_of
from tqc.bench.problem import Geometry
from tqc.codegen.target import Target
from tqc.compiler.configurations import space_of
from tqc.errors import TqcError
from tqc.frontend import import_model

from .kernels import SCHEDULES, check_schedule
from .measurer import Subject


def of_kernel(name: str, heads: Sequence[Geometry], schemes: Sequence[str], target: Target) -> list[Subject]:
    """One kernel for every pair of heads and schemes. Raises TargetError for a kernel that cannot be tuned, CodecError
    for an unknown scheme."""
    check_schedule(name)
    layouts = [layout_of(kv, geometry, target) for geometry in heads for kv in schemes]
    return [Subject(name, layout, target) for layout in layouts]


def of_model(model: Path, schemes: Sequence[str], target: Target) -> list[Subject]:
    """All kernels of the caches of a model, equal ones once. Layers with a sliding window keep few pages, and are left
    out. Raises FrontendError for a model that is not understood, TqcError if no layer is left."""
    layers = import_model(model).layers
    heads = dict.fromkeys(
        Geometry(layer.query_heads, layer.kv_heads, layer.head_dim) for layer in layers if not layer.window
    )
    if not heads:
        raise TqcError("Every layer of this model has a sliding window, and those are not tuned", where=model.name)
    return [subject for name in SCHEDULES for subject in of_kernel(name, list(heads), schemes, target)]


def check_all(subjects: Sequence[Subject]) -> None:
    """Raises TargetError, before anything is built, if a layout has no configuration that fits."""
    for subject in subjects:
        if not space_of(subject.target, subject.schedule, subject.layout):
            raise TqcError("No configuration of this kernel fits", where=str(subject))
