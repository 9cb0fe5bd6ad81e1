"""Whole-model speed of artifacts beside onnxruntime on the ONNX file they were compiled from.

    python benchmarks/whole_model.py --onnx demo/smollm2/model.onnx demo/smollm2-tq4.tqc demo/smollm2-fp32.tqc

Decode: every engine is filled to each context length, then the engines take turns with rounds of single-token steps.
Prefill: the engines take turns with prompts into an empty cache. Medians; all raw times are in the JSON.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from engines import engine_name, limit_threads, open_engine, random_ids
from report import RESULTS, table, write

PAUSE_SECONDS = 0.15
"""Between engines: the idle one's threads spin for a while before they sleep, and would take cores from the other."""

METHOD = """\
One sequence, {threads} threads for each engine, all in one process and taking turns; before each turn {pause} s of rest
(threads of the engine before stop spinning) and one step that is not timed. Decode: median of {steps} steps at each
context, the cache filled with random tokens by prefill in chunks of {chunk}. Prefill: median of {prompts} prompts of
{prompt} tokens into an empty cache, logits of the last token only for tqc; the ONNX graph computes all of them.
onnxruntime keeps its cache inside (IO binding: each step's present is bound as the next step's past, nothing goes
through Python but ids and logits); joining past and new token is part of the exported graph."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", nargs="*", type=Path, metavar="ARTIFACT", help="none: onnxruntime alone")
    parser.add_argument("--onnx", type=Path, required=True, help="the model for onnxruntime")
    parser.add_argument("--contexts", type=int, nargs="+", default=[32, 1024, 4096, 8064])
    parser.add_argument("--steps", type=int, default=24, help="timed decode steps at each context")
    parser.add_argument("--round", type=int, default=8, help="steps an engine takes before the next one's turn")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a timed prefill")
    parser.add_argument("--prompts", type=int, default=5)
    parser.add_argument("--chunk", type=int, default=512, help="tokens of one prefill call when filling the cache")
    parser.add_argument("--vocab", type=int, default=49152)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS / "whole_model", help="without ending")
    options = parser.parse_args(arguments)

    limit_threads(options.threads)
    paths = [options.onnx, *options.artifacts]
    engines = {engine_name(path): open_engine(path, options.threads) for path in paths}
    prefill = time_prefill(engines, options)
    decode = [time_decode(engines, context, options) for context in sorted(options.contexts)]

    method = METHOD.format(pause=PAUSE_SECONDS, **vars(options)).replace("\n", " ")
    data = {"prefill_seconds": prefill, "prompt_tokens": options.prompt, "decode": decode}
    tables = decode_table(decode) + "\n" + prefill_table(prefill, options.prompt)
    write(options.output, "Whole-model speed on the CPU", method, data, tables)
    print(tables)


def time_prefill(engines: dict[str, Any], options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each prompt, by engine."""
    prompt = random_ids(options.prompt, options.vocab)
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(options.prompts + 1):
        for name, engine in engines.items():
            time.sleep(PAUSE_SECONDS)
            engine.reset()
            start = time.perf_counter()
            engine.prefill(prompt)
            if turn:  # the first one is a warm-up
                seconds[name].append(time.perf_counter() - start)
        _say(f"prefill {turn}/{options.prompts}")
    return seconds


def time_decode(engines: dict[str, Any], context: int, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of single steps and bytes of the cache, by engine, with `context` tokens in the cache at the start."""
    from tqc.eval.forcing import cache_bytes

    tokens = random_ids(context, options.vocab)
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for name, engine in engines.items():
        engine.reset()
        for start in range(0, context, options.chunk):
            engine.prefill(tokens[start : start + options.chunk])
        _say(f"{name}: {context} tokens in the cache")
    kv_bytes = {name: cache_bytes(engine) for name, engine in engines.items()}
    while min(map(len, seconds.values())) < options.steps:
        for name, engine in engines.items():
            time.sleep(PAUSE_SECONDS)
            engine.decode([tokens[0]])
            for _ in range(options.round):
                start = time.perf_counter()
                engine.decode([tokens[-1]])
                seconds[name].append(time.perf_counter() - start)
    return {"context": context, "kv_bytes": kv_bytes, "step_seconds": seconds}


def decode_table(decode: list[dict[str, Any]]) -> str:
    """Tokens a second at each context, and in brackets how many times the first engine's."""
    names = list(decode[0]["step_seconds"])
    rows = []
    for name in names:
        cells = []
        for entry in decode:
            own = statistics.median(entry["step_seconds"][name])
            first = statistics.median(entry["step_seconds"][names[0]])
            cells.append(f"{1 / own:.1f} ({first / own:.2f}×)")
        rows.append([name, *cells, f"{decode[-1]['kv_bytes'][name]:,}"])
    header = ["decode, tokens/s", *(f"at {entry['context']}" for entry in decode)]
    return table([*header, f"cache bytes at {decode[-1]['context']}"], rows)


def prefill_table(prefill: dict[str, list[float]], tokens: int) -> str:
    """Tokens a second of a prompt, and in brackets how many times the first engine's."""
    first = statistics.median(next(iter(prefill.values())))
    rows = []
    for name, seconds in prefill.items():
        own = statistics.median(seconds)
        rows.append([name, f"{tokens / own:.0f} ({first / own:.2f}×)"])
    return table(["prefill", f"tokens/s, {tokens} tokens"], rows)


def _say(message: str) -> None:
    if sys.stderr.isatty():
        print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
