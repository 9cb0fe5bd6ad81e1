"""Every scheme end to end: an artifact answers as the float model does whose old tokens passed through the codec."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from references import random_ids
from safetensors.numpy import load_file

import tqc
from tqc import codec
from tqc.artifact import read_manifest
from tqc.codec.form import form
from tqc.codec.scheme import parse
from tqc.eval.recoded_session import RecodedSession
from tqc.passes.centre_keys import mean_name

OPTIONS = {"sinks": 2, "recent": 32, "page": 32, "max_context": 512}
CHUNK, TOKENS = 16, 144
SCHEMES = (
    *("k:tqp3,v:tq2.5", "k:tq3.5,v:tqp2", "k:polar,v:polar-plain"),
    "k:16@5/48@2-s8,v:tqp3-s8",
    *("k:qjl2o,v:bf16", "k:qjl3,v:16@5/48@3", "k:16@5+16@3+32@2,v:32@4/32@0"),
)
"""Every kind of form on each side where it can be; each pair is compiled once."""


EXACT = {"kv": "fp32", "sinks": 0, "recent": 0, "max_context": OPTIONS["max_context"]}


def recoded(exact: Path, artifact: Path) -> RecodedSession:
    """The model with an exact cache that passes through the artifact's schemes, means and bases, in NumPy."""
    params, manifest = load_file(artifact / "params.safetensors"), read_manifest(artifact)

    def recode(layer: int, side: str, x: np.ndarray) -> np.ndarray:
        name, out = getattr(manifest.layers[layer], side), np.empty_like(x)
        mean = params.get(mean_name(layer)) if side == "k" else None
        matrices = params.get(f"layer{layer}.{'key' if side == 'k' else 'value'}_basis")
        for head, vectors in enumerate(x):
            made = codec.get(name, x.shape[-1], matrix=None if matrices is None else matrices[head].T)
            shift = 0 if mean is None else mean[head]
            out[head] = made.decode(made.encode(vectors - shift)) + shift
        return out

    return RecodedSession(tqc.load(exact), recode, **{key: OPTIONS[key] for key in ("sinks", "recent", "page")})


def logits(session, ids: list[int]) -> np.ndarray:
    parts = [session.prefill(ids[i : i + CHUNK], all_logits=True) for i in range(0, len(ids), CHUNK)]
    return np.concatenate([np.asarray(part[0] if isinstance(part, list) else part) for part in parts])


@pytest.mark.parametrize("kv", SCHEMES)
def test_the_answers_are_those_of_the_codec(tiny_llama_onnx, compiled, kv: str) -> None:
    # Folding rounds weights anew, and leaves no matrix of the values to look up.
    path = compiled(tiny_llama_onnx, kv=kv, fold=False, **OPTIONS)
    ids = random_ids(TOKENS)
    session, plain = tqc.load(path), compiled(tiny_llama_onnx, **EXACT)
    wanted, found = logits(recoded(plain, path), ids), logits(session, ids)
    exact = logits(tqc.load(plain), ids)
    coding = np.abs(wanted - exact).max()
    # A number on the edge between two codes may fall to the other side: far less than what coding does.
    assert np.abs(found - wanted).max() < 0.1 * coding + 1e-4
    assert np.abs(found - wanted).mean() < 0.02 * np.abs(wanted - exact).mean() + 1e-5
    coded = session.kv_bytes.coded_tokens
    vector = sum(form(name, 64).bytes_per_vector for name in parse(kv))
    assert session.kv_bytes.pages == coded * 2 * 2 * vector


def test_decode_reads_what_prefill_reads(tiny_llama_onnx, compiled) -> None:
    ids = random_ids(TOKENS)
    for kv in SCHEMES:
        path = compiled(tiny_llama_onnx, kv=kv, fold=False, **OPTIONS)
        first, second = tqc.load(path), tqc.load(path)
        first.prefill(ids[:-1])
        second.prefill(ids[:-1])
        np.testing.assert_allclose(first.decode(ids[-1:])[0], second.prefill(ids[-1:])[0], atol=2e-4, err_msg=kv)


def test_folding_changes_nothing_but_the_last_digits(tiny_llama_onnx, compiled) -> None:
    ids = random_ids(TOKENS)
    for kv in ("k:tq3.5,v:tqp2", "k:16@5+16@3+32@2,v:32@4/32@0"):
        plain, folded = (compiled(tiny_llama_onnx, kv=kv, fold=fold, **OPTIONS) for fold in (False, True))
        assert {layer.value_rotation for layer in read_manifest(folded).layers} == {"folded"}
        assert {layer.value_rotation for layer in read_manifest(plain).layers} == {"runtime"}
        difference = np.abs(logits(tqc.load(plain), ids) - logits(tqc.load(folded), ids))
        assert difference.mean() < 1e-3
