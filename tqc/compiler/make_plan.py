"""Makes a plan: the scheme of K and V of every layer for a budget of bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
from .candidates import Assignment, candidates, weighed
from .choose import centred_layers, measure, outputs_of, trial_text
from .costs import KEYS_COUNT, Window, measured_cost, predicted_cost
from .menu import menu, plain_codes
from .moments import Moments, Sample
from .options import CompileOptions
from .plan import LayerPlan, Plan, bits_per_value
from .recode import make_recode
from .sensitivity import sensitivities
from .smooth import smooth
from .trial import Place, Trial, can_measure

Costs = dict[tuple[int, str], dict[str, float]]
"""(layer, side) → scheme → cost."""


def make_plan(options: CompileOptions, imported: Imported, budget: float, length: int) -> tuple[Plan, KeyMeans | None]:
    """The plan with the least cost at `budget` mean bits a coded number, and what was measured over the text.

    Costs are measured where there is a tokenizer to read the text with and the model's file has the queries; otherwise
    they are predicted from the weights. Raises PassError for a budget that no choice meets or a text that is too short,
    and for a model of which neither can be said; FrontendError where it cannot be run over the text.
    """
    layers = {layer.layer: layer for layer in imported.layers}
    measured, unit, limit = _Measured(options, imported), "noise", budget * _values(layers)
    means = measure(options, imported, length, moments=True, on_layer=measured.add)
    tried = None
    if measured.costs and set(measured.costs) == {(layer, side) for layer in layers for side in "kv"}:
        costs, made_from = measured.costs, f"{means.tokens} tokens of a text, sha256 {means.sha256[:16]}"
        choices = _choices(smooth(costs, plain_codes()), layers)
        tried = _tried(_trial(options, imported, means, length), choices, limit)
    else:
        costs, made_from = _predicted(imported, layers), "weights"
    if tried:
        chosen, costs, unit = tried.assignment, tried.costs, "nats"
        made_from += f"; {tried.how}"
    else:
        chosen = {place: choice.name for place, choice in allocate(_choices(costs, layers), limit).items()}
    schemes = {layer: (chosen[layer, "k"], chosen[layer, "v"]) for layer in layers}
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


def _trial(options: CompileOptions, imported: Imported, means: KeyMeans, length: int) -> Trial | None:
    """The model with a past that goes through codes, over a text of at most `length` tokens, since positions may end
    there; None for a model too large to be run often."""
    model = open_model(options.model)
    if not can_measure(model):
        return None
    ids = token_ids(options.beside, trial_text(options))[-length:]
    dims = {layer.layer: layer.head_dim for layer in imported.layers}
    centred, outputs = centred_layers(options, imported), outputs_of(imported)
    centres = {layer: means.means[layer] for layer in centred}

    def recode(layer: int, side: str, name: str, vectors: np.ndarray) -> np.ndarray:
        schemes = {layer: (name, name)}
        bases = bases_of(schemes, dims, {layer: means.moments[layer]}, centred, outputs)
        return make_recode(schemes, centres, bases)(layer, side, vectors)

    return Trial(model, imported.interface, ids, recode, skip=options.sinks)


@dataclass(frozen=True)
class _Tried:
    """The best assignment of a trial, how it was found, and costs in nats."""

    assignment: Assignment
    how: str
    costs: Costs


def _tried(trial: Trial | None, choices: Mapping[Place, Sequence[Choice]], budget: float) -> _Tried | None:
    """The assignment that changes the predictions least, the first of equals.

    None without a trial, and for a text too short to say anything. Raises PassError if nothing meets the budget.
    """
    weights = sensitivities(trial, PROBE) if trial else {}
    if not any(weight > 0 for weight in weights.values()):
        return None
    assignments = candidates(choices, PROBE, weights, budget)
    found = {label: trial.divergence(assignment) for label, assignment in assignments.items()}
    best = min(found, key=found.__getitem__)
    how = f"{best}: {found[best]:.2g} nats, the least of {len(found)} in a trial over {trial.predictions} predictions"
    costly = weighed(choices, PROBE, weights)
    costs = {place: {choice.name: choice.cost for choice in of_place} for place, of_place in costly.items()}
    return _Tried(assignments[best], how, costs)


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
