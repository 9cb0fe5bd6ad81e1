"""Makes a plan: the scheme of K and V of every layer for a budget of bits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tqc.codec.form import form
from tqc.errors import PassError
from tqc.frontend import Imported
from tqc.frontend.canonical import LayerInfo
from tqc.frontend.imported import open_model
from tqc.passes.head_norms import head_norms
from tqc.passes.key_bias import biased_layers
from tqc.passes.output_weights import output_weights

from .allocate import Choice, allocate
from .basis import bases_of, output_moments
from .calibrate import KeyMeans, token_ids
from .choose import calibration_text, centred_layers, measure
from .costs import KEYS_COUNT, Window, measured_cost, predicted_cost
from .menu import menu
from .moments import Moments, Sample
from .options import CompileOptions
from .plan import LayerPlan, Plan, bits_per_value
from .recode import make_recode
from .sensitivity import can_measure, sensitivities

Costs = dict[tuple[int, str], dict[str, float]]
"""(layer, side) → scheme → cost."""


def make_plan(options: CompileOptions, imported: Imported, budget: float, length: int) -> tuple[Plan, KeyMeans | None]:
    """The plan with the least cost at `budget` mean bits a coded number, and what was measured over the text.

    Costs are measured where there is a tokenizer to read the text with and the model's file has the queries; otherwise
    they are predicted from the weights. Raises PassError for a budget that no choice meets or a text that is too short,
    and for a model of which neither can be said; FrontendError where it cannot be run over the text.
    """
    layers = {layer.layer: layer for layer in imported.layers}
    measured, unit = _Measured(options, imported), "noise"
    means = measure(options, imported, length, moments=True, on_layer=measured.add)
    if measured.costs and set(measured.costs) == {(layer, side) for layer in layers for side in "kv"}:
        costs, made_from = measured.costs, f"{means.tokens} tokens of a text, sha256 {means.sha256[:16]}"
        weights = _sensitivities(options, imported, means)
        if weights:
            costs, unit = _weighed(costs, weights), "nats"
            made_from += ", layers weighed by what they change in the predictions"
    else:
        costs, made_from = _predicted(imported, layers), "weights"
    chosen = allocate(_choices(costs, layers), budget * _values(layers))
    schemes = {layer: (chosen[layer, "k"].name, chosen[layer, "v"].name) for layer in layers}
    biases = biased_layers(imported.mod, imported.weights, length=length, centred=options.centre)
    why = {layer: _why(costs, layer, sides, unit, biases.get(layer)) for layer, sides in schemes.items()}
    plan = Plan(
        model=options.name,
        budget=budget,
        bits_per_value=round(bits_per_value(schemes, layers), 4),
        made_from=made_from,
        layers=[LayerPlan(layer=layer, k=k, v=v, why=why[layer]) for layer, (k, v) in schemes.items()],
    )
    return plan, means


class _Measured:
    """Costs of every scheme of the menu in each layer whose tensors the model's file has."""

    def __init__(self, options: CompileOptions, imported: Imported) -> None:
        self.costs: Costs = {}
        self._layers = {layer.layer: layer for layer in imported.layers}
        self._centred = centred_layers(options, imported)
        self._weights, self._outputs = imported.weights, output_weights(imported.mod)
        self._window = Window(options.sinks, options.recent + options.page // 2 if options.recent else 0)

    def add(self, layer: int, sample: Sample, moments: Moments) -> None:
        """Measures a layer; one without queries is left to the prediction."""
        if sample.queries is None:
            return
        info, output = self._layers[layer], None
        if layer in self._outputs:
            output = self._weights[self._outputs[layer]].numpy().astype(np.float32)
        mean = moments.mean if layer in self._centred else np.zeros_like(moments.mean)
        gram = {} if output is None else {layer: output_moments(output, info.kv_heads, info.head_dim)}
        for side, names in menu(info.head_dim, measured=True).items():
            self.costs[layer, side] = {}
            for name in names:
                bases = bases_of({layer: (name, name)}, {layer: info.head_dim}, {layer: moments}, self._centred, gram)
                cost = measured_cost(sample, info, side, name, bases.get(layer), mean, output, self._window)
                self.costs[layer, side][name] = cost * (KEYS_COUNT if side == "k" else 1.0)


PROBE = "tq3"
"""The scheme with which sensitivities are measured."""


def _sensitivities(options: CompileOptions, imported: Imported, means: KeyMeans) -> dict[tuple[int, str], float]:
    """What coding one side of one layer changes in the predictions; empty for a model too large to
    be run often, and for a text too short to say anything."""
    model = open_model(options.model)
    if not can_measure(model):
        return {}
    ids = token_ids(options.beside, calibration_text(options))
    centres = {layer: means.means[layer] for layer in centred_layers(options, imported)}
    recode = make_recode({x.layer: (PROBE, PROBE) for x in imported.layers}, centres, {})
    found = sensitivities(model, imported.interface, ids, recode, skip=options.sinks)
    return found if any(weight > 0 for weight in found.values()) else {}


def _weighed(costs: Costs, weights: Mapping[tuple[int, str], float]) -> Costs:
    """The costs of a place in proportion, that of the probe being what was measured with it."""
    return {
        place: {name: cost / of_place[PROBE] * max(weights[place], 0.0) for name, cost in of_place.items()}
        for place, of_place in costs.items()
    }


def _predicted(imported: Imported, layers: Mapping[int, LayerInfo]) -> Costs:
    """Costs by the logit-noise law."""
    norms = head_norms(imported.mod, imported.weights)
    if missing := sorted(set(layers) - set(norms)):
        raise PassError(
            "a plan can neither be measured nor predicted for this model",
            where=f"layer {missing[0]}",
            expected="queries and keys that are products with a weight, or tokenizer.json beside the model",
        )
    return {
        (layer, side): {
            name: predicted_cost(info, side, name, *norms[layer]) for name in menu(info.head_dim, measured=False)[side]
        }
        for layer, info in layers.items()
        for side in "kv"
    }


def _choices(costs: Costs, layers: Mapping[int, LayerInfo]) -> dict[tuple[int, str], list[Choice]]:
    return {
        (layer, side): [
            Choice(name, layers[layer].kv_heads * form(name, layers[layer].head_dim).bits, cost)
            for name, cost in of_side.items()
        ]
        for (layer, side), of_side in costs.items()
    }


def _values(layers: Mapping[int, LayerInfo]) -> int:
    """Numbers of one token's keys and values in all layers."""
    return sum(2 * layer.kv_heads * layer.head_dim for layer in layers.values())


def _why(costs: Costs, layer: int, schemes: tuple[str, str], unit: str, bias: float | None) -> str:
    """The cost of the choice, and of 4 bits to compare with."""
    parts = []
    for side, name in zip("kv", schemes, strict=True):
        found = costs[layer, side]
        parts.append(f"{side.upper()} {found[name]:.2g} {unit} (tq4: {found['tq4']:.2g})")
    if bias is not None:
        parts.append(f"key bias {bias:.0f} times as long as the keys' own part")
    return "; ".join(parts)
