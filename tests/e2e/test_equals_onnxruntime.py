"""With an exact cache the compiled model computes what onnxruntime computes from the same ONNX file."""

from __future__ import annotations

import numpy as np
import pytest
from references import onnx_greedy, onnx_logits, onnx_padded_logits, random_ids

import tqc

TOLERANCE = 1e-3
MODELS = [
    "tiny_llama_onnx",
    "tiny_llama_tied_onnx",
    "tiny_mistral_onnx",
    "tiny_qwen2_onnx",
]
LENGTH = 230
"""Past the sinks, the exact window and two pages, with a page begun."""


@pytest.fixture(params=MODELS)
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def artifact(model, compiled):
    return compiled(model, kv="fp32", max_context=512)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, atol=TOLERANCE, rtol=0)


def test_prefill(model, artifact):
    ids = random_ids(LENGTH)
    expected = onnx_logits(model, ids)
    assert expected.std() > 0.5
    session = tqc.load(artifact)
    (actual,) = session.prefill(ids, all_logits=True)
    close(actual, expected)
    session.reset()
    close(session.prefill(ids)[0], expected[-1])


def test_chunked_prefill(model, artifact):
    ids = random_ids(LENGTH)
    expected = onnx_logits(model, ids)
    session, start = tqc.load(artifact), 0
    for size in (1, 3, 70, 64, 2, 90):
        (actual,) = session.prefill(ids[start : start + size], all_logits=True)
        close(actual, expected[start : start + size])
        start += size
    assert session.length == (LENGTH,)


def test_decode(model, artifact):
    ids = random_ids(LENGTH)
    expected = onnx_logits(model, ids)
    session = tqc.load(artifact)
    close(session.prefill(ids[:5])[0], expected[4])
    for position in range(5, LENGTH):
        close(session.decode([ids[position]])[0], expected[position])


def test_greedy_tokens(model, artifact):
    ids = random_ids(100, seed=1)
    assert list(tqc.load(artifact).generate(ids, 64)) == onnx_greedy(model, ids, 64)


def test_ragged_batch(model, artifact):
    rows = [random_ids(150, seed=2), random_ids(37, seed=3)]
    following = random_ids(2 * 90, seed=4)
    session = tqc.load(artifact, batch=2)
    logits = session.prefill(rows)
    for step in range(90):
        if step % 30 == 0:
            for number, row in enumerate(rows):
                close(logits[number], onnx_logits(model, row)[-1])
        new = following[2 * step : 2 * step + 2]
        rows = [[*row, token] for row, token in zip(rows, new, strict=True)]
        logits = session.decode(new)
    for number, row in enumerate(rows):
        close(logits[number], onnx_logits(model, row)[-1])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batch(model, artifact, side):
    lengths, width = (61, 140), 140
    ids, mask = np.zeros((2, width), np.int64), np.zeros((2, width), np.int64)
    for number, length in enumerate(lengths):
        place = slice(width - length, width) if side == "left" else slice(0, length)
        ids[number, place], mask[number, place] = random_ids(length, seed=number), 1
    expected = onnx_padded_logits(model, ids, mask)
    last = [width - 1 if side == "left" else length - 1 for length in lengths]
    logits = tqc.load(artifact, batch=2).prefill(ids, attention_mask=mask)
    close(logits, expected[[0, 1], last])


def test_a_batch_of_one_is_the_same_as_alone_in_a_batch(model, artifact):
    """Sequences do not see each other."""
    ids, other = random_ids(140, seed=5), random_ids(9, seed=6)
    alone = tqc.load(artifact).prefill(ids)[0]
    together = tqc.load(artifact, batch=2).prefill([other, ids])[1]
    np.testing.assert_allclose(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "layout", [{"sinks": 0}, {"recent": 0}, {"sinks": 0, "recent": 0}, {"sinks": 17, "recent": 30}]
)
def test_where_tokens_lie_does_not_matter_when_all_are_exact(tiny_llama_onnx, compiled, layout):
    ids = random_ids(LENGTH)
    expected = onnx_logits(tiny_llama_onnx, ids)
    session = tqc.load(compiled(tiny_llama_onnx, kv="fp32", max_context=512, **layout))
    close(session.prefill(ids[:150], all_logits=True)[0], expected[:150])
    for position in range(150, LENGTH):
        close(session.decode([ids[position]])[0], expected[position])


@pytest.mark.parametrize("page", [16, 128])
def test_page_sizes(tiny_llama_onnx, compiled, page):
    ids = random_ids(LENGTH)
    expected = onnx_logits(tiny_llama_onnx, ids)
    session = tqc.load(compiled(tiny_llama_onnx, kv="fp32", recent=40, page=page, max_context=512))
    close(session.prefill(ids[:99], all_logits=True)[0], expected[:99])
    for position in range(99, LENGTH):
        close(session.decode([ids[position]])[0], expected[position])


@pytest.mark.parametrize("head_dim", [80, 96, 128])
def test_head_dims(tiny_onnx, compiled, head_dim):
    model = tiny_onnx(arch="llama", head_dim=head_dim, heads=4, kv_heads=1)
    ids = random_ids(LENGTH)
    session = tqc.load(compiled(model, kv="fp32", max_context=512))
    close(session.prefill(ids, all_logits=True)[0], onnx_logits(model, ids))


def test_fp16_model(tiny_llama_fp16_onnx, compiled):
    """Weights in fp16: both sides round, in different places."""
    ids = random_ids(LENGTH)
    expected = onnx_logits(tiny_llama_fp16_onnx, ids)
    (actual,) = tqc.load(compiled(tiny_llama_fp16_onnx, kv="fp32", max_context=512)).prefill(ids, all_logits=True)
    np.testing.assert_allclose(actual, expected, atol=0.1, rtol=0)
    assert np.abs(actual - expected).mean() < 0.01
