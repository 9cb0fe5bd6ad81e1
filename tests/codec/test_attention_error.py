"""What codecs do to attention: products in the cache's basis, noise of logits, divergence of attention weights."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tqc import codec
from tqc.codec import rotation, sketch
from tqc.codec.banded import Banded

DIMS = (64, 80, 96, 128, 256)
PAIRS = np.arange(64)  # of RoPE at 128 dims, the fastest first


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=0))
    return weights / weights.sum(axis=0)


def error(made: codec.Codec, x: np.ndarray) -> np.ndarray:
    return made.decode(made.encode(x)) - x


@pytest.mark.parametrize("dim", DIMS)
def test_scores_and_values_in_the_cache_s_basis(dim: int) -> None:
    """Queries are rotated once, K never back; the sum of values is rotated back once, or by W_o."""
    random = np.random.default_rng(dim)
    turn, made = rotation.matrix(dim), Banded("tq3", dim)
    coded = made.dequantize(*made.quantize(random.standard_normal((40, dim)))).astype(np.float64)
    q, weights = random.standard_normal(dim), random.random(40)
    scores = coded @ turn @ q
    np.testing.assert_allclose(coded @ (turn @ q), scores, rtol=0, atol=1e-12 * np.abs(scores).max() * dim)
    single = coded.astype(np.float16).astype(np.float32) @ (turn @ q).astype(np.float16).astype(np.float32)
    assert np.abs(single - scores).max() < 2e-3 * np.linalg.norm(q) * np.linalg.norm(coded, axis=1).max()
    w_o, w_v = random.standard_normal((dim, dim)) / dim, random.standard_normal((dim, dim)) / dim
    out = w_o @ (weights @ (coded @ turn))
    np.testing.assert_allclose((w_o @ turn.T) @ (weights @ coded), out, atol=1e-12 * np.abs(out).max() * dim)
    x = random.standard_normal(dim)
    np.testing.assert_allclose((turn @ w_v) @ x, turn @ (w_v @ x), atol=1e-12)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", ["tqp3", "qjl1", "qjl3", "qjl2o"])
def test_a_sketch_is_more_rows_of_key_and_query(name: str, dim: int) -> None:
    random, made = np.random.default_rng(dim), Banded(name, dim)
    coded = made.dequantize(*made.quantize(random.standard_normal((40, dim)))).astype(np.float64)
    projection = sketch.matrix(made.form)
    q = random.standard_normal((6, dim))
    whole = coded[:, :dim] + coded[:, dim:] @ projection
    long = np.concatenate([q, q @ projection.T], axis=1)
    np.testing.assert_allclose(coded @ long.T, whole @ q.T, atol=1e-11)
    longer = np.concatenate([q, sketch.project(q, made.form)], axis=1)
    np.testing.assert_allclose(coded @ longer.T, whole @ q.T, atol=1e-4)
    weights = softmax(coded @ long.T)
    sums = weights.T @ coded  # rows of the sketch are folded back once, behind the sum
    np.testing.assert_allclose(made.reconstruct(sums.astype(np.float32)), weights.T @ whole, atol=1e-4)


def test_a_group_of_query_heads_shares_its_codes() -> None:
    random, made = np.random.default_rng(0), Banded("tq4", 64)
    coded = made.dequantize(*made.quantize(random.standard_normal((3, 40, 64)))).astype(np.float64)  # 3 KV heads
    q = random.standard_normal((9, 64))
    together = np.einsum("hgd,htd->hgt", q.reshape(3, 3, 64), coded).reshape(9, 40)
    np.testing.assert_allclose(together, np.stack([coded[head // 3] @ q[head] for head in range(9)]), atol=1e-12)


@pytest.mark.parametrize(("bits", "expected"), [(1, 0.36089), (2, 0.11600), (3, 0.03397), (4, 0.009315)])
def test_noise_of_logits(bits: int, expected: float) -> None:
    """sd = |q| |k| √D / d, the division by √d included."""
    random = np.random.default_rng(bits)
    k, q = random.standard_normal((3000, 128)), random.standard_normal((48, 128))
    k *= 15 / np.linalg.norm(k, axis=1, keepdims=True)
    q *= 15 / np.linalg.norm(q, axis=1, keepdims=True)
    noise = error(codec.get(f"tq{bits}", 128, scalar="plain"), k) @ q.T / math.sqrt(128)
    assert noise.std() == pytest.approx(225 * math.sqrt(expected) / 128, rel=0.05)


@pytest.mark.parametrize(
    ("bits", "published"), [(2, (0.502, 0.857, 2.13)), (3, (0.149, 0.285, 0.800)), (4, (0.0443, 0.0825, 0.232))]
)
def test_divergence_of_attention(bits: int, published: tuple[float, ...]) -> None:
    """At equal bits and logits of sd 3, Lloyd–Max alone beats an orthogonal sketch, and that a Gaussian one."""
    found = []
    for seed in range(2):
        random = np.random.default_rng(seed)
        k, q = random.standard_normal((4096, 128)), random.standard_normal((128, 8))
        q *= 3 / (k @ q).std(axis=0)
        exact = softmax(k @ q)
        schemes = [codec.get(f"tq{bits}", 128, seed, "plain")]
        schemes += [codec.get(f"tqp{bits}", 128, seed, "plain", gaussian=gaussian) for gaussian in (False, True)]
        coded = [softmax(made.decode(made.encode(k)) @ q) for made in schemes]
        found.append([(exact * np.log(exact / other)).sum(axis=0).mean() for other in coded])
    mse, orthogonal, gaussian = np.mean(found, axis=0)
    assert mse < orthogonal < gaussian
    np.testing.assert_allclose([mse, orthogonal, gaussian], published, rtol=0.25)


def rope(x: np.ndarray, theta: float) -> np.ndarray:
    """x [tokens, 128] turned at positions 0, 1, …"""
    angle = np.arange(len(x))[:, None] * theta ** (-PAIRS / 64)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([x[:, :64] * cos - x[:, 64:] * sin, x[:, :64] * sin + x[:, 64:] * cos], axis=1)


def noise_of_biased_keys(pairs: np.ndarray, theta: float, seed: int) -> list[float]:
    """sd over 2,048 tokens of the error of 4-bit logits, |q| = 15, of keys RoPE(b + Wx), |b| = 600 on `pairs`,
    |Wx| ≈ 20: as they are, less their mean, less RoPE(b)."""
    random = np.random.default_rng(seed)
    b = np.zeros(128)
    channels = np.concatenate([pairs, 64 + pairs])
    b[channels] = random.standard_normal(len(channels))
    b *= 600 / np.linalg.norm(b)
    k = rope(b + random.standard_normal((2048, 128)) * 20 / math.sqrt(128), theta)
    q = random.standard_normal((16, 128))
    q *= 15 / np.linalg.norm(q, axis=1, keepdims=True)
    made = codec.get("tq4", 128, seed, "plain")
    kept = (k, k - k.mean(axis=0), k - rope(np.tile(b, (2048, 1)), theta))
    return [(error(made, z) @ q.T / math.sqrt(128)).std(axis=0).mean() for z in kept]


def test_biased_keys() -> None:
    """A frozen mean takes the bias away only where RoPE hardly turns it; RoPE(b) itself takes it away everywhere."""
    for pairs, theta, helps in ((PAIRS[48:], 1e6, True), (PAIRS[48:], 1e4, False), (PAIRS[16:32], 1e6, False)):
        raw, centred, exact = np.mean([noise_of_biased_keys(pairs, theta, seed) for seed in range(3)], axis=0)
        assert 4 < raw < 7
        assert 0.19 < exact < 0.24
        assert centred < 0.3 if helps else centred > 1
