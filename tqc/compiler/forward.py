"""Compiles a model without a cache to one function whose keys and values pass through their codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from importlib import metadata
from pathlib import Path

from tqc.artifact import Forward, ForwardTensor, InPlace, Kernel, Library, Manifest, Source, command_line
from tqc.artifact.companions import companions
from tqc.artifact.write import write_artifact
from tqc.codec import scheme
from tqc.codegen.target import Target
from tqc.errors import FrontendError, PassError
from tqc.frontend.forward import ImportedForward, import_forward
from tqc.frontend.load import LoadedModel
from tqc.passes.pipeline import Dump
from tqc.passes.quantize_in_place import AttentionPlaces, QuantizeInPlace, find_attention

from .build import Built
from .libraries import build_targets
from .manifest import digests_of, library_name
from .options import CompileOptions

_OF_CACHES = ("sinks", "recent", "page", "max_context", "calibrate", "centre", "fold", "plan", "budget", "rounds")


def compile_forward(options: CompileOptions, model: LoadedModel, targets: Sequence[Target]) -> Path:
    """Compiles a model without cache inputs and writes the artifact directory; returns its path.

    The artifact has one function, `forward`, of the model's own inputs. Raises FrontendError for operations that are
    supported, where no attention is found, and PassError for options that concern a cache.
    """
    defaults = {field.name: field.default for field in fields(CompileOptions)}
    if ignored := [name for name in _OF_CACHES if getattr(options, name) != defaults[name]]:
        raise PassError(
            "Options for a cache, and the model has none",
            found=", ".join("--" + name.replace("_", "-") for name in ignored),
            hint="leave them out, or export the model with its cache as inputs",
        )
    imported = import_forward(model)
    if not find_attention(imported.mod["forward"]):
        raise FrontendError(
            "The model has neither cache inputs nor attention.",
            where=options.name,
            expected="past_key_values.N.key and .value among the inputs, or softmax(q·kᵀ)·v in the graph",
            hint="Export the model with past (optimum: task text-generation-with-past).",
        )
    places: list[AttentionPlaces] = []
    options.progress("running the passes", 0.35)
    dump = Dump(options.dump_dir) if options.dump_dir else None
    if dump:
        dump(imported.mod, "import")
    quantize = QuantizeInPlace(scheme.parse(options.kv), found=places)
    shared = quantize.apply(imported.mod)  # not called by TVM, which would make other errors of its errors
    if dump:
        dump(shared, quantize)
    builts, params = build_targets(shared, targets, dict(imported.weights), dump, options.progress)
    options.progress("writing the artifact", 0.85)
    out = write_artifact(
        options.output,
        manifest=_describe(options, imported, builts, places),
        libraries={library_name(b): b.export for b in builts},
        params=params,
        companions=companions(options.beside),
        force=options.force,
    )
    options.progress("done", 1.0)
    return out


def _describe(
    options: CompileOptions, imported: ImportedForward, builts: Sequence[Built], places: Sequence[AttentionPlaces]
) -> Manifest:
    k, v = scheme.parse(options.kv)
    recorded = {name: getattr(options, name) for name in ("target", "arch", "kv")}
    signature = ", ".join(f"{t.name} {t.dtype} {list(t.shape)}".replace("'", "") for t in imported.inputs)
    results = ", ".join(f"{t.name} {t.dtype} {list(t.shape)}".replace("'", "") for t in imported.outputs)

    def tensors(side) -> tuple[ForwardTensor, ...]:
        return tuple(ForwardTensor(name=t.name, dtype=t.dtype, shape=t.shape) for t in side)

    return Manifest(
        tqc_version=metadata.version("turboquant-compiler"),
        tvm_version=metadata.version("apache-tvm"),
        tvm_ffi_version=metadata.version("apache-tvm-ffi"),
        source=Source(file=options.name, sha256=imported.sha256, opset=imported.opset, dtype=imported.dtype),
        command_line=command_line("compile", options.name, recorded),
        libraries=tuple(
            Library(file=library_name(b), kind=b.target.kind, arch=b.target.arch, cpu_level=b.target.cpu_level)
            for b in builts
        ),
        layers=(),
        cache=None,
        digests=digests_of([pair for p in places for pair in ((k, p.k.head_dim), (v, p.v.head_dim))]),
        vocab_size=0,
        max_context=0,
        functions={"forward": f"({signature}, state (), params) -> ({results})"},
        params=builts[0].params,
        kernels=tuple(
            Kernel(name=f"{b.target}/{x.name}", schedule=x.schedule, config=x.config) for b in builts for x in b.kernels
        ),
        centring=None,
        forward=Forward(
            inputs=tensors(imported.inputs),
            outputs=tensors(imported.outputs),
            attention=tuple(InPlace(head_dim=place.k.head_dim, k=k, v=v) for place in places),
            limits=imported.limits,
        ),
    )
