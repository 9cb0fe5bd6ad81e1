"""Imported models compute what onnxruntime computes from the same file."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import onnx
import pytest
import tvm_ffi
from tvm import relax

from tqc.errors import FrontendError
from tqc.frontend import import_model

FLOAT32 = ["llama", "llama-tied", "mistral", "mistral-14", "qwen2"]
FLOAT16 = ["llama-fp16", "qwen2-fp16"]

HEAD_DIMS = {"llama-tied": 128, "mistral": 80, "qwen2": 96}


def _tokens(batch: int, seq: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (batch, seq))


def _positions(batch: int, seq: int, past: int) -> np.ndarray:
    return np.tile(np.arange(past, past + seq), (batch, 1))


def _worst(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        assert np.isfinite(ours).all()
    errors = [np.abs(a.astype(np.float64) - b).max() for a, b in zip(found, expected, strict=True)]
    return max(errors)


SIZES = pytest.mark.parametrize(
    ("batch", "seq", "past"),
    [(1, 7, 0), (2, 5, 9), (2, 1, 20), (1, 30, 10), (1, 1, 39)],
    ids=["prefill", "chunk", "decode", "long-chunk", "decode-past-window"],
)


@pytest.mark.parametrize("name", FLOAT32)
@SIZES
def test_equals_onnxruntime(pair, name, batch, seq, past):
    model = pair(name)
    arguments = _tokens(batch, seq), _positions(batch, seq, past), model.cache(batch, past)
    assert _worst(model.run(*arguments), model.onnx(*arguments)) <= 1e-4


@pytest.mark.parametrize("name", FLOAT16)
@SIZES
def test_float16_is_near_the_same_weights_in_float32(pair, exported, name, batch, seq, past):
    """Rounding each activation costs less than 0.015 here; sums of products in float16 would cost up to 0.08."""
    model = pair(name)
    arguments = _tokens(batch, seq), _positions(batch, seq, past), model.cache(batch, past)
    ours, theirs = model.run(*arguments), model.onnx(*arguments)
    truth = model.onnx_at(exported(name.replace("fp16", "rounded")), *arguments)
    assert _worst(ours, theirs) <= 0.015
    assert max(np.abs(mine - true).max() for mine, true in zip(ours, truth, strict=True)) <= 0.015


def test_chunks_and_steps_equal_one_prefill(pair):
    model = pair("mistral")
    tokens = _tokens(2, 24)
    whole = model.run(tokens, _positions(2, 24, 0), model.cache(2, 0))
    cache, done, logits = model.cache(2, 0), 0, []
    for size in (7, 12, 1, 1, 3):
        part, *cache = model.run(tokens[:, done : done + size], _positions(2, size, done), cache)
        logits.append(part)
        done += size
    assert _worst([np.concatenate(logits, axis=1), *cache], whole) <= 1e-4


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_left_padding_equals_the_sequences_alone(pair, name):
    """The ONNX graph runs a padded batch with its mask; ours runs each sequence by itself."""
    model = pair(name)
    lengths, seq = (20, 13), 20
    tokens = _tokens(2, seq)
    mask = np.array([[int(column >= seq - length) for column in range(seq)] for length in lengths])
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    padded = model.onnx(tokens, positions, model.cache(2, 0), mask)[0]
    for row, length in enumerate(lengths):
        alone = model.run(tokens[row : row + 1, -length:], _positions(1, length, 0), model.cache(1, 0))[0]
        assert np.abs(alone[0] - padded[row, -length:]).max() <= 1e-4


def test_positions_are_those_given(pair):
    """Shifting all positions changes nothing but the keys: RoPE is relative."""
    model = pair("llama")
    tokens, cache = _tokens(1, 6), model.cache(1, 0)
    near, far = model.run(tokens, _positions(1, 6, 0), cache), model.run(tokens, _positions(1, 6, 500), cache)
    assert np.abs(near[0] - far[0]).max() <= 1e-3
    assert np.abs(near[1] - far[1]).max() > 0.1
    assert _worst(far, model.onnx(tokens, _positions(1, 6, 500), cache)) <= 1e-3


@pytest.mark.parametrize("name", FLOAT32 + FLOAT16)
def test_facts_of_the_model(pair, name):
    imported = pair(name).imported
    dim = HEAD_DIMS.get(name, 64)
    assert [layer.layer for layer in imported.layers] == [0, 1]
    for layer in imported.layers:
        assert (layer.query_heads, layer.kv_heads, layer.head_dim) == (4, 2, dim)
        assert layer.scale == pytest.approx(dim**-0.5, rel=1e-3 if name in FLOAT16 else 1e-6)
        assert layer.window == (16 if name.startswith("mistral") else 0)
        assert layer.softcap == 0
        assert f"layers.{layer.layer}/self_attn/Softmax" in layer.node
    assert imported.vocab_size == 272
    assert imported.dtype == ("float16" if name in FLOAT16 else "float32")
    assert imported.opset == {"mistral-14": 14, "qwen2-fp16": 18}.get(name, 17)
    assert re.fullmatch("[0-9a-f]{64}", imported.sha256)


@pytest.mark.parametrize("name", FLOAT32 + FLOAT16)
def test_function_has_symbolic_sizes_and_weights_in_order(pair, name):
    imported = pair(name).imported
    main = imported.mod["main"]
    assert int(main.attrs["num_input"]) == 6
    assert [var.name for var in main.params][:4] == ["input_ids", "positions", "past_key_0", "past_value_0"]
    assert [var.name for var in main.params][6:] == list(imported.weights)
    batch, seq = main.params[0].ty.shape
    past = main.params[2].ty.shape[2]
    assert {str(batch), str(seq), str(past)} == {"batch", "seq", "past"}
    for var, weight in zip(main.params[6:], imported.weights.values(), strict=True):
        assert tuple(map(int, var.ty.shape)) == weight.shape
        assert weight.numpy().shape == weight.shape


@pytest.mark.parametrize("name", FLOAT32 + FLOAT16)
def test_layers_are_few_fused_operations(pair, name):
    calls = []

    def visit(expr):
        if isinstance(expr, relax.Call):
            calls.append(expr.op.name)

    relax.analysis.post_order_visit(pair(name).imported.mod["main"], visit)
    counts = Counter(calls)
    assert [counts[f"tqc.{op}"] for op in ("attention", "rope", "rms_norm")] == [2, 4, 5]
    others = {"take", "matmul", "reshape", "permute_dims", "add", "multiply", "sigmoid", "astype"}
    assert {op for op in counts if not op.startswith("tqc.")} <= {f"relax.{op}" for op in others}
    assert ("relax.astype" in counts) == (name in FLOAT16)


def test_same_file_gives_the_same_module_and_digest(exported, pair):
    again = import_model(exported("llama"))
    first = pair("llama").imported
    assert tvm_ffi.structural_equal(first.mod, again.mod)
    assert first.sha256 == again.sha256


def test_external_data_gives_the_same_numbers(pair, exported, tmp_path):
    model = onnx.load(exported("llama"))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=64)
    imported = import_model(path)
    inline = pair("llama").imported
    assert tvm_ffi.structural_equal(imported.mod, inline.mod)
    assert imported.sha256 != inline.sha256
    for ours, theirs in zip(imported.weights.values(), inline.weights.values(), strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_digest_covers_the_external_data(exported, tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(onnx.load(exported("llama")), path, save_as_external_data=True, location="weights.bin", size_threshold=64)
    before = import_model(path).sha256
    with (tmp_path / "weights.bin").open("r+b") as file:
        file.seek(1000)
        file.write(b"\x01")
    assert import_model(path).sha256 != before


def test_reject_a_model_that_drops_all_but_the_last_logits(decoder, tmp_path):
    """In a ragged batch the last row of the chunk is padding for the shorter sequences."""
    model = decoder()
    model.nodes[-1].output[0] = "every_row"
    model.add("Slice", ["every_row", model.ints(-1), model.ints(1 << 62), model.ints(1)], "logits")
    with pytest.raises(FrontendError, match=r"Tokens are mixed(.|\n)*Slice over an axis of \[batch, seq"):
        import_model(model.save(tmp_path))


def test_surprises_end_in_frontend_errors(exported, monkeypatch):
    def fail(*_):
        raise KeyError("surprise")

    monkeypatch.setattr("tqc.frontend.imported.canonicalise", fail)
    with pytest.raises(FrontendError, match="KeyError: 'surprise'") as caught:
        import_model(exported("llama"))
    assert isinstance(caught.value.__cause__, KeyError)


def test_damaged_files_end_in_frontend_errors(exported, tmp_path):
    """Bytes changed anywhere in the structure give an error of ours or a model, never another exception."""
    data = bytearray(exported("llama").read_bytes())
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(12):
        damaged = bytearray(data)
        for at in random.integers(0, 60_000, 3):
            damaged[at] ^= 1 << int(random.integers(8))
        path = tmp_path / "damaged.onnx"
        path.write_bytes(damaged)
        try:
            import_model(path)
        except FrontendError:
            refused += 1
    assert refused > 0
