"""NumPy definitions of how the KV cache holds vectors: the truth that kernels are tested against."""

from __future__ import annotations

from tqc.codec import scheme
from tqc.codec.base import Codec, Encoded
from tqc.codec.exact import Exact
from tqc.codec.form import EXACT_DTYPES
from tqc.codec.layout import code_bits
from tqc.codec.turboquant import TurboQuant

__all__ = ["Codec", "Encoded", "get"]


def get(name: str, head_dim: int, seed: int = 0, scalar: str = "unbiased") -> Codec:
    """The codec of the scheme `name` (`tq1` … `tq8`, `fp16`, `fp32`) for vectors of `head_dim` floats.

    `seed` chooses the rotation and `scalar` (`plain`, `norm` or `unbiased`) the stored scalar; exact schemes have
    neither. Raises CodecError on an unknown scheme or scalar, or on a head_dim that is not a multiple of 16 from 16
    to 512.
    """
    scheme.check(name)
    if name in EXACT_DTYPES:
        return Exact(name, head_dim)
    return TurboQuant(code_bits(name), head_dim, seed, scalar)
