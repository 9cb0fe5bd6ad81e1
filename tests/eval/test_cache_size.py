from __future__ import annotations

import pytest

import tqc
from tqc.artifact import read_manifest
from tqc.errors import TqcError
from tqc.eval.cache_size import cache_bytes, default_contexts


def test_bytes_are_those_of_the_session(tiny_llama_onnx, compiled):
    session = tqc.load(compiled(tiny_llama_onnx, kv="k4v3", max_context=512))
    lengths = [1, 60, 195, 196, 400]
    found = cache_bytes(session.manifest, lengths)
    for size, more in zip(found.contexts, (1, 59, 135, 1, 204), strict=True):
        session.prefill([7] * more)
        kv = session.kv_bytes
        assert (size.tokens, size.bytes, size.fp16_bytes) == (kv.tokens, kv.used, kv.fp16)
        assert size.compression == pytest.approx(kv.compression)
    assert (found.exact, found.page, found.page_tokens) == (kv.sinks + kv.tail, kv.page, 64)


def test_bytes_of_a_token_per_layer_and_side(tiny_llama_onnx, compiled):
    found = cache_bytes(read_manifest(compiled(tiny_llama_onnx, kv="k4v3", max_context=512)), [512])
    # 2 KV heads of 64 dims: 4 and 3 bits and a float16 scale each.
    assert [(layer.k, layer.v, layer.fp16) for layer in found.per_layer] == [(68, 52, 512)] * 2
    assert (found.per_token, found.fp16_per_token) == (240, 1024)
    assert found.compression == pytest.approx(1024 / 240)


def test_default_contexts_end_at_the_limit():
    assert default_contexts(512) == [512]
    assert default_contexts(8192) == [1024, 4096, 8192]
    assert default_contexts(4096) == [1024, 4096]


@pytest.mark.parametrize("length", [0, 513])
def test_lengths_beyond_the_artifact_are_refused(tiny_llama_onnx, compiled, length):
    with pytest.raises(TqcError, match="1 to 512 tokens"):
        cache_bytes(read_manifest(compiled(tiny_llama_onnx, kv="k4v3", max_context=512)), [length])
