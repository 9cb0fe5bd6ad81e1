"""Manifests and made-up results for tests of the report."""

from __future__ import annotations

from typing import Any

from tqc.artifact import Cache, Digests, FileEntry, Layer, Library, Manifest, Source, StateTensor

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
