"""Memory against context, from a manifest alone: what the cache takes at each length and what fits which GPU."""

from __future__ import annotations

from dataclasses import dataclass

from tqc.artifact import Manifest
from tqc.artifact.summary import coded_bytes, exact_bytes, largest_context, totals

GPUS = (("RTX 4090", 24), ("A100", 40), ("A100, H100", 80), ("H200", 141), ("B200", 192))
"""Names and memory in GB of 10⁹ bytes: what is sold as such is never less."""
GB = 10**9
CONTEXTS = (4096, 32768, 131072)
SHORTEST, LONGEST = 1024, 1 << 24


@dataclass(frozen=True)
class Fit:
    """The longest sequence that fits a GPU beside the weights: tokens, with this cache and with one of fp16."""

    gpu: str
    gigabytes: int
    left: int
    tokens: int
    fp16_tokens: int

    @property
    def gpu_name(self) -> str:
        return f"{self.gpu} {self.gigabytes} GB"


def cache_bytes(manifest: Manifest, tokens: int) -> int:
    """Bytes of the cache of one sequence of `tokens` tokens: sinks, exact window and whole pages of codes."""
    return exact_bytes(manifest) + coded_bytes(manifest, manifest.cache.pages(tokens))


def fp16_bytes(manifest: Manifest, tokens: int) -> int:
    """Bytes of all keys and values of as many tokens in fp16."""
    return tokens * sum(layer.fp16_bytes_per_token for layer in manifest.layers)


def weights(manifest: Manifest) -> int:
    """Bytes of the weights as they lie in the artifact."""
    return int(totals(manifest, 0)["params_bytes"])


def fits(manifest: Manifest) -> list[Fit]:
    """What fits each GPU; 0 tokens where the weights alone are too large."""
    found = []
    for name, gigabytes in GPUS:
        left = max(0, gigabytes * GB - weights(manifest))
        fp16 = left // fp16_bytes(manifest, 1)
        found.append(Fit(name, gigabytes, left, largest_context(manifest, left) if left else 0, fp16))
    return found


def lengths(manifests: list[Manifest]) -> list[int]:
    """Context lengths to draw, two to an octave: from 1,024 to where the smallest cache fills the largest GPU."""
    longest = max(max(manifest.max_context, *(fit.tokens for fit in fits(manifest))) for manifest in manifests)
    longest = min(max(longest, 1 << 17), LONGEST)
    steps = range(2 * (longest.bit_length() - SHORTEST.bit_length()) + 3)
    return sorted({min(longest, round(SHORTEST * 2 ** (step / 2))) for step in steps})
