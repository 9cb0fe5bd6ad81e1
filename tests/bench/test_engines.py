from __future__ import annotations

import shutil

import pytest

from tqc.bench.engines import artifact_engine, open_engines
from tqc.errors import TqcError


@pytest.fixture(scope="module")
def artifact(tmp_path_factory, fake, sum_library):
    return fake.write_fake(tmp_path_factory.mktemp("engines") / "sum.tqc", sum_library)


def test_an_artifact_opens_at_any_batch(artifact):
    engine = artifact_engine(artifact, "cpu")
    assert (engine.name, engine.vocab, engine.max_context, engine.exact) == ("sum", 32, 64, False)
    session = engine.open(2, 32)
    session.prefill([[1, 2], [3, 4]])
    assert session.decode([5, 6]).shape == (2, 32)


def test_equal_names_get_numbers(artifact, tmp_path):
    copied = shutil.copytree(artifact, tmp_path / "sum.tqc")
    engines = open_engines(artifact, [copied], None, device="cpu", threads=1)
    assert [engine.name for engine in engines] == ["sum", "sum (2)"]


def test_another_vocabulary_is_another_model(artifact, monkeypatch):
    from tqc.bench import engines

    made = iter([32, 33])
    real = engines.artifact_engine
    monkeypatch.setattr(
        engines, "artifact_engine", lambda path, device: engines.replace(real(path, device), vocab=next(made))
    )
    with pytest.raises(TqcError, match="another model"):
        open_engines(artifact, [artifact], None, device="cpu", threads=1)


def test_onnxruntime_is_for_the_cpu(artifact, tmp_path):
    with pytest.raises(TqcError, match="on the CPU"):
        open_engines(artifact, [], tmp_path / "model.onnx", device="cuda", threads=1)


def test_the_onnx_model_as_a_peer(artifact, tiny_llama_onnx):
    _, engine = open_engines(artifact, [], tiny_llama_onnx, device="cpu", threads=1)
    assert engine.name.startswith("onnxruntime")
    assert engine.exact
    session = engine.open(2, 8)
    session.prefill([[1, 2], [3, 4]])
    assert session.decode([5, 6]).shape[0] == 2
    assert session.length == 3


def test_a_damaged_artifact_is_refused(artifact, tmp_path):
    copied = shutil.copytree(artifact, tmp_path / "sum.tqc")
    (copied / "params.safetensors").write_bytes(b"")
    with pytest.raises(TqcError):
        artifact_engine(copied, "cpu")
