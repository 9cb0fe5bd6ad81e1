"""Memory that compiling a model takes whose weights are larger than the memory it may take.

python benchmarks/large_model.py --folder /somewhere/with/14/GB
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path

from report import RESULTS, table, write

from tqc.models.large import Geometry, write_large

METHOD = """\
A Llama decoder with random weights, the geometry of Llama 3.2 1B but with a vocabulary matrix of its own, in external
data beside a byte tokenizer, so that the keys are measured over the built-in text; `tqc compile` in a process of its
own. Peak memory is VmHWM of that process: what it allocated, and the pages of mapped files that were in memory at the
same time. Peak anonymous memory (allocated, not mapped from files) is the largest of samples every 10 ms. Allowed:
0.3 of the weights and 1.5 GB."""

LLAMA = Geometry(
    hidden=2048, layers=16, heads=32, kv_heads=8, head_dim=64, intermediate=8192, vocab=128256, dtype="float32"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a folder on a disk with room for the weights, twice")
    parser.add_argument("--kv", nargs="+", default=["tq4"])
    parser.add_argument("--output", type=Path, default=RESULTS / "large_model", help="without ending")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        model = prepare(Path(folder), LLAMA)
        samples = {kv: measure(model, kv) for kv in options.kv}
    rows = []
    for kv, run in samples.items():
        cells = [f"{run[key] / 1e9:.2f} GB" for key in ("weights", "peak", "peak_anonymous", "allowed")]
        rows.append([kv, *cells, f"{run['seconds']:.0f} s"])
    tables = table(["cache", "weights", "peak memory", "of it anonymous, at most", "allowed", "seconds"], rows)
    data = {"geometry": asdict(LLAMA), "samples": samples}
    write(options.output, "Compiling a large model", METHOD.replace("\n", " "), data, tables)
    print(tables)


def prepare(folder: Path, geometry: Geometry, *, random: bool = True) -> Path:
    """Writes a model and a tokenizer that knows bytes; returns the path of its graph."""
    from tqc.models.tiny import byte_tokenizer

    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return write_large(folder, geometry, random=random)


def measure(model: Path, kv: str = "tq4") -> dict:
    """Bytes and seconds of one compilation in a process of its own; the artifact is deleted again."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        run = pool.apply(compile_once, (model, kv))
    weights = model.with_name("model.onnx.data").stat().st_size
    return {"weights": weights, "allowed": int(0.3 * weights + 1.5e9), **run}


def compile_once(model: Path, kv: str) -> dict:
    """Compiles in this process and says what it took, in all and by the end of each step."""
    out, steps, started = model.with_name("out.tqc"), {}, time.perf_counter()
    anonymous, done = [0], threading.Event()

    def sample() -> None:
        while not done.wait(0.01):
            anonymous[0] = max(anonymous[0], memory("RssAnon"))

    def mark(step: str, _fraction: float) -> None:
        steps[step] = {"second": round(time.perf_counter() - started, 1), "peak_so_far": memory("VmHWM")}

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    from tqc.compiler import CompileOptions, compile_model

    try:
        compile_model(CompileOptions(model, out, kv=kv, progress=mark, force=True))
    finally:
        shutil.rmtree(out, ignore_errors=True)
        done.set()
        sampler.join()
    seconds = time.perf_counter() - started
    return {"peak": memory("VmHWM"), "peak_anonymous": anonymous[0], "seconds": round(seconds, 1), "steps": steps}


def memory(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


if __name__ == "__main__":
    main()
