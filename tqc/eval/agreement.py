"""Whether an imported model computes what onnxruntime computes, in every way a decoder is called.

Both sides keep their own caches, so that what one call writes is what the next one reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import tvm
from tvm import relax

from tqc.errors import SessionError
from tqc.frontend import Imported

CHUNKS = (13, 13, 13, 30, 1, 1, 1)
"""Tokens of consecutive calls: three that make 39, one beyond every window and long-rope start, then decode."""
PADDING = 6
"""Padded tokens in front of the second row."""

Cache = list[np.ndarray]


class OnnxModel:
    """A decoder file in onnxruntime, called with any batch and cache; the session may lack position_ids."""

    def __init__(self, path: Path, imported: Imported) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._inputs = {entry.name: entry for entry in self._session.get_inputs()}
        self._past = [name for layer in imported.layers for name in layer.past]
        self._present = [name for layer in imported.layers for name in layer.present]
        self._logits = next(o.name for o in self._session.get_outputs() if o.name not in self._present)
        self._sizes = [(layer.kv_heads, layer.head_dim) for layer in imported.layers for _ in range(2)]

    @property
    def has_positions(self) -> bool:
        return "position_ids" in self._inputs

    def empty(self, batch: int) -> Cache:
        """Keys and values of no token, [batch, kv_heads, 0, head_dim] each."""
        types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        pairs = zip(self._past, self._sizes, strict=True)
        return [np.zeros((batch, h, 0, d), types[self._inputs[name].type]) for name, (h, d) in pairs]

    def run(self, ids: np.ndarray, cache: Cache, mask: np.ndarray | None = None) -> tuple[np.ndarray, Cache]:
        """float32 logits [batch, seq, vocab] and the extended cache; `mask` [batch, past + seq] is 0 for padding."""
        total = ids.shape[1] + cache[0].shape[2]
        mask = np.ones((len(ids), total), np.int64) if mask is None else mask
        positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -ids.shape[1] :]
        feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        types = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
        feeds = {
            name: value.astype(types[self._inputs[name].type]) for name, value in feeds.items() if name in self._inputs
        }
        feeds |= dict(zip(self._past, cache, strict=True))
        logits, *present = self._session.run([self._logits, *self._present], feeds)
        # Some exporters forget to cast the cache back; what it is read as says what it should be.
        present = [new.astype(old.dtype, copy=False) for new, old in zip(present, cache, strict=True)]
        return logits.astype(np.float32), present


class CompiledModel:
    """An imported model built for this CPU from its plain operators, exact cache."""

    def __init__(self, imported: Imported) -> None:
        executable = relax.build(imported.mod, tvm.target.Target("llvm"))
        self._main = relax.VirtualMachine(executable, tvm.cpu())["main"]
        self._weights = [tvm.runtime.tensor(weight.numpy()) for weight in imported.weights.values()]
        self._imported = imported

    def empty(self, batch: int) -> Cache:
        """As `OnnxModel.empty`."""
        layers = [layer for layer in self._imported.layers for _ in range(2)]
        return [np.zeros((batch, layer.kv_heads, 0, layer.head_dim), self._imported.dtype) for layer in layers]

    def run(self, ids: np.ndarray, cache: Cache) -> tuple[np.ndarray, Cache]:
        """As `OnnxModel.run`, without padding."""
        past = cache[0].shape[2]
        positions = np.broadcast_to(np.arange(past, past + ids.shape[1]), ids.shape)
        arguments = [tvm.runtime.tensor(np.ascontiguousarray(array)) for array in (ids, positions, *cache)]
        logits, *present = (result.numpy() for result in self._main(*arguments, *self._weights))
        return logits.astype(np.float32), present


def differences(
    model: CompiledModel, reference: OnnxModel, vocab: int, *, padding: bool = True, longest: int | None = None
) -> dict[str, float]:
    """Largest |Δlogit| of each way to call a decoder: prefill, chunks, decode, batch and, if wanted, padding.

    `padding` compares a left-padded row with the same row alone; `longest` is the context that the model holds, in
    tokens, at least 39. Raises SessionError where a logit is not finite.
    """
    random = np.random.default_rng(0)
    ids = random.integers(0, vocab, (2, sum(CHUNKS)))
    chunks = CHUNKS if longest is None or longest >= sum(CHUNKS) else tuple(size for size in CHUNKS if size <= 13)
    worst: dict[str, float] = {}

    def note(way: str, ours: np.ndarray, theirs: np.ndarray) -> None:
        if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
            raise SessionError("logits are not finite", where=way)
        worst[way] = max(worst.get(way, 0.0), float(np.abs(ours - theirs).max()))

    def steps(model, rows: np.ndarray, sizes: tuple[int, ...]) -> Iterator[np.ndarray]:
        cache, start = model.empty(len(rows)), 0
        for size in sizes:
            logits, cache = model.run(rows[:, start : start + size], cache)
            start += size
            yield logits

    for way, rows, sizes in (("prefill", ids[:1], (39,)), ("chunks", ids[:1], chunks), ("batch", ids, (23, 1, 1))):
        both = zip(steps(model, rows, sizes), steps(reference, rows, sizes), strict=True)
        for size, (ours, theirs) in zip(sizes, both, strict=True):
            note("decode" if size == 1 else way, ours, theirs)
    if padding:
        for row, (ours, theirs) in enumerate(_padded(model, reference, ids)):
            note("padding", ours, theirs[:, PADDING * row :])
    return worst


def _padded(model: CompiledModel, reference: OnnxModel, ids: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Logits of each row alone, and of the rows together where the second has PADDING tokens less."""
    first, then = 20, 2
    together = ids[:, : first + then].copy()
    mask = np.ones(together.shape, np.int64)
    mask[1, :PADDING] = 0
    prefill, cache = reference.run(together[:, :first], reference.empty(2), mask[:, :first])
    decode, _ = reference.run(together[:, first:], cache, mask)
    theirs = np.concatenate([prefill, decode], axis=1)
    for row, skipped in ((0, 0), (1, PADDING)):
        ours, _ = model.run(together[row : row + 1, skipped:], model.empty(1))
        yield ours, theirs[row : row + 1]
