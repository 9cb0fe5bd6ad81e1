"""Programs of torch.export as loaded models."""

from __future__ import annotations

import numpy as np
import pytest

from tqc.errors import FrontendError
from tqc.frontend import import_model
from tqc.frontend.from_torch import is_program, load_program

torch = pytest.importorskip("torch", reason="programs are exported with the extra `export`")
programs = pytest.importorskip("programs")


@pytest.fixture(scope="module")
def model():
    return programs.tiny("llama")


@pytest.fixture(scope="module")
def loaded(model):
    return load_program(programs.nested_program(model))


def test_weights_lie_in_torchs_memory(model, loaded):
    for name, parameter in model.named_parameters():
        array = loaded.initializers[f"model.{name}"].source.read()
        if array.size > 1024:
            assert array.ctypes.data == parameter.data_ptr()
    assert not loaded.proto.graph.initializer
    assert sum(np.prod(t.shape) for t in loaded.initializers.values()) < 1.01 * sum(
        p.numel() for p in model.parameters()
    )


def test_the_digest_is_that_of_graph_and_weights(model, loaded):
    again = load_program(programs.nested_program(model))
    assert again.sha256() == loaded.sha256()
    other = programs.tiny("llama")
    with torch.no_grad():
        other.lm_head.weight[0, 0] += 1
    assert load_program(programs.nested_program(other)).sha256() != loaded.sha256()


@pytest.mark.parametrize("form", ["flat_program", "hugging_face_program"])
def test_the_form_of_the_cache_does_not_matter(model, form):
    imported = import_model(getattr(programs, form)(model))
    assert [(layer.query_heads, layer.kv_heads, layer.head_dim) for layer in imported.layers] == [(4, 2, 64)] * 2
    assert [layer.past_key for layer in imported.interface.layers] == [
        "past_key_values.0.key",
        "past_key_values.1.key",
    ]


@pytest.mark.parametrize("fixed", ["batch", "seq", "past"])
def test_rejects_a_fixed_size(model, fixed):
    with pytest.raises(FrontendError, match="must be dynamic") as error:
        load_program(programs.nested_program(model, fixed=fixed))
    assert "dynamic_shapes" in error.value.hint


def test_rejects_weights_of_an_unsupported_type(model):
    with pytest.raises(FrontendError, match="unsupported element type"):
        load_program(programs.nested_program(programs.tiny("llama").to(torch.float8_e4m3fn)))


def test_says_which_packages_are_missing(model, monkeypatch):
    monkeypatch.setattr("tqc.frontend.from_torch.find_spec", lambda name: None)
    with pytest.raises(FrontendError, match="not installed") as error:
        load_program(object())
    assert "[export]" in error.value.hint


def test_is_program(model):
    assert not is_program(model)
    assert not is_program("model.onnx")
    assert is_program(torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)))
