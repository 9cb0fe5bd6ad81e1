"""The cache of a compiled model: how many bytes it takes, that it stays in place, and what the codes cost."""

from __future__ import annotations

import ctypes
import gc
from itertools import pairwise

import numpy as np
import pytest
from references import random_ids

import tqc
from tqc.errors import SessionError
from tqc.eval.fidelity import compare

LAYERS, KV_HEADS, HEAD_DIM, PAGE, SINKS, RECENT = 2, 2, 64, 64, 4, 128
BYTES_PER_VECTOR = {"tq4": 34, "tq8": 66, "tq3": 26, "tq2": 18}


@pytest.mark.parametrize("scheme", BYTES_PER_VECTOR)
def test_pages_take_exactly_the_bytes_of_the_table(tiny_llama_onnx, compiled, scheme):
    session = tqc.load(compiled(tiny_llama_onnx, kv=scheme, max_context=1024))
    session.prefill(random_ids(700))
    kv = session.kv_bytes
    coded = (700 - SINKS - RECENT) // PAGE * PAGE
    vectors = LAYERS * KV_HEADS * 2
    assert kv.coded_tokens == coded
    assert kv.page == PAGE * vectors * BYTES_PER_VECTOR[scheme]
    assert kv.pages == coded * vectors * BYTES_PER_VECTOR[scheme]
    assert kv.page_compression == pytest.approx(2 * HEAD_DIM / BYTES_PER_VECTOR[scheme])
    assert kv.sinks == vectors * 16 * HEAD_DIM * 4
    assert kv.tail == vectors * 3 * PAGE * HEAD_DIM * 4
    assert kv.fp16 == 700 * vectors * HEAD_DIM * 2
    assert kv.used == kv.sinks + kv.tail + kv.pages


def test_mixed_schemes(tiny_llama_onnx, compiled):
    kv = tqc.load(compiled(tiny_llama_onnx, kv="k4v3", max_context=512)).kv_bytes
    assert kv.page == PAGE * LAYERS * KV_HEADS * (34 + 26)


def test_buffers_stay_where_they_are(tiny_llama_onnx, compiled):
    session = tqc.load(compiled(tiny_llama_onnx, kv="tq4", max_context=1024))
    before = session.state_pointers()
    session.prefill(random_ids(190))
    for token in random_ids(400):
        session.decode([token])
    session.reset()
    session.prefill(random_ids(10))
    assert session.state_pointers() == before
    assert len(before) == LAYERS * 8
    assert len(set(before)) == len(before)


class _Allocated(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def _bytes_in_use() -> int:
    """What malloc has given out: unlike the size of the process, it does not hide a leak in memory freed before."""
    measure = ctypes.CDLL(None).mallinfo2
    measure.restype = _Allocated
    found = measure()
    return found.uordblks + found.hblkhd


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33")
def test_memory_does_not_grow_over_a_thousand_steps(tiny_llama_onnx, compiled):
    session = tqc.load(compiled(tiny_llama_onnx, kv="tq4", max_context=2048))
    session.prefill(random_ids(50))
    seen = []
    for step, token in enumerate(random_ids(1200)):
        session.decode([token])
        if step % 100 == 99:
            gc.collect()
            seen.append(_bytes_in_use())
    # A leak of one row of logits a step would be 100 kB in every hundred; what the process does once is in one of them.
    assert np.median(np.diff(seen)) < 10_000


def test_context_overflow_is_refused_before_anything_is_written(tiny_llama_onnx, compiled):
    artifact = compiled(tiny_llama_onnx, kv="tq4", max_context=1024)
    session, undisturbed = tqc.load(artifact, max_context=200), tqc.load(artifact, max_context=200)
    ids = random_ids(190)
    for either in (session, undisturbed):
        either.prefill(ids)
    for request in (
        lambda: session.prefill(random_ids(11)),
        lambda: session.generate(random_ids(5), 7),
        lambda: tqc.load(artifact, max_context=200).prefill(random_ids(201)),
    ):
        with pytest.raises(SessionError, match="context is too small"):
            request()
    assert session.length == (190,)
    for token in random_ids(10, seed=9):
        np.testing.assert_array_equal(session.decode([token]), undisturbed.decode([token]))
    with pytest.raises(SessionError, match="context is too small"):
        session.decode([1])


def test_reset_gives_the_same_answers_again(tiny_llama_onnx, compiled):
    session = tqc.load(compiled(tiny_llama_onnx, kv="tq4", max_context=1024))
    ids = random_ids(300)

    def answers():
        return np.concatenate([session.prefill(ids[:250]), *(session.decode([token]) for token in ids[250:])])

    first = answers()
    session.prefill(random_ids(400, seed=8))
    session.reset()
    np.testing.assert_array_equal(answers(), first)


def test_more_bits_are_closer_and_recent_tokens_matter(tiny_llama_onnx, compiled):
    ids = random_ids(400)
    reference = tqc.load(compiled(tiny_llama_onnx, kv="fp32", max_context=512))

    def kl(kv, **layout):
        session = tqc.load(compiled(tiny_llama_onnx, kv=kv, max_context=512, **layout))
        return compare(reference, {kv: session}, ids, chunk=1)[kv].kl

    everything = {"sinks": 0, "recent": 0}
    divergences = [kl(f"tq{bits}", **everything) for bits in (8, 4, 2)]
    assert 0 < divergences[0] < 1e-3
    assert all(3 * closer < farther for closer, farther in pairwise(divergences))
    assert kl("tq4", sinks=4, recent=128) < divergences[1]


def test_short_texts_are_exact(tiny_llama_onnx, compiled):
    """Until a page leaves the exact window nothing is quantised, so only the rotation's rounding shows."""
    ids = random_ids(SINKS + RECENT + PAGE - 1)
    exact = tqc.load(compiled(tiny_llama_onnx, kv="fp32", max_context=512))
    coded = tqc.load(compiled(tiny_llama_onnx, kv="tq2", max_context=512))
    result = compare(exact, {"tq2": coded}, ids, chunk=1)["tq2"]
    assert result.max_difference < 1e-3
    assert coded.kv_bytes.coded_tokens == 0


def test_folding_and_centring_change_nothing_but_rounding(tiny_qwen2_onnx, compiled):
    """Both are exact rewrites: with everything in the exact window the logits stay."""
    ids = random_ids(150)
    exact = tqc.load(compiled(tiny_qwen2_onnx, kv="fp32", max_context=512))
    for options in ({"fold": False}, {"centre": False}, {"fold": False, "centre": False}, {}):
        session = tqc.load(compiled(tiny_qwen2_onnx, kv="tq4", max_context=512, **options))
        assert compare(exact, {"it": session}, ids, chunk=10)["it"].max_difference < 1e-3, options
