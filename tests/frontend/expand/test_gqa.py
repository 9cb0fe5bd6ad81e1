"""GroupQueryAttention taken apart equals onnxruntime's own kernel, output and extended cache."""

from __future__ import annotations

import numpy as np
import pytest

from tqc.errors import FrontendError
from tqc.frontend.claims import Claim

RNG = np.random.default_rng(0)
HEADS, KV_HEADS, DIM = 4, 2, 32
OPERANDS = (
    "query key value past_key past_value seqlens_k total cos_cache sin_cache position_ids attention_bias head_sink "
    "k_scale v_scale q_norm_weight k_norm_weight query_seqlens"
).split()
GQA = "com.microsoft::GroupQueryAttention"


def draw(*shape, dtype="float32"):
    return RNG.standard_normal(shape, np.float32).astype(dtype)


def tables(rotary=DIM, dtype="float32"):
    angle = np.arange(64, dtype=np.float32)[:, None] * (100.0 ** (-np.arange(rotary // 2) * 2 / rotary)).astype(
        "float32"
    )
    return {"cos_cache": np.cos(angle).astype(dtype), "sin_cache": np.sin(angle).astype(dtype)}


def gqa(bench, constants=None, extra=None, *, packed=False, batch=1, seq=3, past=5, dtype="float32", **attrs):
    widths = {"query": HEADS * DIM, "key": KV_HEADS * DIM, "value": KV_HEADS * DIM}
    if packed:
        widths = {"query": sum(widths.values())}
    feeds = {name: draw(batch, seq, width, dtype=dtype) for name, width in widths.items()}
    feeds |= {name: draw(batch, KV_HEADS, past, DIM, dtype=dtype) for name in ("past_key", "past_value")}
    feeds |= {"seqlens_k": np.full(batch, past + seq - 1, np.int32), "total": np.array(past + seq, np.int32)}
    feeds |= extra or {}
    constants = constants or {}
    given = feeds | constants
    names = [name if name in given else "" for name in OPERANDS]
    while not names[-1]:
        names.pop()
    shape = ("batch", KV_HEADS, "past", "kv_cache_dim")
    dynamic = {"past_key": shape, "past_value": shape}
    attrs = {"num_heads": HEADS, "kv_num_heads": KV_HEADS} | attrs
    outputs = ["y", "present_key", "present_value"]
    made = bench(feeds, constants, GQA, names, outputs, start=past, dynamic=dynamic, **attrs)
    made.feeds["input_ids"] = np.ones((batch, seq), np.int64)
    return made


ROTARY = {"do_rotary": 1}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("sizes", [{"past": 0, "seq": 7}, {"seq": 3}, {"batch": 2, "seq": 1, "past": 9}], ids=str)
@pytest.mark.parametrize("rotary", [False, True])
def test_attention(bench, packed, sizes, rotary):
    made = gqa(bench, tables() if rotary else {}, packed=packed, **sizes, **(ROTARY if rotary else {}))
    made.check()
    assert [claim.claim for claim in made.graph.claims] == [Claim.LAST, Claim.TOTAL]
    assert made.graph.inputs["past_key"].shape == ("batch", KV_HEADS, "past", DIM)


@pytest.mark.parametrize(
    "attrs",
    [
        {"scale": 0.7},
        {"softcap": 1.5},
        {"local_window_size": 4},
        {"local_window_size": 1},
        {"smooth_softmax": 1},
        {"softcap": 2.0, "local_window_size": 3, "smooth_softmax": 1, "scale": 0.4},
    ],
    ids=str,
)
@pytest.mark.parametrize("seq", [1, 4])
def test_options(bench, attrs, seq):
    gqa(bench, tables(), packed=True, seq=seq, past=7, **attrs, **ROTARY).check()


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("rotary", [DIM, DIM // 2])
def test_rotation(bench, interleaved, rotary):
    if rotary < DIM:
        made = gqa(bench, tables(rotary), packed=True, rotary_interleaved=interleaved, **ROTARY)
    else:
        made = gqa(bench, tables(), rotary_interleaved=interleaved, **ROTARY)
    made.check()


def test_half_precision(bench):
    gqa(bench, tables(dtype="float16"), packed=True, dtype="float16", **ROTARY).check(1e-2)


def test_positions_may_be_an_operand(bench):
    extra = {"position_ids": np.arange(5, 8)[None]}
    made = gqa(bench, tables(), extra, **ROTARY)
    made.check()
    assert Claim.POSITIONS in [claim.claim for claim in made.graph.claims]


def test_sink_logits(bench):
    gqa(bench, {"head_sink": draw(HEADS)}, packed=True).check()


@pytest.mark.parametrize("softcap", [0.0, 3.0])
def test_added_bias(bench, softcap):
    bias = np.where(RNG.random((1, 1, 3, 8)) < 0.3, -1e4, 0).astype(np.float32)
    bias[..., 0] = 0
    gqa(bench, {}, {"attention_bias": bias}, softcap=softcap).check()


@pytest.mark.parametrize(
    "attrs",
    [{"qk_norm_epsilon": 0.1}, {"q_norm_epsilon": 0.1, "k_norm_epsilon": 0.2, "qk_norm_epsilon": 0.3}, {}],
    ids=str,
)
def test_norms_of_queries_and_keys(bench, attrs):
    """onnxruntime's CPU kernel has none: compared with the operation without norms, on normalised operands."""
    weights = {"q_norm_weight": 1 + draw(DIM) / 4, "k_norm_weight": 1 + draw(DIM) / 4}
    made = gqa(bench, tables() | weights, **attrs, **ROTARY)
    made.expand()
    plain = gqa(bench, tables(), **ROTARY)
    plain.feeds = dict(made.feeds)
    for side, name, count in (("q", "query", HEADS), ("k", "key", KV_HEADS)):
        epsilon = attrs.get(f"{side}_norm_epsilon", attrs.get("qk_norm_epsilon", 1e-6))
        x = made.feeds[name].reshape(1, 3, count, DIM)
        normal = x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * weights[f"{side}_norm_weight"]
        plain.feeds[name] = normal.reshape(1, 3, -1).astype(np.float32)
    for found, expected in zip(made.run(), plain.original(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_a_windowed_cache_is_a_window_over_a_whole_one(bench):
    """The cache of the operation holds the last W tokens; with them alone its result is the same."""
    window = 4
    whole = gqa(bench, tables(), seq=1, past=9, local_window_size=window, sliding_window_cache=1, **ROTARY)
    whole.expand()
    windowed = gqa(bench, tables(), seq=1, past=9, local_window_size=window, sliding_window_cache=1, **ROTARY)
    windowed.feeds = dict(whole.feeds)
    for name in ("past_key", "past_value"):
        windowed.feeds[name] = whole.feeds[name][:, :, -window:]
    np.testing.assert_allclose(whole.run("y")[0], windowed.original()[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("attrs", "operands", "message"),
    [
        ({"k_quant_type": "PER_TENSOR"}, {}, "quantized cache"),
        ({}, {"k_scale": np.ones(1, np.float32)}, "quantized cache"),
        ({}, {"query_seqlens": np.ones(1, np.int32)}, "Right-padded"),
        ({"causal": 0}, {}, "not causal"),
        ({"qk_output": 1}, {}, "scores"),
        ({}, {"q_norm_weight": np.ones(DIM, np.float32)}, "Norms"),
        ({"local_window_size": 0}, {}, "window"),
        ({"sliding_window_cache": 1}, {}, "windowed cache"),
        ({"do_rotary": 1}, {}, "tables"),
        ({"num_heads": 3}, {}, "size of the heads"),
        ({"kv_num_heads": 1}, {}, "another shape"),
    ],
    ids=str,
)
def test_refused(bench, attrs, operands, message):
    made = gqa(bench, operands, **attrs)
    with pytest.raises(FrontendError, match=message) as error:
        made.expand()
    assert "composite" in str(error.value)


@pytest.mark.parametrize("name", ["past_key", "seqlens_k", "key"])
def test_missing_operands_are_refused(bench, name):
    made = gqa(bench)
    made.node.inputs[OPERANDS.index(name)] = ""
    with pytest.raises(FrontendError, match="composite"):
        made.expand()
