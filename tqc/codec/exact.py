"""Codecs that keep the values as floats."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from tqc.codec.base import Codec, Encoded
from tqc.codec.form import EXACT_DTYPES


@dataclass(frozen=True, eq=False)
class Values(Encoded):
    """`values` [..., head_dim], float16, bfloat16 or float32."""

    values: np.ndarray


class Exact(Codec):
    """`fp16`, `bf16` or `fp32`. What fp16 cannot hold becomes infinite, as in a float16 cache."""

    def __init__(self, name: str, head_dim: int) -> None:
        super().__init__(name, head_dim)
        self.dtype = np.dtype(ml_dtypes.bfloat16 if name == "bf16" else EXACT_DTYPES[name])

    @property
    def bytes_per_vector(self) -> int:
        return self.head_dim * self.dtype.itemsize

    def encode(self, x: np.ndarray) -> Values:
        with np.errstate(over="ignore"):
            return Values(self._vectors(x).astype(self.dtype))

    def decode(self, encoded: Values) -> np.ndarray:
        return encoded.values.astype(np.float32)
