"""Which graph inputs and outputs are tokens, mask, positions and cache, by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tqc.codec.limits import HEAD_DIM_STEP, MAX_HEAD_DIM
from tqc.errors import FrontendError

from .graph import Graph, Input

PAST = re.compile(r"past(?:_key_values)?[._](\d+)[._](key|value)|past_(key|value)_(\d+)")
PRESENT = re.compile(r"present(?:_key_values)?[._](\d+)[._](key|value)|present_(key|value)_(\d+)")

TOKENS, MASK, POSITIONS = "input_ids", "attention_mask", "position_ids"


@dataclass(frozen=True)
class LayerCache:
    """The cache tensors of one layer, [batch, kv_heads, past, head_dim], and the outputs that extend them."""

    past_key: str
    past_value: str
    present_key: str
    present_value: str
    kv_heads: int
    head_dim: int
    dtype: str


@dataclass(frozen=True)
class Interface:
    """`mask` and `positions` are '' where the graph has no such input."""

    mask: str
    positions: str
    layers: tuple[LayerCache, ...]
    logits: str


def by_layer(names: Iterable[str], pattern: re.Pattern) -> dict[tuple[int, str], str]:
    """(layer, `key` or `value`) → name, for the names that fit. Raises FrontendError if two claim the same."""
    found: dict[tuple[int, str], str] = {}
    for name in names:
        if match := pattern.fullmatch(name):
            number, side, side_first, number_last = match.groups()
            key = int(number or number_last or 0), side or side_first
            if key in found:
                raise FrontendError(
                    "Two graph inputs or outputs claim the same cache tensor.",
                    where=f"layer {key[0]} {key[1]}",
                    found=f"{found[key]}, {name}",
                )
            found[key] = name
    return found


def _checked_cache(key: Input, value: Input, layer: int) -> tuple[int, int, str]:
    for entry in (key, value):
        if len(entry.shape) != 4 or not all(isinstance(entry.shape[axis], int) for axis in (1, 3)):
            raise FrontendError(
                "A past input has an unexpected shape.",
                where=f"input {entry.name}",
                expected="[batch, kv_heads, past, head_dim] with fixed kv_heads and head_dim",
                found=str(list(entry.shape)),
            )
        if any(isinstance(entry.shape[axis], int) for axis in (0, 2)):
            raise FrontendError(
                "Batch size and past length must be dynamic.",
                where=f"input {entry.name}",
                found=str(list(entry.shape)),
                hint="Export with dynamic axes for batch and past.",
            )
        if entry.dtype not in ("float32", "float16"):
            raise FrontendError(
                "A past input has an unsupported type.",
                where=f"input {entry.name}",
                expected="float32 or float16",
                found=entry.dtype,
            )
    _, heads, _, dim = key.shape
    if key.shape[1::2] != value.shape[1::2] or key.dtype != value.dtype:
        raise FrontendError(
            "Keys and values of a layer differ in heads, head_dim or type.",
            where=f"layer {layer}",
            found=f"{key.dtype}{list(key.shape)} and {value.dtype}{list(value.shape)}",
        )
    if not HEAD_DIM_STEP <= dim <= MAX_HEAD_DIM or dim % HEAD_DIM_STEP:
        raise FrontendError(
            "Unsupported head_dim.",
            where=f"layer {layer}, input {key.name}",
            expected=f"a multiple of {HEAD_DIM_STEP} from {HEAD_DIM_STEP} to {MAX_HEAD_DIM}",
            found=str(dim),
        )
    return heads, dim, key.dtype


def bind(graph: Graph) -> Interface:
    """Finds the decoder's interface.

    Raises FrontendError for missing or surplus inputs, cache tensors without partner, unexpected shapes, and a
    head_dim that is no multiple of 16 from 16 to 512.
    """
    past, present = by_layer(graph.inputs, PAST), by_layer(graph.outputs, PRESENT)
    surplus = set(graph.inputs) - {TOKENS, MASK, POSITIONS} - set(past.values())
    if surplus:
        raise FrontendError(
            "Unknown graph inputs.",
            expected="input_ids, attention_mask, position_ids, past_key_values.N.key and .value",
            found=", ".join(sorted(surplus)),
        )
    if TOKENS not in graph.inputs:
        raise FrontendError("The model has no input_ids.", found=", ".join(graph.inputs))
    if not past:
        raise FrontendError(
            "The model has no cache inputs.",
            expected="past_key_values.N.key and past_key_values.N.value",
            found=", ".join(graph.inputs),
            hint="Export the model with past (optimum: task text-generation-with-past).",
        )
    count = max(layer for layer, _ in past) + 1
    wanted = {(layer, side) for layer in range(count) for side in ("key", "value")}
    for found, what in ((past, "inputs"), (present, "outputs")):
        if missing := sorted(wanted - set(found)):
            raise FrontendError(
                f"Cache {what} are missing.", found=", ".join(f"no {side} of layer {layer}" for layer, side in missing)
            )
    logits = [name for name in graph.outputs if name not in set(present.values())]
    if len(present) != len(wanted) or len(logits) != 1:
        raise FrontendError(
            "Unknown graph outputs.",
            expected="logits and present.N.key, present.N.value of every layer",
            found=", ".join(graph.outputs),
        )
    layers = []
    for n in range(count):
        heads, dim, dtype = _checked_cache(graph.inputs[past[n, "key"]], graph.inputs[past[n, "value"]], n)
        tensors = (past[n, "key"], past[n, "value"], present[n, "key"], present[n, "value"])
        layers.append(LayerCache(*tensors, heads, dim, dtype))
    mask, positions = (name if name in graph.inputs else "" for name in (MASK, POSITIONS))
    return Interface(mask, positions, tuple(layers), logits[0])
