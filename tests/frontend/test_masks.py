"""Masks of handmade decoders: what is accepted, what is refused, and that the refusal says where."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tqc.errors import FrontendError
from tqc.frontend.build import build
from tqc.frontend.canonical import canonicalise
from tqc.frontend.load import load
from tqc.frontend.masks import UnknownMask, classify
from tqc.frontend.operators import BUILDERS
from tqc.frontend.probe import Observed
from tqc.frontend.setting import Setting


def _layer(decoder, tmp_path, **options):
    return canonicalise(build(load(decoder(**options).save(tmp_path))), BUILDERS).layers[0]


@pytest.mark.parametrize(("mask", "window"), [("causal", 0), ("padded", 0), ("select", 0), ("window", 6)])
def test_masks_that_are_understood(decoder, tmp_path, mask, window):
    assert _layer(decoder, tmp_path, mask=mask).window == window


@pytest.mark.parametrize("window", [1, 2, 63, 64, 1000, 5000])
def test_windows_of_every_width(decoder, tmp_path, window):
    assert _layer(decoder, tmp_path, mask="window", window=window).window == window


def _with_table(decoder, table: np.ndarray):
    """The decoder with rows past…total and columns 0…total of a stored mask, as GPT-Neo has it."""
    model = decoder(mask="select")
    past, total = (model.add("Unsqueeze", [name, model.ints(0)], f"{name}_1") for name in ("past_size", "total_size"))
    rows = model.add("Slice", [model.constant("table", table[None, None]), past, total, model.ints(2)], "rows")
    model.add("Slice", [rows, model.ints(0), total, model.ints(3)], "cut")
    masked = next(node for node in model.nodes if node.output[0] == "masked")
    masked.input[0] = "cut"
    at = model.nodes.index(masked)
    model.nodes[at:] = [*model.nodes[-4:], *model.nodes[at:-4]]
    return model


@pytest.mark.parametrize(("length", "window"), [(512, 0), (512, 200), (1024, 900)])
def test_windows_of_stored_masks(decoder, tmp_path, length, window):
    i, j = np.arange(length)[:, None], np.arange(length)[None]
    table = (j <= i) & (j > i - (window or length))
    path = _with_table(decoder, table).save(tmp_path)
    assert canonicalise(build(load(path)), BUILDERS).layers[0].window == window


def test_a_stored_mask_with_a_hole_is_refused(decoder, tmp_path):
    table = np.tril(np.ones((512, 512), bool))
    table[:, 150] = False
    with pytest.raises(FrontendError, match="neither causal nor"):
        canonicalise(build(load(_with_table(decoder, table).save(tmp_path))), BUILDERS)


@pytest.mark.parametrize("mask", ["bidirectional", "strict", "dilated", "biased", "none"])
def test_masks_that_are_refused(decoder, tmp_path, mask):
    with pytest.raises(FrontendError) as caught:
        _layer(decoder, tmp_path, mask=mask)
    assert caught.value.what == "Unknown mask."
    assert caught.value.where == "layer 0, Softmax node_weights"


def test_a_window_too_wide_to_try(decoder, tmp_path):
    with pytest.raises(FrontendError, match="more than can be tried"):
        _layer(decoder, tmp_path, mask="window", window=1 << 20)


def test_constants_that_only_shapes_pass_by_do_not_count(decoder, tmp_path):
    model = decoder()
    factor = model.constant("huge", np.float32(1 << 20))
    scaled = model.add("Mul", ["past_key_values.0.key", factor], "scaled_past")
    next(node for node in model.nodes if node.output[0] == "past_size_shape").input[0] = scaled
    model.nodes.insert(0, model.nodes.pop())
    assert canonicalise(build(load(model.save(tmp_path))), BUILDERS).layers[0].window == 0


def _observed(allowed: np.ndarray, setting: Setting) -> Observed:
    return Observed(setting, {"m": np.where(allowed, np.float32(0), np.float32(-np.inf))}, {})


@pytest.mark.parametrize("seed", range(5))
def test_random_masks_are_refused(seed):
    setting = Setting(1, 9, 20)
    allowed = np.random.default_rng(seed).random((1, 1, 9, 29)) < 0.5
    with pytest.raises(UnknownMask):
        classify(("m",), (_observed(allowed, setting),))


def test_one_wrong_bit_is_refused():
    setting = Setting(1, 9, 20)
    i, j = 20 + np.arange(9)[:, None], np.arange(29)[None]
    causal = (j <= i)[None, None]
    assert classify(("m",), (_observed(causal, setting),)) == 0
    for flat in (0, 25, 29 * 9 - 1):
        wrong = causal.copy()
        wrong.reshape(-1)[flat] ^= True
        with pytest.raises(UnknownMask):
            classify(("m",), (_observed(wrong, setting),))


def test_a_mask_may_be_repeated_over_heads_but_not_differ():
    setting = Setting(1, 3, 4)
    allowed = np.tril(np.ones((1, 2, 3, 7), bool), 4)
    assert classify(("m",), (_observed(allowed, setting),)) == 0
    allowed[0, 1, 0, 0] = False
    with pytest.raises(UnknownMask, match=r"\[1, 2, 3, 7\]"):
        classify(("m",), (_observed(allowed, setting),))


def _before_the_scale(decoder, low: float, scale: float, op: str):
    """Softmax((scores + mask)·scale)."""
    model = decoder(mask="select" if op == "Where" else "causal")
    next(tensor for tensor in model.initializers if tensor.name == "low").CopyFrom(
        onnx.numpy_helper.from_array(np.float32(low), "low")
    )
    model.add("Mul", ["masked", model.constant("late", np.float32(scale))], "late_scores")
    weights = next(node for node in model.nodes if node.output[0] == "weights")
    weights.input[0] = "late_scores"
    model.nodes.insert(model.nodes.index(weights), model.nodes.pop())
    return model


@pytest.mark.parametrize("op", ["Add", "Where"])
@pytest.mark.parametrize(("low", "scale"), [(-1e4, 0.125), (-3e38, 1e-4), (-np.inf, 1e-4)])
def test_masks_before_the_scale(decoder, tmp_path, op, low, scale):
    path = _before_the_scale(decoder, low, scale, op).save(tmp_path)
    assert canonicalise(build(load(path)), BUILDERS).layers[0].window == 0


@pytest.mark.parametrize("op", ["Add", "Where"])
@pytest.mark.parametrize(("low", "scale"), [(-1e4, 1e-3), (-np.inf, -1.0)])
def test_masks_that_a_scale_weakens_are_refused(decoder, tmp_path, op, low, scale):
    with pytest.raises(FrontendError):
        canonicalise(build(load(_before_the_scale(decoder, low, scale, op).save(tmp_path))), BUILDERS)


def test_a_window_that_the_graph_computes_is_tried(decoder, tmp_path):
    model = decoder(mask="window", window=300)
    first = next(node for node in model.nodes if node.output[0] == "first")
    first.input[1] = model.add("Mul", [model.int(20), model.int(15)], "width")
    model.nodes.insert(0, model.nodes.pop())
    assert canonicalise(build(load(model.save(tmp_path))), BUILDERS).layers[0].window == 300
