"""Which scheme each layer gets, and the measurements over a text that this and the cache's bases need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tqc.codec import scheme
from tqc.codec.form import EXACT_DTYPES, form
from tqc.errors import FrontendError
from tqc.frontend import Imported
from tqc.passes.key_bias import biased_layers, protect_keys
from tqc.passes.output_weights import output_weights

from .basis import output_moments
from .calibrate import KeyMeans, built_in_text, measure_key_means
from .moments import Moments, Sample
from .options import CompileOptions
from .plan import Plan, check_plan, read_plan

Schemes = dict[int, tuple[str, str]]


@dataclass(frozen=True, eq=False)
class Chosen:
    """The schemes (K, V) of every layer; what was measured for them, None if nothing was; the plan if one was made.

    `protected`: layers whose keys got 8 bits because of their bias, and how many times longer it is than the rest.
    """

    schemes: Schemes
    means: KeyMeans | None
    plan: Plan | None = None
    protected: dict[int, float] = field(default_factory=dict)


def choose(options: CompileOptions, imported: Imported, length: int) -> Chosen:
    """Schemes by a plan, by a budget, or the same for all layers; `length`: tokens of the longest sequence.

    Layers with a large bias on their keys get 8-bit keys where the same scheme is asked for everywhere. Raises
    PassError for a plan of another model, and FrontendError if a text is to be measured and cannot be.
    """
    layers = {layer.layer: layer for layer in imported.layers}
    plan, protected = None, {}
    if options.budget is not None:
        from .make_plan import make_plan  # which measures by this module

        plan, means = make_plan(options, imported, options.budget, length)
        return Chosen(plan.schemes(), means, plan)
    if options.plan is not None:
        plan = read_plan(options.plan)
        check_plan(plan, layers)
        schemes = plan.schemes()
    else:
        default = scheme.parse(options.kv)
        if options.protect and default[0] not in EXACT_DTYPES:
            protected = biased_layers(imported.mod, imported.weights, length=length, centred=options.centre)
        schemes = dict.fromkeys(layers, default) | protect_keys({}, default, protected)
        protected = {layer: ratio for layer, ratio in protected.items() if schemes[layer] != default}
    forms = [form(name, layers[layer].head_dim) for layer, sides in schemes.items() for name in sides]
    moments = any(stored.basis == "matrix" for stored in forms)
    coded_keys = any(k not in EXACT_DTYPES for k, _ in schemes.values())
    if not moments and not (options.centre and coded_keys):
        return Chosen(schemes, None, plan, protected)
    return Chosen(schemes, measure(options, imported, length, moments=moments), plan, protected)


def measure(
    options: CompileOptions,
    imported: Imported,
    length: int,
    *,
    moments: bool,
    on_layer: Callable[[int, Sample, Moments], None] | None = None,
) -> KeyMeans | None:
    """Runs the model over the calibration text, see `measure_key_means`; None if there is no tokenizer to read it with.

    Raises FrontendError if a text was given and there is none, or if the model cannot be run over it.
    """
    means = measure_key_means(
        options.model,
        imported.interface,
        calibration_text(options),
        skip=options.sinks,
        beside=options.beside,
        layers=imported.layers,
        length=length,
        moments=moments,
        on_layer=on_layer,
    )
    if means is None and options.calibrate is not None:
        raise FrontendError(
            "a calibration text needs the model's tokenizer",
            expected="tokenizer.json beside the model",
        )
    if means is not None and set(means.means) != set(range(len(imported.layers))):
        raise FrontendError("the present keys are not those of the layers", found=str(sorted(means.means)))
    return means


def calibration_text(options: CompileOptions) -> str:
    """The text that was given, or the built-in one. Raises FrontendError if it cannot be read."""
    if options.calibrate is None:
        return built_in_text()
    try:
        return options.calibrate.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FrontendError(
            "the calibration text cannot be read", where=str(options.calibrate), found=str(error)
        ) from error


def trial_text(options: CompileOptions) -> str:
    """The text that plans are tried over: the calibration text that was given, or a built-in one of its own, whose
    second part takes up what the first one says, as it is what old tokens are kept for. Raises FrontendError if it
    cannot be read."""
    return built_in_text("trial.txt") if options.calibrate is None else calibration_text(options)


def outputs_of(imported: Imported) -> dict[int, np.ndarray]:
    """What the output weights make of an error of a value, [Hk, D, D], of the layers where they are a plain matrix."""
    found = output_weights(imported.mod)
    return {
        layer.layer: output_moments(
            imported.weights[found[layer.layer]].numpy().astype(np.float32), layer.kv_heads, layer.head_dim
        )
        for layer in imported.layers
        if layer.layer in found
    }


def centred_layers(options: CompileOptions, imported: Imported) -> set[int]:
    """The layers whose keys `CentreKeys` centres."""
    return {x.layer for x in imported.layers if options.centre and not x.softcap and not x.sinks}
