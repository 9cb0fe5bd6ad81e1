"""`tqc compile`: an ONNX decoder in, an artifact out."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from tqc.artifact import Param, check_output, write_artifact
from tqc.artifact.companions import companions
from tqc.codec import scheme
from tqc.codec.layout import code_bits
from tqc.codegen.target import parse_targets
from tqc.errors import ArtifactError, FrontendError, TqcError
from tqc.frontend import Imported, import_model, refusal, report_of
from tqc.frontend.slabs import slabs
from tqc.frontend.weights import ArrayTensor, Weight
from tqc.passes.centre_keys import mean_name
from tqc.passes.pipeline import Dump, cache_passes, run

from .build import build
from .calibrate import KeyMeans, built_in_text, measure_key_means
from .manifest import check_context, describe, library_name, limit_context, model_settings
from .options import CompileOptions


def compile_model(options: CompileOptions) -> Path:
    """Compiles `options.model` and writes the artifact directory `options.output`; returns its path.

    Raises FrontendError for a model that is not understood, CodecError for an unknown scheme, TargetError for a target
    that cannot be built here, ArtifactError if the output exists or cannot be written. Nothing is left half-written.
    """
    progress = options.progress
    check_output(options.output, options.force)
    targets = parse_targets(options.target, options.arch)
    schemes = scheme.parse(options.kv)
    settings = model_settings(options.beside)
    max_context = check_context(options, settings)

    progress("reading the model", 0.0)
    imported = _import(options)
    settings.check(imported.vocab_size, FrontendError)
    max_context = limit_context(options, max_context, imported.longest)
    progress("measuring key means", 0.15)
    means = _key_means(options, imported, schemes[0])
    weights: dict[str, Weight] = dict(imported.weights)
    for layer, mean in (means.means if means else {}).items():
        name, array = mean_name(layer), np.ascontiguousarray(mean[:, None, :])
        weights[name] = Weight(name, array.shape, "float32", ArrayTensor(array), name)

    progress("running the passes", 0.35)
    dump = Dump(options.dump_dir) if options.dump_dir else None
    if dump:
        dump(imported.mod, "import")
    shared = run(
        imported.mod,
        cache_passes(
            schemes=schemes,
            sinks=options.sinks,
            recent=options.recent,
            page=options.page,
            means=means.means if means else {},
            weights=weights,
            fold=options.fold,
        ),
        dump,
    )
    builts = []
    for index, target in enumerate(targets):
        progress(f"building for {target}", 0.4 + 0.4 * index / len(targets))
        laid_out = dict(weights)
        builts.append((build(shared, target, laid_out, dump), laid_out))
    built, final = builts[0]
    if any(_stored(other.params, weights) != _stored(built.params, final) for other, weights in builts[1:]):
        raise ArtifactError("The targets want different weight layouts", hint="compile them into separate artifacts")

    progress("writing the artifact", 0.85)
    manifest = describe(options, imported, shared["decode"], [b for b, _ in builts], means, max_context)
    out = write_artifact(
        options.output,
        manifest=manifest,
        libraries={library_name(b): b.export for b, _ in builts},
        params=[
            Param(name, final[name].shape, final[name].dtype, partial(slabs, final[name])) for name in built.params
        ],
        companions=companions(options.beside),
        force=options.force,
    )
    progress("done", 1.0)
    return out


def _import(options: CompileOptions) -> Imported:
    try:
        imported = import_model(options.model)
    except TqcError as error:
        if options.explain:
            options.explain(refusal(options.model, error))
        raise
    if options.explain:
        options.explain(report_of(imported))
    return imported


def _stored(params: tuple[str, ...], weights: dict[str, Weight]) -> list[tuple]:
    """What a library expects of the weight file."""
    return [(name, weights[name].shape, weights[name].dtype, weights[name].transforms) for name in params]


def _key_means(options: CompileOptions, imported: Imported, k_scheme: str) -> KeyMeans | None:
    if not options.centre or not code_bits(k_scheme):
        return None
    text = built_in_text()
    if options.calibrate is not None:
        try:
            text = options.calibrate.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FrontendError(
                "the calibration text cannot be read", where=str(options.calibrate), found=str(error)
            ) from error
    means = measure_key_means(options.model, imported.interface, text, skip=options.sinks, beside=options.beside)
    if means is None and options.calibrate is not None:
        raise FrontendError(
            "a calibration text needs the model's tokenizer",
            expected="tokenizer.json beside the model",
        )
    if means is not None and set(means.means) != set(range(len(imported.layers))):
        raise FrontendError("the present keys are not those of the layers", found=str(sorted(means.means)))
    return means
