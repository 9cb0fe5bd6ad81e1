"""The whole path on the real model. Minutes; downloads 93 MB once."""

from __future__ import annotations

import pytest
from references import onnx_greedy
from tokenizers import Tokenizer

import tqc
from tqc.eval.fidelity import compare
from tqc.eval.onnx_session import OnnxSession
from tqc.eval.texts import prose

pytestmark = pytest.mark.slow
CONTEXT = 2304


@pytest.fixture(scope="module")
def tokenizer(smollm2_onnx):
    return Tokenizer.from_file(str(smollm2_onnx.parent / "tokenizer.json"))


@pytest.fixture(scope="module")
def exact(smollm2_onnx, compiled):
    return compiled(smollm2_onnx, kv="fp32", max_context=CONTEXT)


def test_an_exact_cache_gives_onnxruntimes_logits_and_text(smollm2_onnx, exact, tokenizer):
    session = tqc.load(exact, max_context=512)
    ids = tokenizer.encode(prose()).ids[:300]
    result = compare(OnnxSession(smollm2_onnx, threads=2), {"tqc": session}, ids, chunk=64)["tqc"]
    assert result.max_difference <= 1e-3
    session.reset()
    prompt = tokenizer.encode("The capital of France is").ids
    tokens = list(session.generate(prompt, 64))
    assert tokens == onnx_greedy(smollm2_onnx, prompt, 64)
    assert tokenizer.decode(tokens).startswith(" Paris")


def test_a_compressed_cache_reads_english_as_well(smollm2_onnx, exact, compiled, tokenizer):
    ids = tokenizer.encode(prose()).ids[:2049]
    sessions = {
        kv: tqc.load(compiled(smollm2_onnx, kv=kv, max_context=CONTEXT), max_context=2048) for kv in ("tq4", "tq8")
    }
    results = compare(tqc.load(exact, max_context=2048), sessions, ids, chunk=16)
    assert results["tq4"].agreement >= 0.97
    assert abs(results["tq4"].perplexity_change) <= 0.015
    assert results["tq8"].agreement >= 0.985
    assert abs(results["tq8"].perplexity_change) <= 0.002
    kv = sessions["tq4"].kv_bytes
    vectors = 30 * 3 * 2
    assert kv.pages == (2048 - 4 - 128) // 64 * 64 * vectors * 34
    assert kv.page_compression == pytest.approx(128 / 34)


def test_the_artifact_is_small_beside_its_weights(exact):
    sizes = {item.name: item.stat().st_size for item in exact.iterdir()}
    libraries = [size for name, size in sizes.items() if name.endswith(".so")]
    assert libraries
    assert max(libraries) < 5e6
    assert sizes["params.safetensors"] < 560e6
