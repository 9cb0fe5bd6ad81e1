"""How long a sequence an artifact allows."""

import json
from pathlib import Path

import pytest

from tqc.compiler import CompileOptions
from tqc.compiler.manifest import DEFAULT_CONTEXT, check_context, limit_context, model_settings
from tqc.errors import FrontendError, PassError


def options(folder: Path, **changes):
    return CompileOptions(folder / "model.onnx", folder / "out.tqc", **changes)


def context(chosen: CompileOptions) -> int:
    return check_context(chosen, model_settings(chosen.model))


@pytest.mark.parametrize("key", ["max_position_embeddings", "n_positions", "n_ctx"])
def test_the_models_own_limit_is_the_default(tmp_path, key):
    (tmp_path / "config.json").write_text(json.dumps({key: 1024}))
    assert context(options(tmp_path)) == 1024
    assert context(options(tmp_path, max_context=512)) == 512


def test_without_a_config_there_is_a_default(tmp_path):
    assert context(options(tmp_path)) == DEFAULT_CONTEXT
    assert context(options(tmp_path, max_context=100_000)) == 100_000


def test_reject_more_than_the_model_has_positions(tmp_path):
    (tmp_path / "config.json").write_text('{"n_positions": 1024}')
    with pytest.raises(PassError, match="at most 1024"):
        context(options(tmp_path, max_context=2048))


@pytest.mark.parametrize(("longest", "expected"), [(None, 8192), (4096, 4096), (16384, 8192)])
def test_a_model_that_changes_with_the_length_has_its_own_limit(tmp_path, longest, expected):
    assert limit_context(options(tmp_path), 8192, longest) == expected


def test_reject_more_than_one_rotation_serves(tmp_path):
    assert limit_context(options(tmp_path, max_context=4096), 4096, 4096) == 4096
    with pytest.raises(PassError, match="at most 4096"):
        limit_context(options(tmp_path, max_context=4097), 4097, 4096)


@pytest.mark.parametrize("text", [b"{", b"[1, 2]", b"7", b"\xff"])
def test_reject_a_damaged_config(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(FrontendError, match=r"config\.json"):
        context(options(tmp_path))
