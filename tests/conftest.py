"""Tiny exported and compiled models that tests of the whole repository share; each is made once a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest

# How long an example takes says something about the machine, not about the code.
hypothesis.settings.register_profile("tqc", deadline=None)
hypothesis.settings.load_profile("tqc")

ExportTiny = Callable[..., Path]
Compile = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> ExportTiny:
    """`tiny_onnx(arch="llama", dtype="fp32", …)` → model.onnx of `export_tiny`, made once a run; only read it.

    Copy the folder (`shutil.copytree(path.parent, …)`) to damage or extend it.
    """
    pytest.importorskip("torch", reason="tiny models are exported with the extra `export`")
    from tqc.models.tiny import export_tiny

    made: dict[tuple, Path] = {}

    def export(**options: object) -> Path:
        key = tuple(sorted(options.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("tiny-" + "-".join(str(value) for _, value in key))
            try:
                made[key] = export_tiny(folder, **options)
            except BaseException:
                shutil.rmtree(folder)
                raise
        return made[key]

    return export


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """`compiled(model.onnx, kv="tq4", …)` → the artifact's path, with the options of `CompileOptions`; only read it.

    Each set of options is compiled once a run: options that another test has cost nothing.
    """
    from tqc.compiler import CompileOptions, compile_model

    made: dict[tuple, Path] = {}

    def compile_once(model: Path, **options: object) -> Path:
        key = (model, *sorted(options.items()))
        if key not in made:
            output = tmp_path_factory.mktemp("artifact") / f"{options.get('kv', 'tq4')}.tqc".replace("/", "-")
            made[key] = compile_model(CompileOptions(model=model, output=output, **options))
        return made[key]

    return compile_once


@pytest.fixture(scope="session")
def smollm2_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct in fp32 with its tokenizer: a minute, and 93 MB to download once. For `slow` tests."""
    pytest.importorskip("torch", reason="SmolLM2 is exported with the extra `export`")
    from tqc.models.export import export_model

    return export_model("smollm2", tmp_path_factory.mktemp("real") / "smollm2")


@pytest.fixture(scope="session")
def tiny_llama_onnx(tiny_onnx: ExportTiny) -> Path:
    """fp32, 2 layers, 4 query and 2 KV heads of head_dim 64."""
    return tiny_onnx(arch="llama")


@pytest.fixture(scope="session")
def tiny_llama_tied_onnx(tiny_onnx: ExportTiny) -> Path:
    """fp32 with tied embeddings, 3 query heads and 1 KV head, as SmolLM2 has them."""
    return tiny_onnx(arch="llama", heads=3, kv_heads=1, tied=True)


@pytest.fixture(scope="session")
def tiny_llama_fp16_onnx(tiny_onnx: ExportTiny) -> Path:
    """fp16 weights, activations and cache."""
    return tiny_onnx(arch="llama", dtype="fp16")


@pytest.fixture(scope="session")
def tiny_mistral_onnx(tiny_onnx: ExportTiny) -> Path:
    """fp32, sliding window of 16 tokens."""
    return tiny_onnx(arch="mistral", window=16)


@pytest.fixture(scope="session")
def tiny_qwen2_onnx(tiny_onnx: ExportTiny) -> Path:
    """fp32, biases on q, k and v."""
    return tiny_onnx(arch="qwen2")


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """The module `tests/runtime/fake_model.py`: a compiled model small enough to check by hand."""
    import fake_model

    return fake_model


@pytest.fixture(scope="session")
def sum_library(tmp_path_factory: pytest.TempPathFactory, fake: ModuleType) -> Path:
    """The library of the sum model, compiled once a run."""
    path = tmp_path_factory.mktemp("library") / "sum.so"
    fake.export(path)
    return path
