"""Formats that other runtimes hold a KV cache in, to compare with; the evaluation only, nothing is packed.

q4_0, q8_0  llama.cpp's blocks of 32 numbers of one vector with a float16 scale (ggml-quants.c), no rotation
kivi2, 4    KIVI (arXiv:2402.02750): uniform codes between the least and the greatest number of a group, both kept as
            float16 (as the step and the least); keys in groups of 32 tokens of one channel, or 64 (`kivi2-64`), values
            in groups of 32 channels of one token
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from tqc.errors import CodecError

BLOCK = 32
"""Numbers of a block of ggml, and of a group of KIVI's values."""

NAMES = ("q4_0", "q8_0", "kivi2", "kivi4", "kivi2-64", "kivi4-64")


@dataclass(frozen=True)
class Peer:
    """One format. `bits` a code; `group`: tokens of a group of KIVI's keys, 0 for a format of ggml.

    Arrays are floats [..., tokens, head_dim], reconstructions float32 of the same shape. Numbers that are not finite,
    or too large for float16, leave NaN or infinity in their block.
    """

    name: str
    bits: int
    group: int = 0

    def key_bytes(self, head_dim: int) -> float:
        """Bytes of one token's key of one KV head, scales included. Raises CodecError as `values` does."""
        _check(head_dim)
        return head_dim * (self.bits + (32 / self.group if self.group else 16 / BLOCK)) / 8

    def value_bytes(self, head_dim: int) -> float:
        """Bytes of one token's value of one KV head."""
        _check(head_dim)
        return head_dim * (self.bits + (32 if self.group else 16) / BLOCK) / 8

    def keys(self, x: np.ndarray) -> np.ndarray:
        """What is read back of keys. Tokens behind the last whole group of KIVI are still float16, as there."""
        if not self.group:
            return self.values(x)
        x = np.asarray(x, np.float32)
        _check(x.shape[-1])
        whole = x.shape[-2] // self.group * self.group
        channels = _uniform(x[..., :whole, :].swapaxes(-1, -2), self.group, self.bits).swapaxes(-1, -2)
        with np.errstate(over="ignore"):
            rest = x[..., whole:, :].astype(np.float16).astype(np.float32)
        return np.concatenate([channels, rest], axis=-2)

    def values(self, x: np.ndarray) -> np.ndarray:
        """What is read back of values. Raises CodecError if head_dim is no multiple of 32: blocks end with a vector."""
        x = np.asarray(x, np.float32)
        _check(x.shape[-1])
        if self.group:
            return _uniform(x, BLOCK, self.bits)
        return (_q4_0 if self.bits == 4 else _q8_0)(x.reshape(*x.shape[:-1], -1, BLOCK)).reshape(x.shape)


def get(name: str) -> Peer:
    """The format of that name. Raises CodecError if it is none of `NAMES`."""
    if name not in NAMES:
        raise CodecError(f"unknown format '{name}'", expected=f"one of {', '.join(NAMES)}", found=name)
    bits = int(re.search(r"\d", name).group())
    return Peer(name, bits, (64 if name.endswith("-64") else 32) if name.startswith("kivi") else 0)


def _check(head_dim: int) -> None:
    if head_dim % BLOCK or head_dim <= 0:
        raise CodecError("blocks do not end with the vector", expected=f"a multiple of {BLOCK}", found=str(head_dim))


def _float16(x: np.ndarray) -> np.ndarray:
    """x as it comes back from float16."""
    return x.astype(np.float16).astype(np.float32)


def _inverse(x: np.ndarray) -> np.ndarray:
    """1/x, and 0 of 0."""
    return np.divide(1, x, out=np.zeros_like(x), where=x != 0)


def _q4_0(x: np.ndarray) -> np.ndarray:
    """Blocks [..., 32]: the number of the greatest size is −8 steps. Codes come from the step before its rounding."""
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        largest = np.take_along_axis(x, np.abs(x).argmax(axis=-1)[..., None], axis=-1)
        step = largest / -8
        codes = np.clip(np.floor(x * _inverse(step) + np.float32(8.5)), 0, 15)
        return (codes - 8) * _float16(step)


def _q8_0(x: np.ndarray) -> np.ndarray:
    """Blocks [..., 32]: the number of the greatest size is ±127 steps."""
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        step = np.abs(x).max(axis=-1, keepdims=True) / 127
        scaled = x * _inverse(step)
        codes = np.copysign(np.floor(np.abs(scaled) + np.float32(0.5)), scaled)  # roundf: halves away from zero
        return codes * _float16(step)


def _uniform(x: np.ndarray, group: int, bits: int) -> np.ndarray:
    """x [..., n], n a multiple of `group`: each group between its least and greatest number."""
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        groups = x.reshape(*x.shape[:-1], -1, group)
        least = _float16(groups.min(axis=-1, keepdims=True))
        step = _float16((_float16(groups.max(axis=-1, keepdims=True)) - least) / (2**bits - 1))
        codes = np.clip(np.rint((groups - least) * _inverse(step)), 0, 2**bits - 1)
        return (codes * step + least).reshape(x.shape)
