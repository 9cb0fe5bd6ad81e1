"""Manifests and made-up results for tests of the report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from tqc.artifact import (
    Cache,
    Digests,
    FileEntry,
    Layer,
    Library,
    Manifest,
    Param,
    Source,
    StateTensor,
    write_artifact,
)
from tqc.eval.results import Bytes, CacheSize, Cell, Fidelity, Hardware, LayerResult, Model, Results, Text

SHA = "0" * 64
WEIGHTS = 268_000_000
PAGE, HEADS, DIM = 64, 3, 64


def layer(k: str = "tq4", v: str = "tq4", k_bits: int = 4, v_bits: int = 4, **changes: Any) -> Layer:
    fields = {
        "query_heads": 9,
        "kv_heads": HEADS,
        "head_dim": DIM,
        "k": k,
        "v": v,
        "scale": 0.125,
        "softcap": 0.0,
        "window": 0,
        "bytes_per_token_k": HEADS * (DIM * k_bits // 8 + 2),
        "bytes_per_token_v": HEADS * (DIM * v_bits // 8 + 2),
        "key_mean": True,
        "value_rotation": "folded",
    }
    return Layer(**{**fields, **changes})


def state(one: Layer) -> tuple[StateTensor, ...]:
    codes = [
        StateTensor(name=f"{side}_codes", shape=("pages", HEADS, PAGE * (size // HEADS - 2) // 2), dtype="uint16")
        for side, size in (("k", one.bytes_per_token_k), ("v", one.bytes_per_token_v))
    ]
    scales = [StateTensor(name=f"{side}_scale", shape=("pages", HEADS, PAGE), dtype="float16") for side in "kv"]
    return (StateTensor(name="tail_k", shape=("batch", HEADS, 3, DIM, PAGE), dtype="float32"), *codes, *scales)


def manifest(layers: list[Layer] | None = None, **changes: Any) -> Manifest:
    layers = layers or [layer()] * 4
    cache = Cache(
        sinks=4,
        recent=128,
        page=PAGE,
        exact_dtype="float32",
        page_order="[unit, token]",
        state=tuple(state(one) for one in layers),
    )
    fields = {
        "tqc_version": "0.1.0",
        "tvm_version": "0.27.0",
        "tvm_ffi_version": "0.1.14",
        "source": Source(file="model.onnx", sha256=SHA, opset=17, dtype="float32"),
        "command_line": ("tqc", "compile", "model.onnx", "--kv", "tq4"),
        "libraries": (Library(file="model-cpu.so", kind="cpu", arch="x86-64-v3", cpu_level="x86-64-v3"),),
        "layers": tuple(layers),
        "cache": cache,
        "digests": Digests(codebooks={}, rotations={}),
        "vocab_size": 32,
        "max_context": 8192,
        "functions": {},
        "params": ("w",),
        "kernels": (),
        "centring": None,
        "files": {
            "params.safetensors": FileEntry(size=WEIGHTS, sha256=SHA),
            "model-cpu.so": FileEntry(size=1000, sha256=SHA),
        },
    }
    return Manifest(**{**fields, **changes})


def results(compiled: Manifest, **changes: Any) -> Results:
    """Made-up results: no number in them was measured."""
    layers = tuple(
        LayerResult(
            layer=number,
            k=one.k,
            v=one.v,
            head_dim=DIM,
            kv_heads=HEADS,
            bits_k=4.25,
            bits_v=4.25,
            vectors=100,
            key_norm=12.0,
            value_norm=2.0,
            d_k=round(0.0081 + number / 10**4, 4),
            d_v=0.0092,
            theory_k=0.009132,
            theory_v=0.009132,
            logit_sd=0.31,
            logit_law=0.35,
            query_norm=15.0,
            queries="random directions",
        )
        for number, one in enumerate(compiled.layers)
    )
    fields = {
        "tqc_version": "0.1.0",
        "created": "2026-01-02 03:04 UTC",
        "updated": "2026-01-02 04:05 UTC",
        "artifact": Model(name="a", digest=compiled.manifest_sha256 or SHA),
        "reference": Model(name="exact", digest="1" * 64),
        "text": Text(name="a made-up text", sha256="2" * 64, tokens=20_480),
        "hardware": Hardware(system="Linux", cpu="Made-up CPU", cores=2, device="cpu"),
        "layers": layers,
        "fidelity": Fidelity(
            wanted=20_480,
            tokens=20_480,
            window=8192,
            chunk=64,
            mode="chunks",
            perplexity=15.69,
            agreement=0.9805,
            reference_perplexity=15.65,
            perplexity_change=0.0025,
            kl=0.0017,
            kl_max=0.07,
            max_difference=2.0,
        ),
        "retrieval": (
            Cell(task="one key", length=4096, depth=0.5, correct=6, total=8),
            Cell(task="two keys", length=4096, depth=0.5, correct=3, total=8),
        ),
        "bytes": Bytes(
            per_token=816,
            fp16_per_token=3072,
            compression=3.76,
            exact=1000,
            page=64,
            page_tokens=64,
            per_layer=(),
            contexts=(CacheSize(tokens=4096, bytes=1_500_000, fp16_bytes=12_000_000, compression=8.0),),
        ),
    }
    return Results(**{**fields, **changes})


def write(out: Path, compiled: Manifest | None = None) -> Path:
    """A small artifact on disk with the layers and limits of a manifest."""
    compiled = compiled or manifest()

    def library(path: Path) -> None:
        path.write_bytes(Path(sys.executable).resolve().read_bytes()[:64] + b"code")

    numbers = np.ones(4, np.float32)
    return write_artifact(
        out,
        manifest=compiled.model_copy(update={"files": {}}),
        libraries={"model-cpu.so": library},
        params=[Param("w", (4,), "float32", lambda: numbers)],
    )


POINTS: dict[str, Any] = {
    "benchmark": "rate and fidelity",
    "date": "2026-01-02 05:06 UTC",
    "command": "python points.py",
    "machine": {"processor": "Made-up CPU", "cores": 2},
    "model": "made-up model",
    "points": [
        {"name": "tq2", "bits_per_value": 2.25, "kl": 0.2, "agreement": 0.8, "perplexity_change": 0.3},
        {"name": "k3v2", "bits_per_value": 2.75, "kl": 0.0114},
        {"name": "tq4", "bits_per_value": 4.25, "bytes_per_token": 6120, "kl": 0.00174},
        {"name": "q4_0", "kind": "peer", "bits_per_value": 4.5, "kl": 0.0123},
    ],
}
NEEDLES: dict[str, Any] = {
    "benchmark": "a long needle",
    "date": "2026-01-02 06:07 UTC",
    "command": "python needles.py",
    "machine": {"gpu": "Made-up GPU"},
    "model": "made-up needle",
    "panels": [
        {
            "cache": cache,
            "cells": [
                {"length": length, "depth": depth, "found": found, "asked": 8}
                for length, depth, found in ((4096, 0.0, 8), (4096, 1.0, low), (106496, 0.0, low))
            ],
            "costs": [{"length": 106496, "cache_bytes": 43_500_000, "tokens_per_second": 123.4}],
        }
        for cache, low in (("fp16", 8), ("tq2.5", 3))
    ],
}
