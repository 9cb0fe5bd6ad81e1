"""Measures a model over a text: the mean of its keys, which is subtracted from them, and second moments on demand.

The source model runs once over the text in onnxruntime, a piece at a time; its present outputs are keys and values as
the cache would see them (after RoPE). The first tokens are left out: as attention sinks their keys are far from all
others.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path

import numpy as np

from tqc.artifact.companions import companions
from tqc.errors import FrontendError
from tqc.frontend.canonical import LayerInfo
from tqc.frontend.imported import open_model
from tqc.frontend.interface import TOKENS, Interface
from tqc.frontend.load import DTYPES, LoadedModel
from tqc.frontend.portable import portable
from tqc.frontend.probe import feed
from tqc.frontend.setting import Setting

from . import pieces
from .moments import Moments, Sample, grouped, second_moment
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


def built_in_text(name: str = "calibration.txt") -> str:
    """The text that is used when none is given."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def measure_key_means(
    model: Path | LoadedModel,
    interface: Interface,
    text: str,
    *,
    skip: int,
    beside: Path | None = None,
    limit: int = pieces.LIMIT,
    layers: Sequence[LayerInfo] = (),
    length: int = 0,
    moments: bool = False,
    on_layer: Callable[[int, Sample, Moments], None] | None = None,
) -> KeyMeans | None:
    """Key means of every layer of the ONNX model over `text`, without its first `skip` (at most 16) tokens.

    `layers` tell how keys are turned, so that the results are those of a sequence of `length` tokens (`positions`), and
    which tensors hold queries and residuals; without them the results are those of the text. With `moments` second
    moments too; `on_layer` is then called with every layer, its tensors and its moments, as soon as they are known.

    Needs `tokenizer.json` beside the path `beside`, by default the model's; returns None without one. About `limit`
    bytes of weights are in memory at a time. Raises FrontendError if the text is too short, the tokenizer is damaged or
    another model's, onnxruntime cannot run the model, or what is measured is not finite.
    """
    ids = token_ids(beside or (model if isinstance(model, Path) else None), text)
    if ids is None:
        return None
    ids, skip = ids[: MAX_MOMENT_TOKENS if moments else MAX_TOKENS], min(skip, MAX_SKIP)
    if len(ids) < skip + 2:
        raise FrontendError(
            "the calibration text is too short", expected=f"at least {skip + 2} tokens", found=f"{len(ids)} tokens"
        )
    opened, by_number = open_model(model), {layer.layer: layer for layer in layers}
    wanted = _wanted(opened, interface, by_number if moments else {}, moments)
    found: dict[int, dict[str, np.ndarray]] = defaultdict(dict)
    means, measured = {}, {}
    missing = Counter(layer for layer, _ in wanted.values())
    for name, tensor in _tensors(opened, interface, np.asarray(ids, np.int64)[None], list(wanted), limit):
        layer, what = wanted[name]
        found[layer][what] = tensor[0]
        if not np.isfinite(tensor[0, ..., skip:, :]).all():
            raise FrontendError(f"the model's {what} are not finite over the calibration text", where=f"layer {layer}")
        missing[layer] -= 1
        if missing[layer]:
            continue
        info, tensors = by_number.get(layer), found.pop(layer)
        positions = Positions.of(info.rope if info else None, tensors["keys"].shape[-1])
        keys = positions.turn_back(tensors["keys"][:, skip:], skip)
        mean = positions.average_mean(keys.mean(axis=1), length)
        means[layer] = mean.astype(np.float32)
        if moments:
            sample = Sample(**tensors)
            measured[layer] = _moments(sample, positions, keys, mean, skip, length)
            if on_layer:
                on_layer(layer, sample, measured[layer])
    in_order = sorted(means)
    return KeyMeans(
        {layer: means[layer] for layer in in_order},
        len(ids) - skip,
        _sha256(text),
        {layer: measured[layer] for layer in in_order} if moments else {},
    )


def token_ids(beside: Path | None, text: str) -> list[int] | None:
    """The text as the tokenizer beside a model's path reads it; None without `tokenizer.json`.

    Raises FrontendError if the tokenizer is damaged.
    """
    tokenizer_file = companions(beside).get("tokenizer.json")
    if tokenizer_file is None:
        return None
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(tokenizer_file)).encode(text).ids
    except Exception as error:  # the library raises plain Exception
        raise FrontendError("the tokenizer is not understood", where=str(tokenizer_file), found=str(error)) from error


def _wanted(
    model: LoadedModel, interface: Interface, layers: Mapping[int, LayerInfo], moments: bool
) -> dict[str, tuple[int, str]]:
    """The tensors that are measured → layer and what they are; those that the file lacks are left out."""
    wanted = {}
    made = {name for node in model.proto.graph.node for name in node.output}
    for layer, cache in enumerate(interface.layers):
        wanted[cache.present_key] = layer, "keys"
        if moments:
            wanted[cache.present_value] = layer, "values"
            info = layers.get(layer)
            for name, what in ((info.query, "queries"), (info.residual, "residual")) if info else ():
                if name in made and name not in wanted:
                    wanted[name] = layer, what
    return wanted


def _moments(
    sample: Sample, positions: Positions, keys: np.ndarray, mean: np.ndarray, skip: int, length: int
) -> Moments:
    """`keys` are those of the sample from `skip` on, turned back."""
    queries = None
    if sample.queries is not None:
        turned = second_moment(positions.turn_back(sample.queries[:, skip:], skip))
        queries = positions.average_moment(grouped(turned, len(keys)), length)
    values = second_moment(sample.values[:, skip:])
    return Moments(positions.average_moment(second_moment(keys), length), values, mean, queries)


def _tensors(
    model: LoadedModel, interface: Interface, ids: np.ndarray, wanted: Sequence[str], limit: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Names and arrays of the tensors `wanted`, for a prompt [1, S] without a past."""
    import onnxruntime as ort

    model, feeds = prompt(model, interface, ids, {})
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


def prompt(
    model: LoadedModel, interface: Interface, ids: np.ndarray, past: Mapping[str, np.ndarray]
) -> tuple[LoadedModel, dict[str, np.ndarray]]:
    """The model as onnxruntime takes it, and its inputs for new tokens ids [1, S] behind `past`, by the names of the
    cache's inputs; empty for none."""
    tokens = next(iter(past.values())).shape[2] if past else 0
    setting, feeds = Setting(1, ids.shape[1], tokens), {TOKENS: ids, **past}
    for cache in interface.layers:
        for name in (cache.past_key, cache.past_value):
            feeds.setdefault(name, np.zeros((1, cache.kv_heads, 0, cache.head_dim), cache.dtype))
    for entry in model.proto.graph.input:
        if entry.name not in feeds and entry.name not in model.initializers:
            dtype = DTYPES[entry.type.tensor_type.elem_type]
            feeds[entry.name] = feed(entry.name, dtype, (), setting)
    model, held = _without_held(portable(model))
    return model, feeds | held


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
