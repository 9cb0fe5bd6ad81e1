"""Layers with a sliding window keep only their window of pages, and compute what they computed with all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import transformers
from references import onnx_logits, random_ids

import tqc
from tqc.models import trace
from tqc.models.tiny import tiny_model

WINDOW, LENGTH, CONTEXT = 16, 300, 4096
LAYERS, KV_HEADS, HEAD_DIM = 2, 2, 64


def check(session: tqc.Session, model: Path, rows: list[list[int]], prompts: list[int], chunks: int) -> None:
    """Prefill of the prompts in `chunks` calls, then decode to the end, against onnxruntime."""
    expected = [onnx_logits(model, ids) for ids in rows]
    for start, stop in ((i / chunks, (i + 1) / chunks) for i in range(chunks)):
        cuts = [slice(int(length * start), int(length * stop)) for length in prompts]
        logits = session.prefill([ids[cut] for ids, cut in zip(rows, cuts, strict=True)], all_logits=True)
        for found, wanted, cut in zip(logits, expected, cuts, strict=True):
            np.testing.assert_allclose(found, wanted[cut], atol=1e-3, rtol=0)
    for step in range(min(len(ids) - length for ids, length in zip(rows, prompts, strict=True))):
        logits = session.decode([ids[length + step] for ids, length in zip(rows, prompts, strict=True)])
        for found, wanted, length in zip(logits, expected, prompts, strict=True):
            np.testing.assert_allclose(found, wanted[length + step], atol=1e-3, rtol=0)


@pytest.mark.parametrize("options", [{"recent": 0}, {"recent": 0, "page": 16, "sinks": 0}, {"recent": 128}])
def test_long_sequences_equal_onnxruntime_in_a_few_pages(tiny_mistral_onnx, compiled, options):
    """Chunks longer than the window, one of two sequences shorter than the other."""
    session = tqc.load(compiled(tiny_mistral_onnx, kv="fp32", max_context=CONTEXT, **options), batch=2)
    rows, prompts = [random_ids(LENGTH), random_ids(LENGTH // 2, seed=1)], [220, 70]
    check(session, tiny_mistral_onnx, rows, prompts, chunks=2)


@pytest.mark.parametrize(("kv", "vector_bytes"), [("fp32", 256), ("tq4", 34)])
def test_what_is_allocated_does_not_depend_on_the_context(
    tiny_mistral_onnx, tiny_llama_onnx, compiled, kv, vector_bytes
):
    windowed = tqc.load(compiled(tiny_mistral_onnx, kv=kv, max_context=CONTEXT, recent=0))
    everything = tqc.load(compiled(tiny_llama_onnx, kv=kv, max_context=CONTEXT, recent=0))
    page = LAYERS * KV_HEADS * 64 * 2 * vector_bytes
    assert everything.kv_bytes.pages_allocated == CONTEXT // 64 * page
    assert windowed.kv_bytes.pages_allocated == 2 * page  # 16 tokens can lie in two pages
    used = []
    for start in range(0, LENGTH, 50):
        windowed.prefill(random_ids(50, seed=start))
        used.append(windowed.kv_bytes.pages // page)
    assert used == [1, 2, 2, 2, 2, 2]
    assert windowed.kv_bytes.coded_tokens == LENGTH - 4


def test_a_session_shorter_than_the_window_takes_no_more_than_its_pages(tiny_onnx, compiled):
    model = tiny_onnx(arch="mistral", window=1000)
    artifact = compiled(model, kv="fp32", max_context=CONTEXT)
    session = tqc.load(artifact, max_context=200)
    assert session.kv_bytes.pages_allocated // session.kv_bytes.page == 4  # of 14 that the window could touch
    assert tqc.load(artifact).kv_bytes.pages_allocated // session.kv_bytes.page == 14
    check(session, model, [random_ids(200)], [150], chunks=1)


def test_layers_with_and_without_a_window_in_one_model(tmp_path, compiled):
    tiny = tiny_model("qwen2", layers=3)
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    sliding = {"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": kinds}
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**(tiny.config.to_dict() | sliding)))
    model.load_state_dict(tiny.state_dict())
    model.set_attn_implementation("sdpa")
    path = trace.write_onnx(model.eval(), tmp_path)
    session = tqc.load(compiled(path, kv="fp32", max_context=CONTEXT, recent=20, page=16))
    assert [layer.window for layer in session.manifest.layers] == [WINDOW, 0, WINDOW]
    check(session, path, [random_ids(LENGTH)], [200], chunks=2)
    layer = 2 * KV_HEADS * HEAD_DIM * 16 * 4  # bytes of a page
    in_use = (LENGTH - 4 - 20) // 16
    assert session.kv_bytes.pages == (1 + in_use + 1) * layer
    assert session.kv_bytes.pages_allocated == (1 + CONTEXT // 16 + 1) * layer
