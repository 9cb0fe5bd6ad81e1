"""What the numbers of a manifest amount to: bytes a token, compression, the context that fits a given memory."""

from __future__ import annotations

import math

from .manifest import Manifest, StateTensor

_ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2, "int32": 4, "uint32": 4, "int64": 8, "int16": 2, "uint16": 2}


def _bytes(spec: StateTensor, batch: int) -> int:
    """Bytes of a tensor, counting one page."""
    sizes = {"batch": batch, "pages": 1}
    return math.prod(sizes.get(dim, dim) for dim in spec.shape) * _ITEMSIZE.get(spec.dtype, 1)


def page_bytes(manifest: Manifest) -> int:
    """Bytes of one page in all layers."""
    return sum(_bytes(spec, 1) for layer in manifest.cache.state for spec in layer if spec.shape[0] == "pages")


def exact_bytes(manifest: Manifest, batch: int = 1) -> int:
    """Bytes of the sinks and the tails of `batch` sequences in all layers; they do not depend on the context."""
    return sum(_bytes(spec, batch) for layer in manifest.cache.state for spec in layer if spec.shape[0] != "pages")


def largest_context(manifest: Manifest, memory: int) -> int:
    """Tokens of one sequence whose cache fits `memory` bytes, whatever limit the artifact was compiled for."""
    pages = (memory - exact_bytes(manifest)) // page_bytes(manifest)
    return 0 if pages < 0 else manifest.cache.sinks + pages * manifest.cache.page


def totals(manifest: Manifest, memory: int) -> dict[str, int | float]:
    """Totals over the layers, in bytes and tokens. `memory` is the memory for the cache of one sequence."""
    coded = sum(layer.bytes_per_token for layer in manifest.layers)
    fp16 = sum(layer.fp16_bytes_per_token for layer in manifest.layers)
    return {
        "bytes_per_token": coded,
        "fp16_bytes_per_token": fp16,
        "compression": fp16 / coded,
        "page_bytes": page_bytes(manifest),
        "exact_bytes": exact_bytes(manifest),
        "max_context": manifest.max_context,
        "memory": memory,
        "context_in_memory": largest_context(manifest, memory),
        "fp16_context_in_memory": memory // fp16,
        "params_bytes": manifest.files["params.safetensors"].size if manifest.files else 0,
        "library_bytes": sum(manifest.files[lib.file].size for lib in manifest.libraries if lib.file in manifest.files),
    }
