"""Gives the inputs and outputs of a converted torch program the names by which a decoder's interface is found.

torch names inputs after the arguments of `forward` and outputs after operations. Which outputs extend which cache
inputs is read off the graph; which input is a key and which a value from its name, or else from the order
key, value, key, value …; the matcher of attention refuses a wrong order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tqc.errors import FrontendError

from .interface import MASK, POSITIONS, TOKENS

_KEY, _VALUE = re.compile(r"(^|_|\.)keys?(_|\.|$)(?!values)"), re.compile(r"(^|_|\.)values?(_|\.|$)")
_LAYOUT = ("Identity", "Cast", "Concat")
_SIDES = ("key", "value")


def name_interface(graph: Any) -> None:
    """Renames the inputs and outputs of an onnx_ir graph in place, if it has cache inputs; else leaves it alone.

    Raises FrontendError if tokens, cache inputs or the outputs that extend them cannot be told, or have fixed sizes.
    """
    caches = [
        value
        for value in graph.inputs
        if len(value.shape) == 4 and value.dtype.is_floating_point() and "mask" not in value.name
    ]
    if not caches:
        return
    pairs = _pairs(caches)
    tokens = _name_integers([value for value in graph.inputs if value not in caches])
    _refuse_fixed([(tokens, (0, 1)), *((value, (0, 2)) for value in caches)])
    _name_outputs(graph, pairs)
    for layer, pair in enumerate(pairs):
        for side, value in zip(_SIDES, pair, strict=True):
            value.name = f"past_key_values.{layer}.{side}"


def _pairs(caches: Sequence[Any]) -> list[tuple[Any, Any]]:
    """The cache inputs as (key, value) of each layer."""
    # `past_key_values` names the whole cache, not a side.
    names = [value.name.replace("past_key_values", "past").replace("key_value", "kv") for value in caches]
    keys = [value for name, value in zip(names, caches, strict=True) if _KEY.search(name)]
    values = [value for name, value in zip(names, caches, strict=True) if _VALUE.search(name)]
    if not keys and not values:
        keys, values = list(caches[::2]), list(caches[1::2])
    if len(keys) != len(values) or len(keys) + len(values) != len(caches) or set(keys) & set(values):
        raise FrontendError(
            "Cache inputs are not pairs of a key and a value.",
            expected="a key and a value of each layer, in turn or with `key` and `value` in their names",
            found=", ".join(value.name for value in caches),
        )
    return list(zip(keys, values, strict=True))


def _name_integers(inputs: Sequence[Any]) -> Any:
    """Names tokens, mask and positions; returns the tokens."""
    integers = [value for value in inputs if len(value.shape) == 2]
    named = {
        MASK: [value for value in integers if "mask" in value.name],
        POSITIONS: [value for value in integers if "position" in value.name],
    }
    rest = [value for value in integers if not any(value in group for group in named.values())]
    tokens = [value for value in rest if value.name == TOKENS] or rest
    if len(tokens) != 1 or any(len(group) > 1 for group in named.values()):
        raise FrontendError(
            "The inputs of the program cannot be told apart.",
            expected="arguments of forward called input_ids, attention_mask and position_ids",
            found=", ".join(value.name for value in inputs),
        )
    for name, group in named.items():
        for value in group:
            value.name = name
    tokens[0].name = TOKENS
    return tokens[0]


def _refuse_fixed(inputs: list[tuple[Any, tuple[int, int]]]) -> None:
    fixed = [
        f"{value.name}{[str(size) for size in value.shape]}"
        for value, axes in inputs
        if any(isinstance(value.shape[axis], int) for axis in axes)
    ]
    if fixed:
        raise FrontendError(
            "Batch size, number of new tokens and past length must be dynamic.",
            where="inputs of the ExportedProgram",
            found="; ".join(fixed).replace("'", ""),
            hint="Pass dynamic_shapes to torch.export.export: torch.export.Dim.AUTO for axes 0 and 1 of the tokens, "
            "0 and 2 of the cache. Examples of size 1 make torch fix a size.",
        )


def _name_outputs(graph: Any, pairs: list[tuple[Any, Any]]) -> None:
    pasts = {
        value: f"present.{n}.{side}" for n, pair in enumerate(pairs) for side, value in zip(_SIDES, pair, strict=True)
    }
    others, found = [], {}
    for output in graph.outputs:
        past = _extended(output, set(pasts))
        if past is None:
            others.append(output)
        else:
            found.setdefault(pasts[past], []).append(output)
    lost = [value.name for value, name in pasts.items() if len(found.get(name, ())) != 1]
    if lost or len(others) != 1:
        raise FrontendError(
            "The outputs of the program are not those of a decoder.",
            expected="logits, and for each cache input one output that is it and the new keys or values concatenated",
            found="; ".join([*(f"no such output for {name}" for name in lost), f"{len(others)} outputs besides"][:8]),
        )
    others[0].name = "logits"
    for name, (output,) in found.items():
        output.name = name


def _extended(tensor: Any, pasts: set[Any]) -> Any | None:
    """The one cache input that `tensor` is a concatenation of, with others."""
    reached, stack = set(), [tensor]
    while stack:
        value = stack.pop()
        node = value.producer()
        if value in pasts:
            reached.add(value)
        elif node is not None and node.op_type in _LAYOUT:
            stack.extend(node.inputs)
    return reached.pop() if len(reached) == 1 else None
