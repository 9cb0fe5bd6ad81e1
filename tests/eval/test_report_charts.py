from __future__ import annotations

import json

import pytest
from report_data import POINTS, layer, manifest, results

from tqc.eval.points import Points
from tqc.eval.report_charts import distortion, memory, noise, rate, span
from tqc.eval.report_memory import GB, cache_bytes
from tqc.eval.subjects import Subject


@pytest.fixture(scope="module")
def layers():
    return results(manifest()).layers


def traces(figure):
    return {trace.name: trace for trace in figure.data}


def test_distortion_has_what_was_measured_and_theory(layers):
    found = traces(distortion(layers, (0.008, 0.01)))
    assert list(found["K measured"].y) == [0.0081, 0.0082, 0.0083, 0.0084]
    assert list(found["V measured"].y) == [0.0092] * 4
    assert list(found["K theory"].y) == [0.009132] * 4
    assert list(found["V theory"].x) == [0, 1, 2, 3]


def test_layers_without_theory_have_no_stroke(layers):
    bare = [layers[0].model_copy(update={"theory_k": None, "d_v": None}), *layers[1:]]
    found = traces(distortion(bare, (0.008, 0.01)))
    assert list(found["K theory"].x) == list(found["V measured"].x) == [1, 2, 3]
    assert list(found["K measured"].x) == [0, 1, 2, 3]


def test_noise_and_its_law(layers):
    measured, law = noise(layers, (0.3, 0.4)).data
    assert list(measured.y) == [0.31] * 4
    assert list(law.y) == [0.35] * 4


def test_the_axis_holds_every_value(layers):
    low, high = span([layers, layers], ("d_k", "theory_k"))
    assert (low, high) == (0.0081, 0.009132)
    axis = distortion(layers, (low, high)).layout.yaxis
    assert 10 ** axis.range[0] < low
    assert high < 10 ** axis.range[1]
    assert len(axis.tickvals) >= 2
    assert span([[layers[0].model_copy(update={"d_k": None})]], ("d_k",)) is None


def test_rate_marks_peers_and_the_front():
    points = Points.model_validate_json(json.dumps(POINTS)).points
    found = traces(rate(points))
    assert list(found["Pareto front"].x) == [2.25, 2.75, 4.25]
    assert list(found["TurboQuant"].y) == [0.2, 0.00174]
    peer = found["llama.cpp q4_0, q8_0 (codec only in evaluation)"]
    assert (list(peer.y), peer.marker.symbol) == ([0.0123], "square-open")
    assert list(found["TurboQuant, K and V apart"].text) == ["k3v2"]


def test_memory_has_every_artifact_fp16_and_the_gpus_less_the_weights():
    subjects = [Subject("a", manifest()), Subject("b", manifest([layer("tq2", "tq2", 2, 2)] * 4), dash="dash")]
    figure = memory(subjects)
    found = traces(figure)
    assert set(found) == {"fp16, uncompressed", "a", "b", "longest context compiled for"}
    for subject in subjects:
        line = found[subject.name]
        assert line.line.color == subject.colour
        assert list(line.y) == [cache_bytes(subject.manifest, count) / GB for count in line.x]
    assert [shape.y0 for shape in figure.layout.shapes] == pytest.approx([23.732, 39.732, 79.732, 140.732, 191.732])
    assert next(note.text for note in figure.layout.annotations) == "RTX 4090 24 GB"
    assert list(found["longest context compiled for"].x) == [8192, 8192]


def test_gpus_that_do_not_hold_the_weights_are_left_out():
    compiled = manifest()
    files = compiled.files | {
        "params.safetensors": compiled.files["params.safetensors"].model_copy(update={"size": 100 * GB})
    }
    assert len(memory([Subject("a", manifest(files=files))]).layout.shapes) == 2
