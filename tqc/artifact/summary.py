"""What the numbers of a manifest amount to: bytes a token, compression, the context that fits a given memory."""

from __future__ import annotations

import math
from bisect import bisect_right

from .manifest import Manifest, StateTensor

_ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2, "int32": 4, "uint32": 4, "int64": 8, "int16": 2, "uint16": 2}


def _bytes(spec: StateTensor, batch: int, pages: int = 1) -> int:
    """Bytes of a tensor for `batch` sequences of at most `pages` pages."""
    return math.prod(spec.bind(batch, pages)) * _ITEMSIZE.get(spec.dtype, 1)


def _paged(manifest: Manifest) -> list[StateTensor]:
    """The tensors of all layers that hold coded pages."""
    return [spec for layer in manifest.cache.state for spec in layer if spec.paged]


def page_bytes(manifest: Manifest) -> int:
    """Bytes of one page in all layers."""
    return sum(_bytes(spec, 1) for spec in _paged(manifest))


def coded_bytes(manifest: Manifest, pages: int) -> int:
    """Bytes that `pages` pages of one sequence take: sliding windows keep only their newest."""
    return sum(_bytes(spec, 1, pages) for spec in _paged(manifest))


def exact_bytes(manifest: Manifest, batch: int = 1) -> int:
    """Bytes of the sinks and the tails of `batch` sequences in all layers; they do not depend on the context."""
    return sum(_bytes(spec, batch) for layer in manifest.cache.state for spec in layer if not spec.paged)


def largest_context(manifest: Manifest, memory: int) -> int:
    """Tokens of one sequence whose cache fits `memory` bytes, whatever limit the artifact was compiled for.

    If every layer has a sliding window and the memory holds them all, nothing limits the sequence but what it was
    compiled for.
    """
    left = memory - exact_bytes(manifest)
    if left < 0:
        return 0
    longest_ring = max((spec.ring or 0 for spec in _paged(manifest)), default=0)
    growth = coded_bytes(manifest, longest_ring + 1) - coded_bytes(manifest, longest_ring)
    if not growth and coded_bytes(manifest, longest_ring) <= left:
        return manifest.max_context
    most = left // growth if growth else longest_ring
    pages = bisect_right(range(1, most + 1), left, key=lambda count: coded_bytes(manifest, count))
    return manifest.cache.sinks + pages * manifest.cache.page


def totals(manifest: Manifest, memory: int) -> dict[str, int | float]:
    """Totals over the layers, in bytes and tokens. `memory` is the memory for the cache of one sequence. Without a
    cache only the bytes of weights and libraries."""
    files = {
        "params_bytes": manifest.files["params.safetensors"].size if manifest.files else 0,
        "library_bytes": sum(manifest.files[lib.file].size for lib in manifest.libraries if lib.file in manifest.files),
    }
    if manifest.forward:
        return files
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
        **files,
    }
