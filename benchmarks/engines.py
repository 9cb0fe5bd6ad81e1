"""Opens what the benchmarks compare: an artifact in `tqc`'s runtime, or the ONNX model in onnxruntime."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def limit_threads(threads: int) -> None:
    """Sets the size of TVM's thread pool, which is made when the first library is loaded: call it first."""
    os.environ["TVM_NUM_THREADS"] = str(threads)


def open_engine(path: Path, threads: int) -> Any:
    """A Session of `tqc.load` for an artifact, an OnnxSession for a .onnx file."""
    if path.suffix == ".onnx":
        from tqc.eval.onnx_session import OnnxSession

        return OnnxSession(path, threads=threads)
    import tqc

    return tqc.load(path)


def engine_name(path: Path) -> str:
    """How the tables call it: onnxruntime and the model's folder, or the artifact's name."""
    return f"onnxruntime {path.parent.name}" if path.suffix == ".onnx" else path.name.removesuffix(".tqc")


def token_ids(model: Path, text: str, count: int) -> list[int]:
    """The first `count` token ids of `text`, with the tokenizer.json beside the ONNX file or inside the artifact.

    Raises SystemExit when the text is too short.
    """
    from tokenizers import Tokenizer

    folder = model.parent if model.is_file() else model
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids[:count]
    if len(ids) < count:
        raise SystemExit(f"the text has {len(ids)} tokens only, {count} are needed")
    return ids
