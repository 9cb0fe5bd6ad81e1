"""What a model's keys and queries look like at any position, told from those of a short text.

RoPE turns each pair of numbers of a key by position times frequency (Su et al. 2021, eq. 34). Turned back, the vectors
of a text no longer depend on where it stood; turned forth and averaged over all positions up to a length, their mean
and second moment are those of a long sequence, of which the slow pairs of a short text show only a corner.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tqc.frontend.rope_form import RopeForm


@dataclass(frozen=True, eq=False)
class Positions:
    """RoPE of heads of `head_dim` numbers: the pairs (first[i], second[i]) turn by frequencies[i] a token.

    Numbers that do not turn are pairs with frequency 0. `scaling` of the form is left in the vectors.
    """

    first: np.ndarray
    second: np.ndarray
    frequencies: np.ndarray

    @classmethod
    def of(cls, rope: RopeForm | None, head_dim: int) -> Positions:
        """The pairs of `rope`; None: nothing turns."""
        dims = rope.dims if rope else 0
        pairs = np.arange(dims // 2)
        first, second = (2 * pairs, 2 * pairs + 1) if rope and rope.interleaved else (pairs, pairs + dims // 2)
        rest = np.arange(dims, head_dim).reshape(-1, 2).T
        turning = np.array(rope.frequencies if rope else (), np.float64)
        return cls(
            np.concatenate([first, rest[0]]),
            np.concatenate([second, rest[1]]),
            np.concatenate([turning, np.zeros(len(rest[0]))]),
        )

    def turn_back(self, vectors: np.ndarray, start: int) -> np.ndarray:
        """vectors [H, tokens, D] from position `start` on → float64, as if all stood at position 0."""
        angles = (start + np.arange(vectors.shape[1]))[:, None] * self.frequencies
        return self._real(self._complex(vectors) * np.exp(-1j * angles))

    def average_mean(self, mean: np.ndarray, length: int) -> np.ndarray:
        """The mean [H, D] at position 0 → that over the positions 0 … length."""
        return self._real(self._complex(mean) * _average(self.frequencies, length))

    def average_moment(self, moment: np.ndarray, length: int) -> np.ndarray:
        """The second moment [H, D, D] at position 0 → that over the positions 0 … length, float64.

        With z the pairs as complex numbers, E[z zᴴ] turns by the differences of the frequencies and E[z zᵀ] by their
        sums.
        """
        f, s = self.first, self.second
        ff, ss = moment[:, f[:, None], f], moment[:, s[:, None], s]
        sf, fs = moment[:, s[:, None], f], moment[:, f[:, None], s]
        differences, sums = (op(self.frequencies, self.frequencies) for op in (np.subtract.outer, np.add.outer))
        hermitian = (ff + ss + 1j * (sf - fs)) * _average(differences, length)
        symmetric = (ff - ss + 1j * (sf + fs)) * _average(sums, length)
        out = np.empty_like(moment, np.float64)
        out[:, f[:, None], f] = (hermitian + symmetric).real / 2
        out[:, s[:, None], s] = (hermitian - symmetric).real / 2
        out[:, s[:, None], f] = (hermitian + symmetric).imag / 2
        out[:, f[:, None], s] = (symmetric - hermitian).imag / 2
        return out

    def _complex(self, x: np.ndarray) -> np.ndarray:
        return x[..., self.first].astype(np.float64) + 1j * x[..., self.second]

    def _real(self, z: np.ndarray) -> np.ndarray:
        out = np.empty((*z.shape[:-1], 2 * z.shape[-1]))
        out[..., self.first], out[..., self.second] = z.real, z.imag
        return out


def _average(frequencies: np.ndarray, length: int) -> np.ndarray:
    """The mean of exp(i·frequency·t) over 0 ≤ t ≤ length."""
    phase = frequencies * length / 2
    return np.exp(1j * phase) * np.sinc(phase / np.pi)
