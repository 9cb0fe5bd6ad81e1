"""The whole path on tiny models: ONNX → artifact → session, each compiled once a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Compile = Callable[..., Path]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """`compiled(model.onnx, kv="tq4", …)` → the artifact's path, with the options of `CompileOptions`; only read it."""
    from tqc.compiler import CompileOptions, compile_model

    made: dict[tuple, Path] = {}

    def compile_once(model: Path, **options: object) -> Path:
        key = (model, *sorted(options.items()))
        if key not in made:
            output = tmp_path_factory.mktemp("artifact") / f"{options.get('kv', 'tq4')}.tqc"
            made[key] = compile_model(CompileOptions(model=model, output=output, **options))
        return made[key]

    return compile_once
