"""Damaged ONNX files: each must be refused with an error of ours, or compute what onnxruntime computes from it.

    python benchmarks/corruptions.py ZOO FAMILY-FORM… --count 2000

ZOO is a folder of exports (python -m tqc.models.forms). Workers import the files; one that crashes or hangs is replaced
and the file counts as a failure. The same seed damages the same places of the same files.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from corrupting import KINDS, corrupt

GOOD = frozenset(
    {
        *("refused", "right", "right, as far as numbers go", "unforeseen error", "NaN that the graph hides"),
        *("accepted, onnxruntime refuses", "accepted, onnxruntime fails", "onnxruntime crashes"),
    }
)
"""Outcomes that are no failure of ours: the unforeseen errors are ours to make precise."""
SECONDS = 90
"""A file that takes longer hangs."""


@dataclass(frozen=True)
class Case:
    """One damaged file: what it is made of, how it is damaged, and the seed."""

    source: Path
    kind: str
    seed: int


class Worker:
    """A process that judges files; started again after it dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def _start(self) -> subprocess.Popen:
        script = Path(__file__).with_name("corruption_worker.py")
        threads = {"TVM_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([sys.executable, str(script)], text=True, env={**os.environ, **threads}, **pipes)

    def judge(self, path: Path) -> dict:
        process = self._process = self._process or self._start()
        hung = threading.Event()

        def stop() -> None:
            hung.set()
            process.kill()

        timer = threading.Timer(SECONDS, stop)
        timer.start()
        stage, found = "import", None
        try:
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
            while found is None and (line := process.stdout.readline()):
                message = json.loads(line)
                if "stage" in message:
                    stage = message["stage"]
                else:
                    found = message
        except BrokenPipeError:
            found = None
        timer.cancel()
        if found is None:
            code, self._process = process.wait(), None
            what = "hang" if hung.is_set() else "crash" if stage == "import" else "onnxruntime crashes"
            found = {"outcome": what, "detail": f"exit status {code}, stage {stage}"}
        return found

    def close(self) -> None:
        if self._process:
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()


def run(cases: Sequence[Case], workers: int = 2) -> list[dict]:
    """What became of each case: its parts, `outcome` and `detail`."""
    crew, lock, local = [], threading.Lock(), threading.local()

    def one(case: Case) -> dict:
        if not hasattr(local, "worker"):
            local.worker = Worker()
            with lock:
                crew.append(local.worker)
        with tempfile.TemporaryDirectory() as folder:
            for beside in case.source.parent.iterdir():
                if beside.is_file() and beside.suffix == ".data":
                    shutil.copy(beside, folder)
            target = Path(folder) / case.source.name
            corrupt(case.source, target, case.kind, case.seed)
            found = local.worker.judge(target)
        return {"model": case.source.parent.name, "kind": case.kind, "seed": case.seed, **found}

    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(one, cases))
    for worker in crew:
        worker.close()
    return results


def cases(sources: Sequence[Path], count: int, seed: int) -> list[Case]:
    """`count` cases, every kind of damage in turn over every source."""
    return [Case(sources[n % len(sources)], KINDS[(n // len(sources)) % len(KINDS)], seed + n) for n in range(count)]


def main(arguments: list[str] | None = None) -> None:
    from report import RESULTS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("models", nargs="+", metavar="FAMILY-FORM")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "corruptions.json")
    options = parser.parse_args(arguments)
    sources = [options.zoo / name / "model.onnx" for name in options.models]
    found = run(cases(sources, options.count, options.seed))
    counts = Counter(entry["outcome"] for entry in found)
    kinds = {kind: dict(Counter(e["outcome"] for e in found if e["kind"] == kind)) for kind in KINDS}
    bad = [entry for entry in found if entry["outcome"] not in GOOD or entry["outcome"] == "unforeseen error"]
    report = {"seed": options.seed, "count": len(found), "models": options.models, "outcomes": dict(counts)}
    options.out.write_text(json.dumps(report | {"kinds": kinds, "to_look_at": bad}, indent=1) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
