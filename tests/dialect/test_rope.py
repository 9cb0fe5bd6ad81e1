"""`tqc.rope` against its formula."""

import numpy as np
from run_op import run_op

from tqc.dialect import rope

RNG = np.random.default_rng(0)


def test_rope_turns_pairs_half_a_head_apart():
    x = RNG.standard_normal((1, 2, 3, 8)).astype("float32")
    at, inv_freq = np.array([[5, 6, 100]]), (10.0 ** -np.arange(4)).astype("float32")
    angle = np.concatenate([at[..., None] * inv_freq] * 2, -1)[:, None]
    half = np.concatenate([-x[..., 4:], x[..., :4]], -1)
    truth = x * np.cos(angle) + half * np.sin(angle)
    got = run_op(lambda x, p, f: rope(x, p, f), x=x, p=at, f=inv_freq)
    np.testing.assert_allclose(got, truth, atol=2e-5)


def test_interleaved_rope_turns_neighbours():
    x = RNG.standard_normal((1, 2, 3, 8)).astype("float32")
    at, inv_freq = np.array([[5, 6, 100]]), (10.0 ** -np.arange(4)).astype("float32")
    turned = (x[..., 0::2] + 1j * x[..., 1::2]) * 1.5 * np.exp(1j * at[..., None] * inv_freq)[:, None]
    truth = np.stack([turned.real, turned.imag], -1).reshape(x.shape)
    got = run_op(lambda x, p, f: rope(x, p, f, scaling=1.5, interleaved=True), x=x, p=at, f=inv_freq)
    np.testing.assert_allclose(got, truth, atol=2e-5)
