"""Bytes of an artifact's cache: a token of each layer, and one whole sequence at several lengths."""

from __future__ import annotations

from collections.abc import Sequence

from tqc.artifact import Manifest
from tqc.artifact.summary import coded_bytes, exact_bytes, page_bytes
from tqc.errors import TqcError
from tqc.eval.results import Bytes, CacheSize, LayerBytes


def default_contexts(limit: int) -> list[int]:
    """Powers of four from 1024 below `limit`, and `limit` itself."""
    return [*(4**power for power in range(5, 20) if 4**power < limit), limit]


def cache_bytes(manifest: Manifest, contexts: Sequence[int]) -> Bytes:
    """What the manifest says of one sequence's cache at each of `contexts` tokens, 1 to the artifact's limit.

    Counts pages in use, as `Session.kv_bytes.used` does. Raises TqcError for a length that the artifact does not hold.
    """
    cache = manifest.cache
    for tokens in contexts:
        if not 1 <= tokens <= manifest.max_context:
            raise TqcError(
                "the artifact holds no sequence of this length",
                expected=f"1 to {manifest.max_context} tokens",
                found=str(tokens),
            )
    coded = sum(layer.bytes_per_token for layer in manifest.layers)
    fp16 = sum(layer.fp16_bytes_per_token for layer in manifest.layers)
    exact = exact_bytes(manifest)
    sizes = [(tokens, exact + coded_bytes(manifest, -(-cache.coded(tokens) // cache.page))) for tokens in contexts]
    return Bytes(
        per_token=coded,
        fp16_per_token=fp16,
        compression=fp16 / coded,
        exact=exact,
        page=page_bytes(manifest),
        page_tokens=cache.page,
        per_layer=tuple(
            LayerBytes(
                layer=number,
                k=layer.bytes_per_token_k,
                v=layer.bytes_per_token_v,
                fp16=layer.fp16_bytes_per_token,
            )
            for number, layer in enumerate(manifest.layers)
        ),
        contexts=tuple(
            CacheSize(tokens=tokens, bytes=size, fp16_bytes=fp16 * tokens, compression=fp16 * tokens / size)
            for tokens, size in sizes
        ),
    )
