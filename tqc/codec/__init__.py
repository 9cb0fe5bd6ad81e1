"""NumPy definitions of how the KV cache holds vectors: the truth that kernels are tested against."""

from __future__ import annotations

import re

import numpy as np

from tqc.codec import scheme
from tqc.codec.banded import Banded
from tqc.codec.base import Codec, Encoded
from tqc.codec.basis import check_matrix
from tqc.codec.exact import Exact
from tqc.codec.form import EXACT_DTYPES, form
from tqc.codec.polar import Polar
from tqc.codec.turboquant import TurboQuant

__all__ = ["Codec", "Encoded", "get"]


def get(
    name: str,
    head_dim: int,
    seed: int = 0,
    scalar: str | None = None,
    *,
    rounds: int = 1,
    gaussian: bool = False,
    matrix: np.ndarray | None = None,
) -> Codec:
    """The codec of the scheme `name`, one of a single side (`scheme`), for vectors of `head_dim` floats.

    Of the options each scheme takes those it has: `seed` chooses rotation and sketches, `scalar` (`plain`, `norm` or
    `unbiased`; None: the one that kernels store) the stored scalar of codes, `rounds` those of the rotation, `gaussian`
    the kind of sketches and `matrix` the basis of schemes that have one of their own (`Banded`). Raises CodecError on
    an unknown scheme or option, or on a head_dim that is not a multiple of 16 from 16 to 512.
    """
    scheme.check(name)
    if matrix is not None:
        check_matrix(form(name, head_dim), matrix)
    if name in EXACT_DTYPES:
        return Exact(name, head_dim)
    if name.startswith("polar"):
        return Polar(name, head_dim, seed, rounds=rounds)
    if re.fullmatch("tq[1-8]", name) and matrix is None:
        return TurboQuant(int(name[2:]), head_dim, seed, scalar or "unbiased", rounds=rounds)
    return Banded(name, head_dim, seed, scalar, rounds=rounds, gaussian=gaussian, matrix=matrix)
