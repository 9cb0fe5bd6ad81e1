"""Trellis-coded vectors, to compare with; the evaluation only, no kernel reads them.

TurboQuant's rotation and scalar, but codes that are chosen together (trellis-coded quantization, Marcellin & Fischer
1990) on the bitshift trellis of QTIP (arXiv:2406.11235, §3.1): the codes of a vector stand behind each other as bits,
and value t is the centroid whose number is the last `MEMORY` bits up to code t. So b bits a value choose among 2**b
centroids, but other ones each time, and the decoder is a shift register and a table.

The bits are a ring (tail-biting, QTIP §3.2): what the register holds before the first code are the last codes, so that
the start costs no bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from tqc.codec import bitstream, rotation
from tqc.codec.base import Codec, Encoded
from tqc.errors import CodecError

MEMORY = 9
"""Bits of the shift register; 2**MEMORY centroids. Each bit more halves the speed of encoding."""

MAX_BITS = 4

_RUN_IN = 16  # values on each side of the seam that decide which bits the ring is closed with
_BLOCK = 256  # vectors that are encoded at a time: the costs of all states stay in the processor's cache
_TRAINING = 2048  # unit vectors
_SWEEPS = 10


@dataclass(frozen=True, eq=False)
class TrellisCodes(Encoded):
    """`codes` uint8 [..., head_dim·bits/8], in the order of `bitstream`; `scale` float16 [...]."""

    codes: np.ndarray
    scale: np.ndarray


class Trellis(Codec):
    """`tcq1` … `tcq4`: codes of so many bits a value and one scale, the unbiased one of `TurboQuant`.

    Zero vectors, and vectors that are not finite or too large, are kept as there: exact zeros, and NaN.
    """

    def __init__(self, bits: int, head_dim: int, seed: int = 0) -> None:
        """`seed` chooses the rotation. Raises CodecError on values out of range."""
        super().__init__(f"tcq{bits}", head_dim)
        if not 1 <= bits <= MAX_BITS:
            raise CodecError("there is no trellis of this width", expected=f"1 to {MAX_BITS} bits", found=str(bits))
        self.bits = bits
        self.seed = seed
        self.table = table(bits, head_dim)

    @property
    def bytes_per_vector(self) -> int:
        return self.head_dim * self.bits // 8 + 2

    def encode(self, x: np.ndarray) -> TrellisCodes:
        with np.errstate(invalid="ignore", over="ignore", under="ignore"):
            z = rotation.rotate(self._vectors(x).astype(np.float32), self.seed)
            norm = np.sqrt(np.square(z).sum(axis=-1))
            usable = np.isfinite(norm) & (norm > 0)
            y = np.where(usable[..., None], z, 0) / np.where(usable, norm, 1)[..., None]
            codes = self.quantize(y)
            scale = np.asarray(norm / (y * self.dequantize(codes)).sum(axis=-1), np.float16)
        scale = np.where(np.isfinite(scale), scale, np.float16(np.nan))
        return TrellisCodes(bitstream.pack(codes, self.bits), np.where(norm == 0, np.float16(0), scale))

    def decode(self, encoded: TrellisCodes) -> np.ndarray:
        codes = bitstream.unpack(encoded.codes, self.bits, self.head_dim)
        scale = np.asarray(encoded.scale)[..., None].astype(np.float32)
        return rotation.unrotate(self.dequantize(codes) * scale, self.seed)

    def quantize(self, y: np.ndarray) -> np.ndarray:
        """Codes uint8 [..., head_dim] below 2**bits of rotated unit vectors y, the same shape, float32."""
        flat = y.reshape(-1, self.head_dim).T
        codes = _closed_states(flat, self.table, self.bits) & (2**self.bits - 1)
        return np.ascontiguousarray(codes.T.astype(np.uint8)).reshape(y.shape)

    def dequantize(self, codes: np.ndarray) -> np.ndarray:
        """The rotated vectors before the scale, float32: a shift register over the ring of codes, and the table."""
        state = np.zeros(codes.shape, np.int64)
        for back in range(-(-MEMORY // self.bits)):
            state |= np.roll(codes, back, axis=-1).astype(np.int64) << (back * self.bits)
        return self.table[state % 2**MEMORY]


@lru_cache
def table(bits: int, head_dim: int) -> np.ndarray:
    """The 2**MEMORY centroids for values of unit vectors in R^head_dim, float32, read-only.

    Quantiles of the normal law, dealt so that the codes that can follow each other choose among one of every stratum,
    then the generalised Lloyd algorithm over random unit vectors: each centroid becomes the mean of its values.
    """
    states, choices = 2**MEMORY, 2**bits
    random = np.random.Generator(np.random.PCG64(0))
    strata = np.array([NormalDist().inv_cdf((i + 0.5) / states) for i in range(states)]).reshape(choices, -1)
    made = random.permuted(random.permuted(strata, axis=1).T, axis=1).reshape(states) / head_dim**0.5
    vectors = random.standard_normal((head_dim, _TRAINING))
    vectors = (vectors / np.sqrt(np.square(vectors).sum(axis=0))).astype(np.float32)
    for _ in range(_SWEEPS):
        chosen = _states(vectors, made.astype(np.float32), bits).ravel()
        count, total = (np.bincount(chosen, w, states) for w in (None, vectors.ravel()))
        made = np.where(count > 0, total / np.maximum(count, 1), made)
    made = made.astype(np.float32)
    made.flags.writeable = False
    return made


def _closed_states(x: np.ndarray, centroids: np.ndarray, bits: int) -> np.ndarray:
    """`_states` whose bits are a ring. The bits at the seam come from a path over the seam (QTIP, algorithm 4)."""
    run_in = min(_RUN_IN, len(x))
    over_seam = _states(np.concatenate([x[-run_in:], x[:run_in]]), centroids, bits)
    return _states(x, centroids, bits, over_seam[run_in - 1] % (len(centroids) >> bits))


def _states(x: np.ndarray, centroids: np.ndarray, bits: int, seam: np.ndarray | None = None) -> np.ndarray:
    """The states int64 [values, N] of least squared error of x [values, N] float32, by Viterbi's algorithm.

    `seam` [N]: the bits that the register holds before the first code, and again after the last; None: any.
    """
    blocks = range(0, x.shape[1], _BLOCK)
    parts = [np.s_[start : start + _BLOCK] for start in blocks]
    made = [_block(x[:, part], centroids, bits, None if seam is None else seam[part]) for part in parts]
    return np.concatenate(made, axis=1) if made else np.zeros(x.shape, np.int64)


def _block(x: np.ndarray, centroids: np.ndarray, bits: int, seam: np.ndarray | None) -> np.ndarray:
    """State s is reached from all states whose low bits are s >> bits: they differ in their `bits` high bits."""
    choices, (count, n) = 2**bits, x.shape
    pasts, each = len(centroids) // choices, np.arange(n)
    twice, squares = 2 * centroids[:, None], np.square(centroids)[:, None]
    best = np.zeros((pasts, n), np.float32)  # least cost of every past, then the high bits with which it is reached
    if seam is not None:
        best[:] = np.inf
        best[seam, each] = 0
    came_from = np.zeros((count, pasts, n), np.uint8)
    cost = np.empty((len(centroids), n), np.float32)
    for step in range(count):
        np.subtract(squares, np.multiply(twice, x[step], out=cost), out=cost)  # less x², which no choice changes
        cost.reshape(pasts, choices, n)[:] += best[:, None]
        if step + 1 < count:
            by_high = cost.reshape(choices, pasts, n)
            best = by_high.min(axis=0)
            for high in range(1, choices):
                np.copyto(came_from[step + 1], np.uint8(high), where=by_high[high] == best)
    if seam is None:
        state = cost.argmin(axis=0)
    else:
        state = cost.reshape(choices, pasts, n)[:, seam, each].argmin(axis=0) * pasts + seam
    states = np.empty((count, n), np.int64)
    for step in range(count - 1, -1, -1):
        states[step], past = state, state >> bits
        state = came_from[step, past, each].astype(np.int64) * pasts + past
    return states
