"""Seconds that importing a model takes, step by step, for models of more and more layers.

python benchmarks/import_time.py --layers 2 8 32 64 --forms torchscript17 dynamo18 dynamo23
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from report import RESULTS, table, write

METHOD = """\
A tiny Llama of the given number of layers in the form that each exporter gives it; reading and canonicalising it until
a Relax module stands, median of the runs. Probes: running parts of the graph to see their sizes (observe) and masks
(windows_of). The exponent is that of the layers between the two largest models: 1 is linear."""

STEPS = {
    "tqc.frontend.imported": ("load", "build", "convert"),
    "tqc.frontend.canonical": (
        "expand",
        "dependences",
        "observe",
        "find",
        "windows_of",
        "fuse_norms",
        "fuse_rotary",
        "fold",
    ),
}
PROBES = ("observe", "windows_of")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 8, 32, 64])
    parser.add_argument("--forms", nargs="+", default=["torchscript17", "dynamo18", "dynamo23"])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keeps the models here and takes those that are there")
    parser.add_argument("--output", type=Path, default=RESULTS / "import_time", help="without ending")
    options = parser.parse_args()

    samples: dict[str, dict[int, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for form in options.forms:
            for layers in options.layers:
                path = export(options.folder or Path(scratch), form, layers)
                runs = [measure(path) for _ in range(options.runs)]
                median = {step: round(statistics.median(run[step] for run in runs), 4) for step in runs[0]}
                samples.setdefault(form, {})[layers] = median
                print(form, layers, median, flush=True)
    rows = [
        [form, str(layers), f"{run['nodes']:.0f}", *(f"{sum(run[s] for s in steps):.2f} s" for steps in SHOWN.values())]
        for form, sizes in samples.items()
        for layers, run in sizes.items()
    ]
    tables = table(["form", "layers", "nodes", *SHOWN], rows)
    exponents = {form: round(growth(sizes, "total"), 2) for form, sizes in samples.items()}
    tables += "\n" + table(["form", "exponent"], [[form, str(value)] for form, value in exponents.items()])
    write(
        options.output,
        "Importing a model",
        METHOD.replace("\n", " "),
        {"samples": samples, "exponents": exponents},
        tables,
    )
    print(tables)


SHOWN = {"all": ("total",), "probes": PROBES, "masks": ("windows_of",), "to Relax": ("convert",)}


def growth(sizes: dict[int, dict[str, float]], step: str) -> float:
    """The exponent of a step's seconds in the number of layers, between the two largest models."""
    import math

    if len(sizes) < 2:
        return math.nan
    (few, less), (many, more) = sorted(sizes.items())[-2:]
    return math.log(more[step] / less[step]) / math.log(many / few)


def export(root: Path, form: str, layers: int) -> Path:
    """A tiny Llama in one of the forms torchscriptN and dynamoN, N the opset."""
    from tqc.models import dynamo, trace
    from tqc.models.tiny import tiny_model

    folder = root / f"{form}-{layers}"
    if not folder.exists():
        folder.mkdir(parents=True)
        model = tiny_model(layers=layers, heads=2, kv_heads=1, head_dim=16)
        exporter = trace if form.startswith("torchscript") else dynamo
        exporter.write_onnx(model, folder, opset=int(form.lstrip("abcdefghijklmnopqrstuvwxyz")))
    return folder / "model.onnx"


def measure(path: Path) -> dict[str, float]:
    """Seconds by step, the rest of the time as `rest`, all of it as `total`, and the number of nodes."""
    import importlib

    from tqc.frontend import import_model

    spent, seen = Counter(), {}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            result = function(*arguments, **options)
            spent[name] += time.perf_counter() - started
            if name == "load":
                seen["nodes"] = len(result.proto.graph.node)
            return result

        return run

    patches = [
        mock.patch.object(module, name, timed(name, getattr(module, name)))
        for module, names in ((importlib.import_module(path), names) for path, names in STEPS.items())
        for name in names
    ]
    for patch in patches:
        patch.start()
    started = time.perf_counter()
    try:
        import_model(path)
    finally:
        for patch in patches:
            patch.stop()
    total = time.perf_counter() - started
    return {**spent, "rest": total - sum(spent.values()), "total": total, "nodes": seen["nodes"]}


if __name__ == "__main__":
    main()
