"""How much the model's predictions change when one side of one layer is coded: what a plan weighs layers with.

Each of these divergences is small, and their sum over all layers comes close to that of the model with everything in
codes.
"""

from __future__ import annotations

from .trial import Place, Trial


def sensitivities(trial: Trial, probe: str) -> dict[Place, float]:
    """(layer, side) → KL divergence in nats when this side's old tokens went through the scheme `probe`.

    Raises FrontendError if onnxruntime fails.
    """
    return {place: trial.divergence({place: probe}) for place in trial.places}
