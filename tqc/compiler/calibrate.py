"""Measures the constant that is subtracted from the keys: their mean over a text, per layer and KV head.

The source model runs once over the text in onnxruntime; its present outputs are the keys as the cache would
see them (after RoPE). The first tokens are left out: as attention sinks their keys are far from all others.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from tqc.errors import FrontendError
from tqc.frontend.interface import PAST, PRESENT, by_layer

MAX_TOKENS = 512
"""Tokens of the text that are run; a mean over more moves less than the codes can tell."""

MAX_SKIP = 16
"""Tokens that are left out at most: attention sinks are among the very first, however many tokens stay exact."""

_NUMPY = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


@dataclass(frozen=True)
class KeyMeans:
    """`means[layer]` float32 [Hk, D], over `tokens` tokens of the text with digest `sha256`."""

    means: dict[int, np.ndarray]
    tokens: int
    sha256: str


def built_in_text() -> str:
    """The text that is used when none is given."""
    return resources.files(__package__).joinpath("calibration.txt").read_text(encoding="utf-8")


def measure_key_means(model: Path, text: str, *, skip: int) -> KeyMeans | None:
    """Key means of every layer of the ONNX model over `text`, without its first `skip` (at most 16) tokens.

    Needs the model's `tokenizer.json` beside it; returns None without one. Raises FrontendError if the text is too
    short, the tokenizer is damaged or another model's, or the keys are not finite.
    """
    tokenizer_file = model.parent / "tokenizer.json"
    if not tokenizer_file.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        ids = Tokenizer.from_file(str(tokenizer_file)).encode(text).ids[:MAX_TOKENS]
    except Exception as error:  # the library raises plain Exception
        raise FrontendError("the tokenizer is not understood", where=str(tokenizer_file), found=str(error)) from error
    skip = min(skip, MAX_SKIP)
    if len(ids) < skip + 2:
        raise FrontendError(
            "the calibration text is too short", expected=f"at least {skip + 2} tokens", found=f"{len(ids)} tokens"
        )
    keys = _present_keys(model, np.asarray(ids, np.int64)[None])
    means = {}
    for layer, key in keys.items():
        mean = key[0, :, skip:].astype(np.float64).mean(axis=1)
        if not np.isfinite(mean).all():
            raise FrontendError("the model's keys are not finite over the calibration text", where=f"layer {layer}")
        means[layer] = mean.astype(np.float32)
    return KeyMeans(means, len(ids) - skip, hashlib.sha256(text.encode()).hexdigest())


def _present_keys(model: Path, ids: np.ndarray) -> dict[int, np.ndarray]:
    """The present keys [1, Hk, S, D] of every layer for a prompt without a past."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    # The model runs once: packed copies of its weights would cost more memory than they save time.
    options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no class of their own
        raise FrontendError(
            "the model cannot be run to measure its keys",
            where=str(model),
            found=str(error),
            hint="--no-centre compiles without",
        ) from error
    feeds, pasts = {}, by_layer([value.name for value in session.get_inputs()], PAST).values()
    for value in session.get_inputs():
        dtype = _NUMPY.get(value.type)
        if value.name == "input_ids":
            array = ids
        elif value.name == "attention_mask":
            array = np.ones_like(ids)
        elif value.name == "position_ids":
            array = np.arange(ids.shape[1])[None]
        elif value.name in pasts and dtype is not None:
            array = np.zeros((1, value.shape[1], 0, value.shape[3]))
        else:
            raise FrontendError("an input is not understood", where=value.name, found=str(value.type))
        feeds[value.name] = array.astype(dtype)
    presents = by_layer([value.name for value in session.get_outputs()], PRESENT)
    names = {layer: name for (layer, side), name in presents.items() if side == "key"}
    if not names:
        raise FrontendError("the model has no present keys", expected="outputs present.N.key")
    try:
        keys = session.run(list(names.values()), feeds)
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise FrontendError(
            "onnxruntime cannot run the model over the calibration text",
            where=str(model),
            found=str(error),
            hint="see whether tokenizer.json belongs to this model, or pass --no-centre",
        ) from error
    return dict(zip(names, keys, strict=True))
