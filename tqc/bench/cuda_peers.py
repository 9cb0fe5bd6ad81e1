"""Full-precision attention elsewhere, on CUDA: torch's scaled_dot_product_attention and FlashInfer, in float16."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np

from .problem import PERIOD, Problem
from .timing import Candidate, Maker

TOLERANCE = 1e-2
TORCH = {
    "torch flash": ("FLASH_ATTENTION", False),
    "torch flash, group as rows": ("FLASH_ATTENTION", True),
    "torch cudnn": ("CUDNN_ATTENTION", False),
}
"""Name → (backend, whether the query heads of a KV head are its rows, or enable_gqa tells torch of them)."""
PAGE = 16
"""Tokens of FlashInfer's pages, as serving engines have them."""
WORKSPACE_BYTES = 256 << 20


def missing(device: str = "cuda") -> dict[str, str]:
    """Peers that cannot be timed here, and why."""
    if importlib.util.find_spec("torch") is None:
        return {"torch": "not installed", "flashinfer": "needs torch"}
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        return {"torch": f"torch {torch.__version__} does not see the GPU", "flashinfer": "needs torch with CUDA"}
    return {} if importlib.util.find_spec("flashinfer") else {"flashinfer": "not installed"}


def makers(problem: Problem, device: str = "cuda") -> Iterator[Maker]:
    """Those that are installed."""
    without = missing(device)
    if "torch" not in without:
        vectors = Vectors(problem, device)
        for number, (name, (backend, rows)) in enumerate(TORCH.items()):
            memory = 2 * problem.values if number == 0 else 0  # they share keys and values
            yield Maker(name, "peer", memory, lambda b=backend, r=rows: _torch(vectors, b, r), exact=True)
    if "flashinfer" not in without:
        memory = 2 * problem.values + WORKSPACE_BYTES
        yield Maker("flashinfer", "peer", memory, lambda: _flashinfer(Vectors(problem, device)), exact=True)


class Vectors:
    """A problem's vectors as float16 tensors of torch, made when they are first asked for."""

    def __init__(self, problem: Problem, device: str) -> None:
        self.problem, self.device = problem, device

    @cached_property
    def q(self) -> Any:
        """[batch, heads, dim]"""
        return self._tensor(self.problem.q)

    @cached_property
    def k(self) -> Any:
        """[batch, kv_heads, context, dim]"""
        return self._batched(self._one("k", self.problem.context))

    @cached_property
    def v(self) -> Any:
        return self._batched(self._one("v", self.problem.context))

    def pages(self, side: str) -> Any:
        """[batch · pages, kv_heads, PAGE, dim], sequence after sequence, in new memory."""
        count = self.page_count
        one = self._one(side, count * PAGE)
        paged = one.reshape(one.shape[0], count, PAGE, -1).transpose(0, 1)
        return self._batched(paged).flatten(0, 1)

    @property
    def page_count(self) -> int:
        """Of one sequence."""
        return -(-self.problem.context // PAGE)

    def _one(self, side: str, tokens: int) -> Any:
        """[kv_heads, tokens, dim] of one sequence."""
        import torch

        period = self._tensor(getattr(self.problem, side))
        return period[:, torch.arange(tokens, device=self.device) % PERIOD]

    def _batched(self, one: Any) -> Any:
        return one.expand(self.problem.batch, *one.shape).contiguous()

    def _tensor(self, array: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(array).to(self.device, torch.float16)


def _candidate(problem: Problem, run: Callable[[], Any]) -> Candidate:
    """`run` returns the output, of any shape with the numbers in the order of [batch, heads, dim]."""
    result: list[Any] = [None]

    def call() -> None:
        result[0] = run()

    def output() -> np.ndarray:
        return result[0].float().cpu().numpy().reshape(problem.q.shape)

    return Candidate([call], 2 * problem.values, output, problem.exact, TOLERANCE)


def _torch(vectors: Vectors, backend: str, rows: bool) -> Candidate:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    p, k, v = vectors.problem, vectors.k, vectors.v
    shape = (p.batch, p.geometry.kv_heads, -1, p.geometry.dim) if rows else (p.batch, p.geometry.heads, 1, -1)
    q, chosen = vectors.q.reshape(shape), getattr(SDPBackend, backend)

    def run() -> Any:
        with sdpa_kernel(chosen), torch.inference_mode():
            return scaled_dot_product_attention(q, k, v, scale=p.scale, enable_gqa=not rows)

    return _candidate(p, run)


def _flashinfer(vectors: Vectors) -> Candidate:
    import torch

    flashinfer = importlib.import_module("flashinfer")
    p, g, count = vectors.problem, vectors.problem.geometry, vectors.page_count
    workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=vectors.device)
    # Its kernels on tensor cores are the quicker ones where several query heads share a KV head.
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "HND", use_tensor_cores=g.heads > g.kv_heads)
    integers = {"dtype": torch.int32, "device": vectors.device}
    starts = torch.arange(p.batch + 1, **integers) * count
    last = torch.full((p.batch,), p.context - (count - 1) * PAGE, **integers)
    wrapper.plan(
        starts,
        torch.arange(p.batch * count, **integers),
        last,
        g.heads,
        g.kv_heads,
        g.dim,
        PAGE,
        q_data_type=torch.float16,
        kv_data_type=torch.float16,
        sm_scale=p.scale,
    )
    pages = vectors.pages("k"), vectors.pages("v")
    return _candidate(p, lambda: wrapper.run(vectors.q, pages))
