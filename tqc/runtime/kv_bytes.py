"""How much memory the cache takes, counted in the buffers themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tvm_ffi

from ..artifact.manifest import Manifest


@dataclass(frozen=True)
class KvBytes:
    """Bytes of a session's cache, all layers and sequences together.

    `pages` counts the pages that hold codes, `pages_allocated` all there are, `sinks` and `tail` the exact buffers,
    which are always there. Layers with a sliding window keep only the newest pages, so they count no others. `fp16` is
    what the same tokens would take in an uncompressed fp16 cache of every token, as the source model has it;
    `page_fp16` what the tokens of one page would take in all layers, beside `page`, the bytes it does take.
    """

    tokens: int
    coded_tokens: int
    sinks: int
    tail: int
    pages: int
    pages_allocated: int
    page: int
    page_fp16: int
    fp16: int

    @property
    def used(self) -> int:
        """Bytes that hold tokens: sinks, tail and the pages in use."""
        return self.sinks + self.tail + self.pages

    @property
    def page_compression(self) -> float:
        """How many times smaller a page is than in fp16; what the cache tends to as it grows."""
        return self.page_fp16 / self.page

    @property
    def compression(self) -> float:
        """How many times smaller the whole cache is than in fp16, exact buffers included."""
        return self.fp16 / self.used


def nbytes(tensor: tvm_ffi.Tensor) -> int:
    """Bytes of a tensor."""
    return tensor.numel() * tensor.dtype.itemsize


def measure(manifest: Manifest, state: Sequence[Sequence[tvm_ffi.Tensor]], lengths: Sequence[int]) -> KvBytes:
    """Counts `state[layer]` (in the manifest's order) for sequences of `lengths` tokens."""
    region = {"sinks": 0, "tail": 0, "paged": 0}
    coded = [manifest.cache.coded(length) for length in lengths]
    used = [-(-tokens // manifest.cache.page) for tokens in coded]
    page = pages = 0
    for specs, tensors in zip(manifest.cache.state, state, strict=True):
        for spec, tensor in zip(specs, tensors, strict=True):
            name = "paged" if spec.paged else "sinks" if spec.name.startswith("sink") else "tail"
            region[name] += nbytes(tensor)
            if spec.paged:
                slots = tensor.shape[1] if spec.ring else None
                one = nbytes(tensor) // (tensor.shape[0] * (slots or 1))
                page += one
                pages += one * sum(min(count, slots or count) for count in used)
    fp16 = sum(layer.fp16_bytes_per_token for layer in manifest.layers)
    return KvBytes(
        tokens=sum(lengths),
        coded_tokens=sum(coded),
        sinks=region["sinks"],
        tail=region["tail"],
        pages=pages,
        pages_allocated=region["paged"],
        page=page,
        page_fp16=fp16 * manifest.cache.page,
        fp16=fp16 * sum(lengths),
    )
