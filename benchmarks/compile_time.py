"""What compiling costs: seconds, peak memory, sizes, and whether two compilations give the same bytes.

python benchmarks/compile_time.py --onnx demo/smollm2/model.onnx --kv tq4 fp32
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import resource
import statistics
import tempfile
import time
from pathlib import Path

from report import RESULTS, table, write

METHOD = """\
Each compilation runs in a process of its own; peak memory is that process's. Import: reading and canonicalising the
ONNX file until a Relax module stands. Compile: all of `tqc compile` but Python's start. The same bytes: every file of
all compilations has the same SHA-256."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--kv", nargs="+", default=["tq4", "fp32"])
    parser.add_argument("--runs", type=int, default=3, help="compilations of each scheme, at least 2")
    parser.add_argument("--output", type=Path, default=RESULTS / "compile_time", help="without ending")
    options = parser.parse_args()

    samples: dict[str, list[dict]] = {kv: [] for kv in options.kv}
    for _ in range(max(2, options.runs)):
        for kv in options.kv:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                samples[kv].append(pool.apply(compile_once, (options.onnx, kv)))
    rows = []
    for kv, runs in samples.items():
        median = {key: statistics.median(run[key] for run in runs) for key in ("import", "compile", "peak_mib")}
        library = max(runs[0]["sizes"][name] for name in runs[0]["sizes"] if name.endswith(".so"))
        same = "yes" if all(run["digests"] == runs[0]["digests"] for run in runs) else "no"
        cells = [f"{median['import']:.1f} s", f"{median['compile']:.1f} s", f"{median['peak_mib']:,.0f} MiB"]
        rows.append([kv, *cells, f"{library / 2**20:.2f} MiB", same])
    header = ["cache", "import", "compile", "peak memory", "library", "same bytes each time"]
    tables = table(header, rows)
    write(options.output, "Cost of compiling", METHOD.replace("\n", " "), {"samples": samples}, tables)
    print(tables)


def compile_once(model: Path, kv: str) -> dict:
    """Seconds, MiB and file sizes of one compilation, measured inside its process."""
    from tqc.compiler import CompileOptions, compile_model

    started, marks = time.perf_counter(), {}

    def mark(step: str, _fraction: float) -> None:
        marks[step] = time.perf_counter() - started

    with tempfile.TemporaryDirectory() as folder:
        out = compile_model(CompileOptions(model, Path(folder) / "out.tqc", kv=kv, progress=mark))
        seconds = time.perf_counter() - started
        files = sorted(out.iterdir())
        return {
            "import": marks["measuring the model over a text"] - marks["reading the model"],
            "compile": seconds,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "sizes": {path.name: path.stat().st_size for path in files},
            "digests": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        }


if __name__ == "__main__":
    main()
