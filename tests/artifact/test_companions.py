from __future__ import annotations

import pytest

from tqc.artifact.companions import companions


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "onnx").mkdir()
    for name in ("tokenizer.json", "config.json", "model.onnx", "README.md"):
        (tmp_path / name).write_text("{}")
    return tmp_path


def test_only_known_files_beside_the_model(repository):
    assert companions(repository / "model.onnx") == {
        name: repository / name for name in ("tokenizer.json", "config.json")
    }


def test_a_folder_for_onnx_files_has_them_above(repository):
    assert set(companions(repository / "onnx" / "model_q4.onnx")) == {"tokenizer.json", "config.json"}


def test_a_folder_with_files_of_its_own_has_only_those(repository):
    (repository / "onnx" / "genai_config.json").write_text("{}")
    assert set(companions(repository / "onnx" / "model.onnx")) == {"genai_config.json"}


def test_other_folders_have_nothing_above(repository):
    (repository / "other").mkdir()
    assert companions(repository / "other" / "model.onnx") == {}
