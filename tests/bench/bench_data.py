"""Results of both kinds made by hand, and a bench with candidates of its own, for tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tqc.bench.problem import Problem
from tqc.bench.results import AttentionBench, AttentionCell, DecodeCell, ModelBench, PrefillCell, Timing
from tqc.bench.timing import Candidate, Maker, Turns
from tqc.eval.results import Model

ABOUT = {
    "created": "2026-01-01T00:00:00+00:00",
    "updated": "2026-01-01T00:01:00+00:00",
    "machine": {"processor": "some", "cores": 2, "device": {"threads": 2}},
    "versions": {"numpy": "2", "torch": None},
}
TQ4, FP16 = Model(name="m-tq4", digest="a", schemes="tq4"), Model(name="m-fp16", digest="b", schemes="fp16")


def timing(name: str, seconds: float, kind: str = "ours", **fields) -> Timing:
    """Two turns of two calls; the median is `seconds`, the minimum half of it."""
    return Timing(name=name, kind=kind, rounds=((seconds / 2, seconds), (seconds, 2 * seconds)), **fields)


def attention_cell(context: int, heads: str = "4x2x64", batch: int = 1) -> AttentionCell:
    """tq4 needs 10 ns a token, torch 40 ns and 1 µs less to start; a copy moves 10 GB/s."""
    return AttentionCell(
        heads=heads,
        batch=batch,
        context=context,
        load=(0.5, 1.5),
        timings=(
            timing("torch", 40e-9 * context + 1e-6, "peer", exact=True, bytes=400 * context, error=1e-7),
            timing("tq4", 10e-9 * context + 2e-6, bytes=100 * context, error=2e-7),
            timing("tq4 append", 5e-6, "append"),
            timing("copy", 0.1, "copy", bytes=10**9),
        ),
    )


def attention(*contexts: int, **fields) -> AttentionBench:
    cells = tuple(attention_cell(context) for context in contexts)
    return AttentionBench(**ABOUT, settings={"target": "cpu", "kv": ["tq4"]}, cells=cells, **fields)


def decode_cell(context: int, batch: int = 1) -> DecodeCell:
    """The artifact climbs by 1 µs a token, its peer by 3 µs, from 1 and from 2 milliseconds on."""
    ours, peer = 1e-6 * context + 1e-3, 3e-6 * context + 2e-3
    return DecodeCell(
        batch=batch,
        context=context,
        capacity=4096,
        timings=(
            timing("m-tq4", ours, tokens=context, bytes=10 * context),
            timing("m-fp16", peer, "peer", exact=True, tokens=context, bytes=40 * context),
        ),
    )


def model(*contexts: int, **fields) -> ModelBench:
    return ModelBench(
        **ABOUT,
        settings={"repeats": 2},
        engines=(TQ4, FP16),
        decode=tuple(decode_cell(context) for context in contexts),
        prefill=(
            PrefillCell(
                batch=1, context=512, timings=(timing("m-tq4", 1.0), timing("m-fp16", 2.0, "peer", exact=True))
            ),
        ),
        **fields,
    )


class ListedBench:
    """A bench of NumPy, whose clock counts calls; `asked` are the problems it was given."""

    name, contexts, batches = "cpu", (64, 128), (1,)

    def __init__(self, free: int | None = None) -> None:
        self.kv, self.free, self.asked, self.released = ["tq4"], free, [], 0

    @property
    def device(self) -> dict:
        return {"threads": 1}

    def turns(self, repeats: int) -> Turns:
        return Turns(repeats, 3, lambda call: call() or 1e-3)

    def free_bytes(self) -> int | None:
        return self.free

    def check(self, geometry) -> None:
        """All are fine."""

    def notes(self) -> list[str]:
        return ["nothing else is measured"]

    def makers(self, problem: Problem) -> Iterator[Maker]:
        self.asked.append(problem)
        right = np.ones((1, 1, 2))
        yield Maker("tq4", "ours", 1000, lambda: Candidate([lambda: None], 10, lambda: right, right, 1e-6))
        yield Maker("torch", "peer", 1000, lambda: Candidate([lambda: None], 40, lambda: right, right, 1e-6), True)

    def release(self) -> None:
        self.released += 1
