"""Every family and every form once: what the frontend makes of a file computes what onnxruntime computes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="models are exported with the extra `export`")

from tqc.errors import FrontendError
from tqc.frontend import import_model
from tqc.models.families import FAMILIES
from tqc.models.forms import FORMS, Zoo

CELLS = [
    ("llama", "torchscript17"),
    ("llama", "genai-int4f16"),
    ("llama2", "genai-fp16"),
    ("llama31", "torchscript18"),
    ("smollm2", "q4"),
    ("smollm2", "q4f16"),
    ("mistral", "torchscript14"),
    ("mistral", "dynamo23"),
    ("gemma1", "genai-fp32"),
    ("gemma2", "dynamo23-eager"),
    ("gemma3", "dynamo24"),
    ("qwen2", "torchscript17-fp16"),
    ("qwen2", "fused"),
    ("qwen2.5", "q8z"),
    ("qwen3", "genai-int4f16-norms"),
    ("qwen3", "fp16"),
    ("qwen2", "genai-int4"),
    ("phi3", "dynamo18"),
    ("phi3", "q8"),
    ("phi3-longrope", "dynamo21"),
    ("gpt2", "dynamo18-eager"),
    ("opt", "torchscript18"),
    ("opt", "q4z"),
    ("gptoss", "torchscript14"),
]
BROKEN = "genai-mha"
"""The builder's mask for this operator fails in onnxruntime itself where several tokens follow a cache."""


def _exporters():
    script = Path(__file__).parents[2] / "benchmarks" / "exporters.py"
    spec = importlib.util.spec_from_file_location("exporters", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


exporters = _exporters()


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("zoo"))


def test_every_family_and_every_form_has_a_cell():
    assert {family for family, _ in CELLS} == set(FAMILIES)
    assert {form for _, form in CELLS} | {BROKEN} == set(FORMS)


@pytest.mark.parametrize(("family", "form"), [pytest.param(*cell, id="-".join(cell)) for cell in CELLS])
def test_a_cell_computes_what_onnxruntime_computes(zoo, family, form):
    if form.startswith("genai"):
        pytest.importorskip("onnxruntime_genai", reason="the model builder comes with the extra `dev`")
    cell = exporters.check(zoo, family, form)
    assert exporters.passed(cell), cell
    assert cell["layers"] == 2


def test_a_file_that_onnxruntime_cannot_run_is_refused(zoo):
    pytest.importorskip("onnxruntime_genai", reason="the model builder comes with the extra `dev`")
    with pytest.raises(FrontendError, match="invalid expand shape"):
        import_model(zoo.path("llama", BROKEN))


def test_the_whole_path_with_a_compressed_cache(zoo):
    cell = exporters.check(zoo, "mistral", "torchscript14", full=True)
    assert exporters.passed(cell), cell
    assert cell["cosine"] < 1
