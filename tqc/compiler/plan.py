"""A plan: the scheme of K and of V of every layer, with reasons, as a small file that people can read and change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tqc.codec import scheme
from tqc.codec.form import form
from tqc.errors import CodecError, PassError
from tqc.frontend.canonical import LayerInfo


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class LayerPlan(_Strict):
    """The schemes of one layer; `why` is for readers."""

    layer: int = Field(ge=0)
    k: str
    v: str
    why: str = ""


class Plan(_Strict):
    """Schemes of all layers of a model. `bits_per_value` counts scales, over all keys and values that are coded.

    `made_from` says what it was predicted from: `weights`, or the text.
    """

    tqc_plan: Literal[1] = 1
    model: str = ""
    budget: float | None = None
    bits_per_value: float
    made_from: str = ""
    layers: list[LayerPlan] = Field(min_length=1)

    def schemes(self) -> dict[int, tuple[str, str]]:
        """Layer → (K, V)."""
        return {layer.layer: (layer.k, layer.v) for layer in self.layers}

    def text(self) -> str:
        """The file's contents: one line a layer."""
        head = self.model_dump(exclude={"layers"})
        lines = ",\n".join("    " + json.dumps(layer.model_dump(), ensure_ascii=False) for layer in self.layers)
        start = json.dumps(head, ensure_ascii=False, indent=2)[:-2]
        return f'{start},\n  "layers": [\n{lines}\n  ]\n}}\n'


def read_plan(path: Path) -> Plan:
    """The plan in a file. Raises PassError, naming file and field, for what is none."""
    try:
        return Plan.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PassError("the plan cannot be read", where=str(path), found=str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise PassError(
            "this is not a plan",
            where=f"{path}: {'.'.join(str(part) for part in first['loc']) or 'the file'}",
            found=first["msg"],
            hint="tqc plan MODEL.onnx --budget BITS -o plan.json writes one",
        ) from error


def check_plan(plan: Plan, layers: Mapping[int, LayerInfo]) -> None:
    """Raises PassError unless the plan names each layer of the model once, with schemes that fit its head_dim."""
    named = [layer.layer for layer in plan.layers]
    if sorted(named) != sorted(layers):
        raise PassError(
            "the plan is not one of this model's layers",
            expected=f"layers 0 to {max(layers)}, each once",
            found=", ".join(map(str, named)),
        )
    for layer in plan.layers:
        for side, name in (("K", layer.k), ("V", layer.v)):
            try:
                form(name, layers[layer.layer].head_dim)
                if side == "V":
                    scheme.check_values(name)
            except CodecError as error:
                raise PassError(
                    f"the plan's scheme of {side} cannot be used",
                    where=f"layer {layer.layer}: {name}",
                    expected=error.expected,
                    found=error.what,
                ) from error


def bits_per_value(schemes: Mapping[int, tuple[str, str]], layers: Mapping[int, LayerInfo]) -> float:
    """Mean bits of a coded number, scales included, over the keys and values of all layers."""
    bits = values = 0
    for layer, sides in schemes.items():
        info = layers[layer]
        for name in sides:
            bits += info.kv_heads * form(name, info.head_dim).bits
            values += info.kv_heads * info.head_dim
    return bits / values
