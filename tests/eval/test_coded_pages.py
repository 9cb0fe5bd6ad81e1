from __future__ import annotations

import numpy as np
import pytest

import tqc
from tqc.codec.banded import Banded
from tqc.codec.form import form
from tqc.codec.page_codec import encode_page
from tqc.codec.polar import Polar
from tqc.codec.turboquant import TurboQuant
from tqc.errors import CodecError
from tqc.eval.coded_pages import coded_pages, vectors_of_page

IDS = [int(token) for token in np.random.default_rng(0).integers(0, 256, 420)]
EXACT = [{}, {"recent": 40, "page": 16}, {"recent": 40, "page": 128}]


def collected(session, ids=IDS):
    pairs = list(coded_pages(session, ids))
    sides = {(pair.layer, pair.side) for pair in pairs}
    return {
        side: tuple(
            np.concatenate([getattr(pair, name) for pair in pairs if (pair.layer, pair.side) == side], axis=1)
            for name in ("exact", "coded")
        )
        for side in sides
    }


def test_codes_are_those_the_codec_makes_of_the_exact_vectors(tiny_llama_onnx, compiled):
    session = tqc.load(compiled(tiny_llama_onnx, kv="k4v3", max_context=512))
    found = collected(session)
    assert set(found) == {(layer, side) for layer in range(2) for side in "kv"}
    for (_, side), (exact, coded) in found.items():
        assert exact.shape == coded.shape == (2, 256, 64)
        assert differing(exact, coded, 4 if side == "k" else 3) < 1e-3


def test_without_a_window_all_but_each_page_s_last_token_are_compared(tiny_llama_onnx, compiled):
    session = tqc.load(compiled(tiny_llama_onnx, kv="tq4", max_context=512, sinks=0, recent=0))
    for exact, coded in collected(session).values():
        assert exact.shape == coded.shape == (2, 6 * 63, 64)
        assert differing(exact, coded, 4) < 1e-3


def differing(exact, coded, bits) -> float:
    """Share of coordinates that are not what the codec makes of them; one on a threshold may fall to either side."""
    codec = TurboQuant(bits, 64)
    wanted = codec.dequantize_rotated(*codec.quantize_rotated(exact))
    return float((np.abs(wanted - coded) > 1e-3 * np.abs(wanted) + 1e-6).mean())


@pytest.mark.parametrize("layout", EXACT)
def test_exact_pages_hold_the_exact_vectors(tiny_llama_onnx, compiled, layout):
    session = tqc.load(compiled(tiny_llama_onnx, kv="fp32", max_context=512, **layout))
    cache = session.manifest.cache
    for exact, coded in collected(session).values():
        assert exact.shape[1] == cache.coded(cache.sinks + (len(IDS) - cache.sinks) // cache.page * cache.page)
        np.testing.assert_array_equal(exact, coded)
        assert np.unique(exact).size > 1000


def test_a_sliding_window_keeps_its_pages_in_a_ring(tiny_mistral_onnx, compiled):
    session = tqc.load(compiled(tiny_mistral_onnx, kv="tq4", max_context=4096, recent=0), max_context=512)
    assert any(spec.ring for spec in session.manifest.cache.state[0])
    for exact, coded in collected(session).values():
        assert np.square(exact - coded).sum() / np.square(exact).sum() < 0.02


def test_a_short_text_has_no_coded_page(tiny_llama_onnx, compiled):
    session = tqc.load(compiled(tiny_llama_onnx, kv="k4v3", max_context=512))
    assert list(coded_pages(session, IDS[:195])) == []
    assert len(list(coded_pages(session, IDS[:196]))) == 4


def test_progress_ends_with_all_pages(tiny_llama_onnx, compiled):
    seen = []
    session = tqc.load(compiled(tiny_llama_onnx, kv="k4v3", max_context=512))
    list(coded_pages(session, IDS[:200], lambda done, total: seen.append((done, total))))
    assert seen == [(4, 196), (68, 196), (132, 196), (196, 196)]


@pytest.mark.parametrize("side", ["k", "v"])
@pytest.mark.parametrize("scheme", ["tq3", "tq2.5", "tqp3", "polar", "fp16", "16@5+48@2"])
def test_a_page_stands_for_what_its_codec_decodes(scheme, side):
    vectors = np.random.default_rng(0).standard_normal((3, 32, 64)).astype(np.float32)
    units, scale = encode_page(form(scheme, 64), side, vectors)
    if scheme == "fp16":
        wanted = vectors.astype(np.float16)
    elif scheme == "polar":
        wanted = Polar(scheme, 64).dequantize(*Polar(scheme, 64).quantize(vectors))
    else:
        codec = Banded(scheme, 64)
        wanted = codec.reconstruct(codec.dequantize(*codec.quantize(vectors)))
    found = vectors_of_page(scheme, side, 64, 32, units, scale)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_bfloat16_pages_are_read():
    bits = np.full((1, 64 * 16), 0x3FC0, np.uint16)  # 1.5
    assert (vectors_of_page("bf16", "v", 64, 16, bits, None) == 1.5).all()


def test_what_is_no_page_is_refused():
    with pytest.raises(CodecError, match="no page"):
        vectors_of_page("tq4", "k", 64, 32, np.zeros((1, 64), np.uint16), None)
