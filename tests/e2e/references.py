"""What onnxruntime makes of the model that was compiled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from tqc.eval.onnx_session import DTYPES, OnnxSession


def random_ids(count: int, seed: int = 0) -> list[int]:
    """Ids of bytes: never the end token of the tiny models."""
    return [int(token) for token in np.random.default_rng(seed).integers(0, 256, count)]


def onnx_logits(model: Path, ids: Sequence[int]) -> np.ndarray:
    """Logits (n, vocab) of every token, in one call of onnxruntime."""
    return OnnxSession(model, threads=1).prefill(ids, all_logits=True).astype(np.float32)


def onnx_padded_logits(model: Path, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Logits (batch, S, vocab) of a padded batch ids, mask (batch, S) in one call; positions count unmasked tokens."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
    feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    for item in session.get_inputs():
        if item.name.startswith("past_key_values"):
            feeds[item.name] = np.zeros((len(ids), item.shape[1], 0, item.shape[3]), DTYPES[item.type])
    return session.run(["logits"], feeds)[0]


def onnx_greedy(model: Path, ids: Sequence[int], count: int) -> list[int]:
    """`count` most likely tokens after `ids`, one after the other."""
    session = OnnxSession(model, threads=1)
    tokens = [int(session.prefill(ids)[0].argmax())]
    while len(tokens) < count:
        tokens.append(int(session.decode(tokens[-1:])[0].argmax()))
    return tokens
