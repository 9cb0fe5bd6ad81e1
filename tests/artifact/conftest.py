"""A small artifact made of bytes: its library has a real ELF header and nothing behind it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tqc.artifact import Cache, Digests, Layer, Library, Manifest, Param, Source, StateTensor, write_artifact

SHA = "0" * 64
LIBRARY = "model-cpu-x86-64-v2.so"


def make_manifest(**changes) -> Manifest:
    layer = Layer(
        query_heads=4,
        kv_heads=2,
        head_dim=64,
        k="tq4",
        v="tq4",
        scale=0.125,
        softcap=0.0,
        window=0,
        bytes_per_token_k=68,
        bytes_per_token_v=68,
        key_mean=True,
        value_rotation="folded",
    )
    state = (
        StateTensor(name="tail_k", shape=("batch", 2, 3, 64, 64), dtype="float32"),
        StateTensor(name="k_codes", shape=("pages", 2, 1024), dtype="uint16"),
    )
    fields = {
        "tqc_version": "0.1.0",
        "tvm_version": "0.27.0",
        "tvm_ffi_version": "0.1.14",
        "source": Source(file="model.onnx", sha256=SHA, opset=17, dtype="float32"),
        "command_line": ("tqc", "compile", "model.onnx"),
        "libraries": (Library(file=LIBRARY, kind="cpu", arch="x86-64-v2", cpu_level="x86-64-v2"),),
        "layers": (layer,),
        "cache": Cache(sinks=4, recent=128, page=64, exact_dtype="float32", page_order="[unit, token]", state=(state,)),
        "digests": Digests(codebooks={"tq4-64": SHA}, rotations={"64": SHA}),
        "vocab_size": 32,
        "max_context": 1024,
        "functions": {"decode": "ids -> logits"},
        "params": ("w", "bias", "half"),
        "kernels": (),
        "centring": None,
    }
    return Manifest(**{**fields, **changes})


def make_params() -> list[Param]:
    w = np.arange(64, dtype=np.float32).reshape(4, 16)
    bias, half = np.arange(3, dtype=np.float32), np.ones((2, 32), np.float16)
    return [
        Param("w", w.shape, "float32", lambda: w),
        Param("bias", bias.shape, "float32", lambda: bias),
        Param("half", half.shape, "float16", lambda: half),
    ]


def write_library(path: Path) -> None:
    path.write_bytes(Path(sys.executable).resolve().read_bytes()[:64] + b"code" * 1000)


def make_artifact(out: Path, **changes) -> Path:
    arguments = {"manifest": make_manifest(), "libraries": {LIBRARY: write_library}, "params": make_params()}
    return write_artifact(out, **{**arguments, **changes})


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return make_artifact(tmp_path / "model.tqc")


@pytest.fixture
def make():
    """`make(out, **arguments)` writes the small artifact; `make.manifest(**changes)` its manifest."""
    make_artifact.manifest, make_artifact.params = make_manifest, make_params
    make_artifact.library, make_artifact.write_library = LIBRARY, write_library
    return make_artifact
