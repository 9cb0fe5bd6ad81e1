"""What a caller may pass as token ids, turned into one array per sequence before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Number

import numpy as np

from ..errors import SessionError

Ids = np.ndarray | Sequence[int] | Sequence[Sequence[int]]


def prompt_rows(ids: Ids, attention_mask: Ids | None, batch: int, vocab_size: int) -> list[np.ndarray]:
    """One int64 array of token ids per sequence.

    `ids` is flat for a batch of one, a list of lists (ragged) or an array [batch, S]; `attention_mask`, of the shape of
    a rectangular `ids`, marks padding on the left or right with 0. Raises SessionError for a wrong batch, an empty
    sequence, ids that are not whole numbers of the vocabulary, or a mask with holes.
    """
    rows = [_integers(row) for row in _split(ids)]
    if len(rows) != batch:
        raise SessionError(
            "The batch is not that of the session", expected=f"{batch} sequences", found=f"{len(rows)} sequences"
        )
    if attention_mask is not None:
        rows = _strip(rows, [np.asarray(row) for row in _split(attention_mask)])
    for number, row in enumerate(rows):
        _check(row, number, vocab_size)
    return rows


def step_ids(ids: Ids | int, batch: int, vocab_size: int) -> list[np.ndarray]:
    """One array of a single id per sequence. `ids` is a number for a batch of one, or [batch] or [batch, 1] numbers."""
    flat = _array(ids)
    if flat.shape not in ((batch,), (batch, 1)) and not (flat.ndim == 0 and batch == 1):
        raise SessionError("decode takes one id per sequence", expected=f"{batch} ids", found=f"shape {flat.shape}")
    return prompt_rows(flat.reshape(batch, 1), None, batch, vocab_size)


def _split(ids: Ids) -> list:
    if hasattr(ids, "__array__"):
        array = np.asarray(ids)
        if array.ndim not in (1, 2):
            raise SessionError("Token ids have one or two dimensions", found=f"shape {array.shape}")
        return [array] if array.ndim == 1 else list(array)
    rows = list(ids)
    return [rows] if all(isinstance(row, Number) for row in rows) else rows


def _array(values: object) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError as error:  # lists of different lengths
        raise SessionError("A sequence is a flat list of token ids", found=str(error)) from error


def _integers(row: object) -> np.ndarray:
    array = _array(row)
    if array.ndim != 1:
        raise SessionError("A sequence is a flat list of token ids", found=f"shape {array.shape}")
    if array.size and array.dtype.kind not in "iu":
        raise SessionError("Token ids are whole numbers", found=str(array.dtype))
    return array.astype(np.int64)


def _strip(rows: list[np.ndarray], masks: list[np.ndarray]) -> list[np.ndarray]:
    if [len(row) for row in rows] != [len(mask) for mask in masks]:
        raise SessionError("The attention mask has another shape than the ids")
    stripped = []
    for number, (row, mask) in enumerate(zip(rows, masks, strict=True)):
        kept = np.flatnonzero(mask)
        if len(kept) and kept[-1] - kept[0] + 1 != len(kept):
            raise SessionError(
                "The attention mask has a hole", where=f"sequence {number}", expected="padding on one side or both"
            )
        stripped.append(row[kept])
    return stripped


def _check(row: np.ndarray, number: int, vocab_size: int) -> None:
    where = f"sequence {number}"
    if not len(row):
        raise SessionError("The sequence is empty", where=where, expected="at least one token")
    check_vocabulary(row, number, vocab_size)


def check_vocabulary(row: np.ndarray, number: int, vocab_size: int) -> None:
    """Raises SessionError, naming sequence `number`, unless all ids of `row` are rows of the embedding table."""
    wrong = row[(row < 0) | (row >= vocab_size)]
    if len(wrong):
        raise SessionError(
            "A token id is not in the vocabulary",
            where=f"sequence {number}",
            expected=f"0 to {vocab_size - 1}",
            found=f"{wrong[0]}",
        )
