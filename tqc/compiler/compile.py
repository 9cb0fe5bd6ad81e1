"""`tqc compile`: an ONNX decoder in, an artifact out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tqc.artifact import check_output, write_artifact
from tqc.artifact.companions import companions
from tqc.codegen.target import parse_targets
from tqc.errors import FrontendError, PassError, TqcError
from tqc.frontend import Imported, import_model, refusal, report_of
from tqc.frontend.forward import has_no_cache
from tqc.frontend.imported import open_model
from tqc.frontend.load import LoadedModel
from tqc.frontend.weights import ArrayTensor, Weight
from tqc.passes.bases import basis_arrays
from tqc.passes.centre_keys import mean_name
from tqc.passes.pipeline import Dump, cache_passes, run
from tqc.records.log import records_in, shipped_records

from .basis import bases_of
from .choose import centred_layers, choose, outputs_of
from .forward import compile_forward
from .libraries import build_targets
from .make_plan import make_plan
from .manifest import check_context, describe, library_name, limit_context, model_settings
from .options import CompileOptions
from .plan import Plan
from .schedules import STORAGE


def compile_model(options: CompileOptions) -> Path:
    """Compiles `options.model` and writes the artifact directory `options.output`; returns its path.

    A model without a cache becomes one function, see `compile_forward`.

    Raises FrontendError for a model that is not understood, CodecError for an unknown scheme, TargetError for a target
    that cannot be built here, ArtifactError if the output exists or cannot be written. Nothing is left half-written.
    """
    progress = options.progress
    check_output(options.output, options.force)
    targets = parse_targets(options.target, options.arch)
    progress("reading the model", 0.0)
    model = _open(options)
    if has_no_cache(model):
        return compile_forward(options, model, targets)
    settings = model_settings(options.beside)
    max_context = check_context(options, settings)

    imported = _import(options, model)
    settings.check(imported.vocab_size, FrontendError)
    max_context = limit_context(options, max_context, imported.longest)
    progress("measuring the model over a text", 0.15)
    chosen = choose(options, imported, max_context)
    schemes, means = chosen.schemes, chosen.means
    if options.chosen:
        options.chosen(chosen)
    weights: dict[str, Weight] = dict(imported.weights)
    bases = bases_of(
        schemes,
        {layer.layer: layer.head_dim for layer in imported.layers},
        means.moments if means else {},
        centred_layers(options, imported),
        outputs_of(imported) if means and means.moments else {},
    )
    centres = means.means if means and options.centre else {}
    added = {mean_name(layer): mean[:, None, :] for layer, mean in centres.items()} | basis_arrays(bases)
    for name, array in added.items():
        array = np.ascontiguousarray(array)
        weights[name] = Weight(name, array.shape, "float32", ArrayTensor(array), name)

    progress("running the passes", 0.35)
    dump = Dump(options.dump_dir) if options.dump_dir else None
    if dump:
        dump(imported.mod, "import")
    shared = run(
        imported.mod,
        cache_passes(
            schemes=next(iter(schemes.values())),
            plan=schemes,
            bases=bases,
            rounds=options.rounds,
            sinks=options.sinks,
            recent=options.recent,
            page=options.page,
            means=centres,
            weights=weights,
            fold=options.fold,
            storage=STORAGE[targets[0].kind],
        ),
        dump,
    )
    records = shipped_records() + (records_in(options.tune_logs) if options.tune_logs else [])
    builts, params = build_targets(shared, targets, weights, dump, progress, records, max_context)

    progress("writing the artifact", 0.85)
    manifest = describe(options, imported, shared["decode"], builts, means, max_context)
    out = write_artifact(
        options.output,
        manifest=manifest,
        libraries={library_name(b): b.export for b in builts},
        params=params,
        companions=companions(options.beside),
        force=options.force,
    )
    progress("done", 1.0)
    return out


def plan_model(options: CompileOptions) -> Plan:
    """The plan that compiling with `options.budget` would follow; `options.output` is not touched.

    Raises what `compile_model` does, and PassError for a model without a cache.
    """
    options.progress("reading the model", 0.0)
    model = _open(options)
    if has_no_cache(model):
        raise PassError("A model without a cache has no layers to plan", where=options.name)
    settings = model_settings(options.beside)
    max_context = check_context(options, settings)
    imported = _import(options, model)
    settings.check(imported.vocab_size, FrontendError)
    options.progress("measuring every layer over a text", 0.2)
    plan, _ = make_plan(options, imported, options.budget, limit_context(options, max_context, imported.longest))
    options.progress("done", 1.0)
    return plan


def _open(options: CompileOptions) -> LoadedModel:
    try:
        return open_model(options.model)
    except TqcError as error:
        if options.explain:
            options.explain(refusal(options.model, error))
        raise


def _import(options: CompileOptions, model: LoadedModel) -> Imported:
    try:
        imported = import_model(model)
    except TqcError as error:
        if options.explain:
            options.explain(refusal(options.model, error))
        raise
    if options.explain:
        options.explain(report_of(imported))
    return imported
