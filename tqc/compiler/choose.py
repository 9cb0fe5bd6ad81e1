"""Which scheme each layer gets, and the measurements over a text that this and the cache's bases need."""

from __future__ import annotations

import numpy as np

from tqc.codec import scheme
from tqc.codec.form import EXACT_DTYPES, form
from tqc.errors import FrontendError
from tqc.frontend import Imported
from tqc.passes.output_weights import output_weights

from .basis import output_moments
from .calibrate import KeyMeans, built_in_text, measure_key_means
from .options import CompileOptions
from .plan import check_plan, read_plan

Schemes = dict[int, tuple[str, str]]


def choose(options: CompileOptions, imported: Imported, length: int) -> tuple[Schemes, KeyMeans | None]:
    """The schemes (K, V) of every layer, and what was measured for them; None if nothing was.

    `length`: tokens of the longest sequence.

    Raises PassError for a plan of another model, and FrontendError if a text is to be measured and cannot be.
    """
    layers = {layer.layer: layer for layer in imported.layers}
    if options.plan is not None:
        plan = read_plan(options.plan)
        check_plan(plan, layers)
        schemes = plan.schemes()
    else:
        schemes = dict.fromkeys(layers, scheme.parse(options.kv))
    forms = [form(name, layers[layer].head_dim) for layer, sides in schemes.items() for name in sides]
    moments = any(stored.basis == "matrix" for stored in forms)
    coded_keys = any(k not in EXACT_DTYPES for k, _ in schemes.values())
    if not moments and not (options.centre and coded_keys):
        return schemes, None
    return schemes, measure(options, imported, length, moments=moments)


def measure(options: CompileOptions, imported: Imported, length: int, *, moments: bool) -> KeyMeans | None:
    """Runs the model over the calibration text; None if there is no tokenizer to read it with.

    Raises FrontendError if a text was given and there is none, or if the model cannot be run over it.
    """
    text = built_in_text()
    if options.calibrate is not None:
        try:
            text = options.calibrate.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FrontendError(
                "the calibration text cannot be read", where=str(options.calibrate), found=str(error)
            ) from error
    means = measure_key_means(
        options.model,
        imported.interface,
        text,
        skip=options.sinks,
        beside=options.beside,
        moments=moments,
        queries={layer.layer: layer.query for layer in imported.layers},
        ropes={layer.layer: layer.rope for layer in imported.layers},
        length=length,
    )
    if means is None and options.calibrate is not None:
        raise FrontendError(
            "a calibration text needs the model's tokenizer",
            expected="tokenizer.json beside the model",
        )
    if means is not None and set(means.means) != set(range(len(imported.layers))):
        raise FrontendError("the present keys are not those of the layers", found=str(sorted(means.means)))
    return means


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
