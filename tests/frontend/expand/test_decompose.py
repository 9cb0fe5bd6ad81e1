"""The decomposed form computes attention, and `find` recognises it with all of its parts."""

from __future__ import annotations

import numpy as np
import pytest

from tqc.frontend.expand.decompose import append, attend, causal_mask, join_heads, split_heads

RNG = np.random.default_rng(0)
HEADS, KV_HEADS, DIM, SEQ, PAST = 4, 2, 8, 3, 5


def feeds(dtype="float32"):
    def draw(*shape):
        return RNG.standard_normal(shape, np.float32).astype(dtype)

    cache = {name: draw(2, KV_HEADS, PAST, DIM) for name in ("past_k", "past_v")}
    fresh = {name: draw(2, KV_HEADS, SEQ, DIM) for name in ("k", "v")}
    tokens = {"input_ids": np.ones((2, SEQ), np.int64)}
    return {"q": draw(2, HEADS, SEQ, DIM), "sinks": draw(HEADS), **cache, **fresh, **tokens}


def expected(feeds, scale, softcap=0.0, window=0, sinks=False):
    """Attention in float64, softmax written out."""
    q, sink, past_k, past_v, k, v = (feeds[n].astype(np.float64) for n in ("q", "sinks", "past_k", "past_v", "k", "v"))
    keys, values = (np.concatenate(pair, 2).repeat(HEADS // KV_HEADS, 1) for pair in ((past_k, k), (past_v, v)))
    scores = q @ keys.swapaxes(2, 3) * scale
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    distance = PAST + np.arange(SEQ)[:, None] - np.arange(PAST + SEQ)
    weights = np.exp(scores) * ((distance >= 0) & ((distance < window) if window else True))
    total = weights.sum(-1, keepdims=True) + (np.exp(sink)[:, None, None] if sinks else 0)
    return weights / total @ values


def build(bench, window=0, sinks=False, **options):
    x = bench.expansion
    k, v = append(x, "past_k", "k", "present_k"), append(x, "past_v", "v")
    assert k == "present_k"
    mask = causal_mask(x, "past_k", window)
    heads = {"heads": HEADS, "kv_heads": KV_HEADS, "dim": DIM}
    return attend(x, "q", k, v, **heads, masks=[mask], sinks="sinks" if sinks else "", output="y", **options)


@pytest.mark.parametrize(
    "options",
    [{}, {"softcap": 0.7}, {"window": 4}, {"sinks": True}, {"softcap": 2.0, "window": 3, "sinks": True}],
    ids=str,
)
def test_attention(bench, options):
    data = feeds()
    made = bench(data)
    build(made, scale=0.3, **options)
    (y,) = made.run("y")
    np.testing.assert_allclose(y, expected(data, 0.3, **options), rtol=0, atol=1e-5)


def test_half_precision_keeps_the_scale(bench):
    data = feeds("float16")
    made = bench(data)
    build(made, scale=1 / 3)
    (y,) = made.run("y")
    assert y.dtype == np.float16
    assert any(value == np.float32(1 / 3) for value in made.graph.constants.values() if value.size == 1)
    np.testing.assert_allclose(y, expected(data, 1 / 3), rtol=0, atol=4e-3)


def test_added_masks(bench):
    data = feeds() | {"bias": RNG.standard_normal((1, 1, SEQ, PAST + SEQ), np.float32)}
    made = bench(data)
    heads = {"heads": HEADS, "kv_heads": KV_HEADS, "dim": DIM}
    k, v = append(made.expansion, "past_k", "k"), append(made.expansion, "past_v", "v")
    y = attend(made.expansion, "q", k, v, **heads, scale=1.0, masks=["bias"])
    scores = data["q"] @ np.concatenate([data["past_k"], data["k"]], 2).repeat(2, 1).swapaxes(2, 3) + data["bias"]
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    values = np.concatenate([data["past_v"], data["v"]], 2).repeat(2, 1)
    np.testing.assert_allclose(made.run(y)[0], weights @ values, rtol=0, atol=1e-5)


def test_layers_share_a_mask_of_the_same_window(bench):
    made = bench(feeds())
    assert causal_mask(made.expansion, "past_k", 4) == causal_mask(made.expansion, "past_v", 4)
    assert causal_mask(made.expansion, "past_k", 5) != causal_mask(made.expansion, "past_k", 4)


def test_heads_split_and_joined(bench):
    data = {"x": RNG.standard_normal((2, SEQ, HEADS * DIM), np.float32)}
    made = bench(data)
    split = split_heads(made.expansion, "x", HEADS, DIM)
    joined = join_heads(made.expansion, split, HEADS, DIM)
    heads, flat = made.run(split, joined)
    np.testing.assert_array_equal(heads[1, 2], data["x"][1, :, 2 * DIM : 3 * DIM])
    np.testing.assert_array_equal(flat, data["x"])


def test_heads_that_were_just_joined_are_not_split_again(bench):
    made = bench({"x": RNG.standard_normal((2, HEADS, SEQ, DIM), np.float32)})
    joined = join_heads(made.expansion, "x", HEADS, DIM)
    assert split_heads(made.expansion, joined, HEADS, DIM) == "x"
    halves = split_heads(made.expansion, joined, 2 * HEADS, DIM // 2)
    assert made.run(halves)[0].shape == (2, 2 * HEADS, SEQ, DIM // 2)
