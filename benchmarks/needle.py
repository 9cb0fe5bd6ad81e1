"""Retrieval over long distance: needles at every depth of long contexts, asked for through each artifact's cache.

    tqc export needle -o needle
    tqc compile needle/model.onnx --kv tq4 --max-context 106496 -o needle-tq4.tqc
    python benchmarks/needle.py needle-fp32.tqc needle-tq4.tqc [MORE.tqc …]

One haystack holds needles of all depths, and with --lookalikes others whose keys differ in one letter. It is prefilled
once, and then all questions follow one another, each with its right answer, as `needle_task.py` says. The last of them
go through decode, one token a step, and are timed. Run again with the same output, it does only what is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from engines import engine_name, limit_threads, open_engine
from report import RESULTS, table, write

LENGTHS = (4096, 8192, 16384, 32768, 65536, 106496)
DEPTHS = tuple(step / 10 for step in range(11))
DECODED = 26
"""Tokens at the end of the questions that go through decode."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", nargs="+", type=Path, metavar="ARTIFACT")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="tokens, questions included")
    parser.add_argument("--depths", type=float, nargs="+", default=DEPTHS, help="0 (oldest) … 1")
    parser.add_argument("--needles", type=int, default=4, help="needles at each depth of a haystack")
    parser.add_argument("--lookalikes", type=int, default=0, help="of each needle: other keys")
    parser.add_argument("--values", type=int, default=1, help="of each needle, read out in order")
    parser.add_argument("--haystacks", type=int, default=1, help="for each length")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS / "needle", help="without ending")
    options = parser.parse_args(arguments)

    limit_threads(options.threads)
    task = {name: getattr(options, name) for name in ("needles", "lookalikes", "values")}
    task["depths"] = list(options.depths)
    runs = _earlier(options.output.with_suffix(".json"), task)
    for path in options.artifacts:
        identity = {"artifact": engine_name(path), "manifest_sha256": _digest(path)}
        wanted = [(length, seed) for length in sorted(options.lengths) for seed in range(options.haystacks)]
        runs = [run for run in runs if run["artifact"] != identity["artifact"] or identity.items() <= run.items()]
        done = {(run["length"], run["haystack"]) for run in runs if identity.items() <= run.items()}
        missing = [pair for pair in wanted if pair not in done]
        if not missing:
            continue
        session = open_engine(path, options.threads)
        for length, seed in missing:
            runs.append(identity | {"length": length, "haystack": seed} | retrieve(session, length, seed, task))
            say(runs[-1])
            report(options.output, task, runs)
    print(report(options.output, task, runs))


def retrieve(session: Any, length: int, seed: int, task: dict[str, Any]) -> dict[str, Any]:
    """One haystack: how many needles of each depth were found, the cache's bytes and the speed."""
    from tqc.models import needle_task

    depths = [depth for depth in task["depths"] for _ in range(task["needles"])]
    rng = np.random.default_rng([length, seed])
    prompt = needle_task.prompt(length, depths, rng, lookalikes=task["lookalikes"], values=task["values"])
    haystack, questions = np.split(prompt.ids, [prompt.haystack])
    session.reset()
    start = time.perf_counter()
    session.prefill(haystack.tolist())
    prefilled = time.perf_counter()
    answers = session.prefill(questions[:-DECODED].tolist(), all_logits=True)[0].argmax(-1).tolist()
    asked = time.perf_counter()
    answers += [int(session.decode([int(token)])[0].argmax()) for token in questions[-DECODED:]]
    decoded = time.perf_counter()
    found = dict.fromkeys(map(str, task["depths"]), 0)
    for one, right in zip(prompt.asked, prompt.correct(np.array(answers)), strict=True):
        found[str(one.depth)] += right
    return {
        "needles": task["needles"],
        "found": found,
        "kv_bytes": session.kv_bytes.used,
        "kv_bytes_fp16": session.kv_bytes.fp16,
        "prefill_tokens_per_second": round(prompt.haystack / (prefilled - start), 1),
        "decode_tokens_per_second": round(DECODED / (decoded - asked), 1),
        "seconds": round(decoded - start, 1),
        "load": round(os.getloadavg()[0], 1),
    }


def say(run: dict[str, Any]) -> None:
    """One line about a haystack, while others are still to come."""
    found = f"{sum(run['found'].values())} found in {run['length']:,} tokens, {run['seconds']} s"
    print(f"{run['artifact']}: {found}", file=sys.stderr, flush=True)


def report(output: Path, task: dict[str, Any], runs: list[dict[str, Any]]) -> str:
    """Writes `output`.json and .md and returns the tables."""
    method = (
        f"{task['needles']} needles at each of {len(task['depths'])} depths in a haystack, lookalikes of each: "
        f"{task['lookalikes']}, values of each: {task['values']}. All are asked for after one prefill, and a needle is "
        "found when its whole answer is."
    )
    if loads := sorted(run["load"] for run in runs if "load" in run):
        method += f" Processes ready to run meanwhile, this one included: {loads[0]} to {loads[-1]}."
    names = list(dict.fromkeys(run["artifact"] for run in runs))
    lengths = sorted({run["length"] for run in runs})
    tables = "Needles found, all depths together:\n\n"
    tables += table(
        ["cache", *(f"{n:,}" for n in lengths)], [[name, *_each(runs, name, lengths, _share)] for name in names]
    )
    longest = [run for run in runs if run["length"] == lengths[-1]]
    tables += f"\nFound at each depth of {lengths[-1]:,} tokens:\n\n"
    rows = [
        [name, *(_percent([r for r in longest if r["artifact"] == name], [str(d)]) for d in task["depths"])]
        for name in names
    ]
    tables += table(["cache", *(f"{100 * depth:.0f} %" for depth in task["depths"])], rows)
    tables += "\nThe cache in MiB, and tokens a second in prefill and decode:\n\n"
    tables += table(
        ["cache", *(f"{n:,}" for n in lengths)], [[name, *_each(runs, name, lengths, _cost)] for name in names]
    )
    write(output, "Needles in long contexts", method, {"task": task, "runs": runs}, tables)
    return tables


def _each(runs: list[dict], name: str, lengths: list[int], cell: Any) -> list[str]:
    chosen = [[run for run in runs if (run["artifact"], run["length"]) == (name, length)] for length in lengths]
    return [cell(cells) if cells else "" for cells in chosen]


def _share(runs: list[dict]) -> str:
    return _percent(runs, list(runs[0]["found"]))


def _percent(runs: list[dict], depths: list[str]) -> str:
    """The share of the needles at `depths` that were found."""
    asked = sum(run["needles"] for run in runs) * len(depths)
    return f"{100 * sum(run['found'][depth] for run in runs for depth in depths) / asked:.0f} %" if asked else ""


def _cost(runs: list[dict]) -> str:
    mean = {
        name: np.mean([run[name] for run in runs]) for name in ("prefill_tokens_per_second", "decode_tokens_per_second")
    }
    return f"{runs[0]['kv_bytes'] / 2**20:.1f}; " + "; ".join(f"{value:,.0f}" for value in mean.values())


def _earlier(path: Path, task: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs of an earlier call with the same task; SystemExit when the file is about another one."""
    if not path.is_file():
        return []
    data = json.loads(path.read_text())
    if data.get("task") != task:
        raise SystemExit(f"{path} holds results of another task: remove it, or choose another --output")
    return data["runs"]


def _digest(artifact: Path) -> str:
    return hashlib.sha256((artifact / "manifest.json").read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
