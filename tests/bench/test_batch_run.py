from __future__ import annotations

import pytest
from bench_data import FP16, TQ4

from tqc.bench.batch_run import mean_tokens
from tqc.bench.engines import Engine
from tqc.bench.model import bench_model
from tqc.bench.model_settings import Settings
from tqc.bench.results import read_results

SETTINGS = Settings(contexts=(32, 64), new_tokens=3, repeats=2, prompt=5, pause=0.0)


class Counted:
    """A session that only counts the tokens of its sequences; it fails at `limit`."""

    def __init__(self, batch: int, limit: int = 10**9) -> None:
        self.batch, self.limit, self.length, self.decoded_at, self.prompts = batch, limit, 0, [], []

    def reset(self) -> None:
        self.length = 0

    def prefill(self, ids) -> None:
        assert len(ids) == self.batch
        assert len(set(map(len, ids))) == 1
        self.prompts.append(len(ids[0]))
        self.length += len(ids[0])

    def decode(self, ids) -> None:
        assert len(ids) == self.batch
        self.length += 1
        self.decoded_at.append(self.length)
        if self.length >= self.limit:
            raise RuntimeError("cache full")

    @property
    def kv_bytes(self) -> int:
        return 10 * self.length * self.batch


@pytest.fixture
def engines():
    """Two engines; `opened` has their sessions."""
    opened: dict[str, list[Counted]] = {"m-tq4": [], "m-fp16": []}

    def make(model, exact, limit=10**9):
        def start(batch, tokens):
            opened[model.name].append(Counted(batch, limit))
            return opened[model.name][-1]

        return Engine(model, start, 32, exact, 64)

    make.opened = opened
    return make


def test_caches_grow_from_context_to_context(engines, tmp_path):
    both = [engines(TQ4, False), engines(FP16, True)]
    results = bench_model(both, SETTINGS, device={"threads": 1}, folder=tmp_path, command="tqc bench").results
    (session,) = engines.opened["m-tq4"]
    assert session.prompts == [5, 5, 5, 5, 24, 24]  # prompts that are timed, then what comes before the steps
    assert session.decoded_at == [*range(25, 33), *range(57, 65)]
    assert [cell.context for cell in results.decode] == [32, 64]
    for cell in results.decode:
        assert [(timing.name, timing.kind) for timing in cell.timings] == [("m-tq4", "ours"), ("m-fp16", "peer")]
        assert [len(turn) for turn in cell.timings[0].rounds] == [3, 3]
    assert [cell.timings[0].bytes for cell in results.decode] == [320, 640]
    assert len(results.lines) == 2
    assert read_results(tmp_path / "results.json") == results


def test_the_mean_of_the_tokens_is_that_of_the_counted_steps():
    counted = [26, 27, 28, 30, 31, 32]  # of 25 … 32 the first of each turn is not
    assert mean_tokens(24, 2, 3) == sum(counted) / 6


def test_what_is_there_is_not_measured_again(engines, tmp_path):
    both = [engines(TQ4, False), engines(FP16, True)]
    bench_model(both, SETTINGS, device={}, folder=tmp_path)
    results = bench_model(both, SETTINGS, device={}, folder=tmp_path).results
    assert len(engines.opened["m-tq4"]) == 1
    more = Settings(contexts=(32, 48, 64), new_tokens=3, repeats=2, prompt=5, pause=0.0)
    results = bench_model(both, more, device={}, folder=tmp_path).results
    assert [cell.context for cell in results.decode] == [32, 48, 64]
    assert engines.opened["m-tq4"][-1].decoded_at == [*range(41, 49)]


def test_a_peer_that_fails_leaves_the_others(engines):
    both = [engines(TQ4, False), engines(FP16, True, limit=60)]
    results = bench_model(both, SETTINGS, device={}).results
    short, long = results.decode
    assert all(timing.rounds for timing in short.timings)
    assert long.timings[0].rounds
    assert (long.timings[1].rounds, long.timings[1].fault) == ((), "RuntimeError: cache full")


def test_contexts_closer_than_the_steps_begin_anew(engines):
    close = Settings(contexts=(32, 36), new_tokens=3, repeats=2, prompt=5, pause=0.0)
    bench_model([engines(TQ4, False)], close, device={})
    assert engines.opened["m-tq4"][0].decoded_at == [*range(25, 33), *range(29, 37)]


def test_batches_are_opened_apart(engines):
    settings = Settings(contexts=(32,), batches=(2, 1), new_tokens=3, repeats=2, prompt=5, pause=0.0)
    results = bench_model([engines(TQ4, False)], settings, device={}).results
    assert [session.batch for session in engines.opened["m-tq4"]] == [1, 2]
    assert [cell.batch for cell in results.decode] == [1, 2]
