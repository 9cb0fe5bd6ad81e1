"""The peers of a GPU with their tensors on the CPU: how vectors lie, what FlashInfer is told, who is chosen."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from tqc.bench import cuda_peers
from tqc.bench.cuda_peers import PAGE, WORKSPACE_BYTES, Vectors, makers, missing
from tqc.bench.problem import Geometry, Problem, error

torch = pytest.importorskip("torch")
PROBLEM = Problem(Geometry(4, 2, 16), 3, 50)


def find_only(monkeypatch, *names):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in names else None)


def test_who_is_missing_and_why(monkeypatch):
    find_only(monkeypatch)
    assert missing() == {"torch": "not installed", "flashinfer": "needs torch"}
    assert list(makers(PROBLEM)) == []
    find_only(monkeypatch, "torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "does not see the GPU" in missing()["torch"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert missing() == {"flashinfer": "not installed"}
    find_only(monkeypatch, "torch", "flashinfer")
    assert missing() == {}


def test_memory_is_counted_once_for_what_is_shared(monkeypatch):
    find_only(monkeypatch, "torch", "flashinfer")
    found = {maker.name: maker.memory for maker in makers(PROBLEM, "cpu")}
    assert list(found) == [*cuda_peers.TORCH, "flashinfer"]
    assert [found[name] for name in cuda_peers.TORCH] == [2 * PROBLEM.values, 0, 0]
    assert found["flashinfer"] == 2 * PROBLEM.values + WORKSPACE_BYTES
    assert all(maker.exact and maker.kind == "peer" for maker in makers(PROBLEM, "cpu"))


def test_torch_gives_the_exact_result(monkeypatch):
    find_only(monkeypatch, "torch")
    monkeypatch.setattr(cuda_peers, "TORCH", {"plain": ("MATH", False), "group as rows": ("MATH", True)})
    for maker in makers(PROBLEM, "cpu"):
        candidate = maker.make()
        candidate.calls[0]()
        assert candidate.bytes == 2 * PROBLEM.values
        assert error(candidate.output(), candidate.wanted) < candidate.tolerance


def test_pages_hold_the_tokens_in_order():
    vectors = Vectors(PROBLEM, "cpu")
    assert vectors.page_count == 4
    pages = vectors.pages("k").float().numpy()
    assert pages.shape == (3 * 4, 2, PAGE, 16)
    tokens = pages[4:8].swapaxes(0, 1).reshape(2, 4 * PAGE, 16)[:, :50]
    np.testing.assert_array_equal(tokens, PROBLEM.all_of("k"))


class Wrapper:
    """FlashInfer's interface over NumPy: reads the pages that `plan` named."""

    def __init__(self, workspace, layout, use_tensor_cores):
        assert workspace.numel() == WORKSPACE_BYTES
        assert (layout, use_tensor_cores) == ("HND", True)

    def plan(self, starts, pages, last, heads, kv_heads, dim, page, *, q_data_type, kv_data_type, sm_scale):
        assert (heads, kv_heads, dim, page) == (4, 2, 16, PAGE)
        assert q_data_type == kv_data_type == torch.float16
        self.starts, self.pages, self.last, self.scale = starts.tolist(), pages.tolist(), last.tolist(), sm_scale

    def run(self, q, caches):
        out = torch.empty_like(q)
        for number, (start, stop) in enumerate(zip(self.starts, self.starts[1:], strict=False)):
            own = [torch.cat([cache[page] for page in self.pages[start:stop]], dim=1).float() for cache in caches]
            length = (stop - start - 1) * PAGE + self.last[number]
            k, v = (x[:, :length].repeat_interleave(2, dim=0) for x in own)
            weights = (torch.einsum("hd,htd->ht", q[number].float(), k) * self.scale).softmax(-1)
            out[number] = torch.einsum("ht,htd->hd", weights, v).half()
        return out


@pytest.mark.parametrize("context", [50, 64])
def test_flashinfer_is_planned_for_the_same_problem(context, monkeypatch):
    find_only(monkeypatch, "torch", "flashinfer")
    monkeypatch.setattr(cuda_peers, "TORCH", {})
    fake = SimpleNamespace(BatchDecodeWithPagedKVCacheWrapper=Wrapper)
    monkeypatch.setitem(sys.modules, "flashinfer", fake)
    (maker,) = makers(Problem(Geometry(4, 2, 16), 3, context), "cpu")
    candidate = maker.make()
    candidate.calls[0]()
    assert error(candidate.output(), candidate.wanted) < candidate.tolerance
