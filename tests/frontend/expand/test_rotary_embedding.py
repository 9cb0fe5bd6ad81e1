"""RotaryEmbedding of both domains equals onnxruntime's own kernels."""

from __future__ import annotations

import numpy as np
import pytest

from tqc.errors import FrontendError
from tqc.frontend.claims import Claim

RNG = np.random.default_rng(0)
HEADS, DIM, START, SEQ = 3, 16, 5, 4


def draw(*shape, dtype="float32"):
    return RNG.standard_normal(shape, np.float32).astype(dtype)


def tables(rotary=DIM, rows=64, dtype="float32", scaling=1.0):
    angle = np.arange(rows, dtype=np.float32)[:, None] * (100.0 ** (-np.arange(rotary // 2) * 2 / rotary)).astype(
        "float32"
    )
    return {"cos": (scaling * np.cos(angle)).astype(dtype), "sin": (scaling * np.sin(angle)).astype(dtype)}


def positions(batch=2):
    return np.arange(START, START + SEQ).repeat(batch).reshape(SEQ, batch).T.copy()


MICROSOFT = "com.microsoft::RotaryEmbedding"


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("scaling", [1.0, 1.25])
def test_microsoft_whole_heads(bench, interleaved, dtype, scaling):
    feeds = {"x": draw(2, HEADS, SEQ, DIM, dtype=dtype), "p": positions()}
    made = bench(
        feeds,
        tables(dtype=dtype, scaling=scaling),
        MICROSOFT,
        ["x", "p", "cos", "sin"],
        start=START,
        interleaved=interleaved,
    )
    made.check(1e-5 if dtype == "float32" else 1e-2)
    assert [node.kind for node in made.expansion.nodes] == ["tqc::Rope"]
    assert [claim.claim for claim in made.graph.claims] == [Claim.POSITIONS]


def flat(bench, rotary=DIM, **attrs):
    """A graph whose x [B, S, heads·dim] comes from a product with a weight, as a projection's result does."""
    feeds = {"h": draw(2, SEQ, 8), "p": positions()}
    made = bench(
        feeds, tables(rotary) | {"w": draw(8, HEADS * DIM)}, MICROSOFT, ["x", "p", "cos", "sin"], start=START, **attrs
    )
    made.feeds["x"] = feeds["h"] @ made.constants["w"]
    made.expansion.add("MatMul", ["h", "w"], output="x")
    return made


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize(("rotary", "attrs"), [(DIM, {}), (8, {"rotary_embedding_dim": 8, "num_heads": HEADS})])
def test_microsoft_flat_layout(bench, rotary, attrs, interleaved):
    made = flat(bench, rotary, interleaved=interleaved, **attrs)
    made.expand()
    expected = made.original()
    del made.feeds["x"]
    np.testing.assert_allclose(made.run()[0], expected[0], rtol=0, atol=1e-5)


def test_one_position_stands_for_the_first(bench):
    feeds = {"x": draw(2, HEADS, SEQ, DIM), "p": np.array([START])}
    made = bench(feeds, tables(), MICROSOFT, ["x", "p", "cos", "sin"], start=START)
    made.check()
    assert [claim.claim for claim in made.graph.claims] == [Claim.START]


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("rotary", [DIM, 8])
def test_onnx_with_tables(bench, rotary, interleaved):
    feeds = {"x": draw(2, HEADS, SEQ, DIM), "p": positions()}
    partial = {} if rotary == DIM else {"rotary_embedding_dim": rotary}
    names, dynamic = ["x", "cos", "sin", "p"], {"x": ("batch", HEADS, "seq", DIM)}
    made = bench(
        feeds,
        tables(rotary),
        "RotaryEmbedding",
        names,
        opset=23,
        start=START,
        interleaved=interleaved,
        dynamic=dynamic,
        **partial,
    )
    made.check()


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("rotary", [DIM, 8])
@pytest.mark.parametrize("gathered", [False, True])
def test_onnx_with_computed_angles(bench, rotary, interleaved, gathered):
    cos, sin = tables(rotary).values()
    if not gathered:
        cos, sin = cos[positions()], sin[positions()]
    feeds = {"x": draw(2, HEADS, SEQ, DIM), "cos": cos, "sin": sin} | ({"p": positions()} if gathered else {})
    partial = {} if rotary == DIM else {"rotary_embedding_dim": rotary}
    bench(feeds, {}, "RotaryEmbedding", feeds, opset=23, interleaved=interleaved, **partial).check()


@pytest.mark.parametrize(
    ("attrs", "change", "message"),
    [
        ({"is_packed_batching": 1}, {}, "Packed"),
        ({"scale": 0.5}, {}, "scale 0.5"),
        ({}, {"sin": tables()["sin"] * np.linspace(1, 2, DIM // 2, dtype=np.float32)}, "no rotation"),
    ],
    ids=["packed", "scale", "tables"],
)
def test_refused(bench, attrs, change, message):
    feeds = {"x": draw(2, HEADS, SEQ, DIM), "p": positions()}
    made = bench(feeds, tables() | change, MICROSOFT, ["x", "p", "cos", "sin"], **attrs)
    with pytest.raises(FrontendError, match=message) as error:
        made.expand()
    assert "composite" in str(error.value)


def test_a_fixed_sequence_is_refused(bench):
    cos, sin = (table[None, :SEQ] for table in tables().values())
    made = bench(
        {"x": draw(1, HEADS, SEQ, DIM)}, {"cos": cos, "sin": sin}, "RotaryEmbedding", ["x", "cos", "sin"], opset=23
    )
    with pytest.raises(FrontendError, match="fixed sequence"):
        made.expand()


def test_an_unknown_layout_is_refused(bench):
    made = flat(bench)
    made.graph.producer.clear()
    with pytest.raises(FrontendError, match="unknown shape"):
        made.expand()
