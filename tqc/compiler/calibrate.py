"""Measures a model over a text: the mean of its keys, which is subtracted from them, and second moments on demand.

The source model runs once over the text in onnxruntime, a piece at a time; its present outputs are keys and values as
the cache would see them (after RoPE). The first tokens are left out: as attention sinks their keys are far from all
others.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path

import numpy as np

from tqc.artifact.companions import companions
from tqc.errors import FrontendError
from tqc.frontend.imported import open_model
from tqc.frontend.interface import TOKENS, Interface
from tqc.frontend.load import DTYPES, LoadedModel
from tqc.frontend.portable import portable
from tqc.frontend.probe import feed
from tqc.frontend.rope_form import RopeForm
from tqc.frontend.setting import Setting

from . import pieces
from .moments import Moments, grouped, second_moment
from .positions import Positions

MAX_TOKENS = 512
"""Tokens of the text that are run; a mean over more moves less than the codes can tell."""

MAX_MOMENT_TOKENS = 2048
"""The same for second moments, which need more tokens than they have dims."""

MAX_SKIP = 16
"""Tokens that are left out at most: attention sinks are among the very first, however many tokens stay exact."""


@dataclass(frozen=True)
class KeyMeans:
    """`means[layer]` float32 [Hk, D], over `tokens` tokens of the text with digest `sha256`; `moments` if asked for."""

    means: dict[int, np.ndarray]
    tokens: int
    sha256: str
    moments: dict[int, Moments] = field(default_factory=dict)


def built_in_text() -> str:
    """The text that is used when none is given."""
    return resources.files(__package__).joinpath("calibration.txt").read_text(encoding="utf-8")


def measure_key_means(
    model: Path | LoadedModel,
    interface: Interface,
    text: str,
    *,
    skip: int,
    beside: Path | None = None,
    limit: int = pieces.LIMIT,
    moments: bool = False,
    queries: Mapping[int, str] | None = None,
    ropes: Mapping[int, RopeForm | None] | None = None,
    length: int = 0,
) -> KeyMeans | None:
    """Key means of every layer of the ONNX model over `text`, without its first `skip` (at most 16) tokens.

    With `moments` second moments too; `queries` names, by layer, tensors that hold queries [1, H, S, D] as they meet
    the keys; those that the file does not have are left out. Where `ropes` tells how a layer turns its keys, the
    results are those of a sequence of `length` tokens, see `positions`; elsewhere those of the text.

    Needs `tokenizer.json` beside the path `beside`, by default the model's; returns None without one. About `limit`
    bytes of weights are in memory at a time. Raises FrontendError if the text is too short, the tokenizer is damaged or
    another model's, onnxruntime cannot run the model, or what is measured is not finite.
    """
    tokenizer_file = companions(beside or (model if isinstance(model, Path) else None)).get("tokenizer.json")
    if tokenizer_file is None:
        return None
    from tokenizers import Tokenizer

    try:
        ids = Tokenizer.from_file(str(tokenizer_file)).encode(text).ids[: MAX_MOMENT_TOKENS if moments else MAX_TOKENS]
    except Exception as error:  # the library raises plain Exception
        raise FrontendError("the tokenizer is not understood", where=str(tokenizer_file), found=str(error)) from error
    skip = min(skip, MAX_SKIP)
    if len(ids) < skip + 2:
        raise FrontendError(
            "the calibration text is too short", expected=f"at least {skip + 2} tokens", found=f"{len(ids)} tokens"
        )
    opened = open_model(model)
    wanted = {cache.present_key: (layer, "keys") for layer, cache in enumerate(interface.layers)}
    if moments:
        wanted |= {cache.present_value: (layer, "values") for layer, cache in enumerate(interface.layers)}
        made = {name for node in opened.proto.graph.node for name in node.output}
        wanted |= {name: (layer, "queries") for layer, name in (queries or {}).items() if name in made}
    found = defaultdict(dict)
    for name, tensor in _tensors(opened, interface, np.asarray(ids, np.int64)[None], list(wanted), limit):
        layer, what = wanted[name]
        vectors = tensor[0, :, skip:]
        if not np.isfinite(vectors).all():
            raise FrontendError(f"the model's {what} are not finite over the calibration text", where=f"layer {layer}")
        positions = Positions.of((ropes or {}).get(layer), vectors.shape[-1])
        turns = what != "values" and positions.frequencies.any()
        if turns:
            vectors = positions.turn_back(vectors, skip)
        if what == "keys":
            mean = vectors.mean(axis=1, dtype=np.float64)
            found[layer]["mean"] = positions.average_mean(mean, length) if turns else mean
        if moments:
            moment = second_moment(vectors)
            moment = grouped(moment, interface.layers[layer].kv_heads) if what == "queries" else moment
            found[layer][what] = positions.average_moment(moment, length) if turns else moment
    return KeyMeans(
        {layer: found[layer]["mean"].astype(np.float32) for layer in sorted(found)},
        len(ids) - skip,
        _sha256(text),
        {layer: Moments(**found[layer]) for layer in sorted(found)} if moments else {},
    )


def _tensors(
    model: LoadedModel, interface: Interface, ids: np.ndarray, wanted: Sequence[str], limit: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Names and arrays of the tensors `wanted`, for a prompt [1, S] without a past."""
    import onnxruntime as ort

    setting, pasts = Setting(1, ids.shape[1], 0), {}
    for cache in interface.layers:
        for name in (cache.past_key, cache.past_value):
            pasts[name] = np.zeros((1, cache.kv_heads, 0, cache.head_dim), cache.dtype)
    feeds = {TOKENS: ids, **pasts}
    for entry in model.proto.graph.input:
        if entry.name not in feeds and entry.name not in model.initializers:
            dtype = DTYPES[entry.type.tensor_type.elem_type]
            feeds[entry.name] = feed(entry.name, dtype, (), setting)
    model, held = _without_held(portable(model))
    feeds |= held
    try:
        values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
        yield from pieces.run(model, values, wanted, limit)
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise FrontendError(
            "onnxruntime cannot run the model over the calibration text",
            where=str(model.path),
            found=str(error),
            hint="see whether tokenizer.json belongs to this model, or pass --no-centre",
        ) from error


def _without_held(model: LoadedModel) -> tuple[LoadedModel, dict[str, np.ndarray]]:
    """The model with the weights that lie in no file as inputs, and these weights."""
    stored = {proto.name for proto in model.proto.graph.initializer}
    held = {name: tensor for name, tensor in model.initializers.items() if name not in stored}
    kept = {name: tensor for name, tensor in model.initializers.items() if name in stored}
    return replace(model, initializers=kept), {
        name: np.ascontiguousarray(tensor.source.read()) for name, tensor in held.items()
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
