"""Takes every family through every exporter's form and compares with onnxruntime; writes the table of the docs.

    python benchmarks/exporters.py [--family F …] [--form G …] [--again] [--folder FOLDER]
    python benchmarks/exporters.py --check

Cells that benchmarks/results/exporters.json holds are not run again without `--again`, so a run can be continued.
`--check` only compares docs/exporters.md with the results.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from report import RESULTS, machine, table, versions

RESULT = RESULTS / "exporters.json"
DOC = Path(__file__).parents[1] / "docs" / "exporters.md"
BAR = {"float32": 1e-4, "float16": 0.1}
"""Largest |Δlogit| by the type of the cache."""
COSINE = 0.99
TOKENS = 200
FULL_FAMILY, FULL_FORMS = "llama", ("torchscript17", "dynamo18")
"""Where the compressed cache is tried too: this family in every form, every family in the first of these it has."""
FALLBACK = {
    "genai-fp32": ("torchscript14",),
    "genai-fp16": ("genai-fp32", "torchscript14"),
    "genai-mha": ("genai-fp32", "torchscript14"),
    "genai-int4f16": ("genai-int4f16-norms",),
    "fp16": ("torchscript17",),
    "torchscript17-fp16": ("torchscript17",),
    "q4f16": ("q4",),
}
"""What a form is compared with where onnxruntime's CPU provider cannot run it: the same model in another form."""


def check(zoo: Any, family: str, form: str, *, full: bool = False) -> dict[str, Any]:
    """One cell: `exported`, then `layers`, `differences` (max |Δlogit| by way of calling), `bar`, `cosine`, or `error`.

    `full` compiles with `--kv tq4` too and decodes TOKENS tokens one by one. `stage` says where an error came from.
    """
    cell: dict[str, Any] = {"exported": False}
    stage, start = "export", time.perf_counter()
    try:
        path = zoo.path(family, form)
        cell["exported"], stage = True, "import"
        from tqc.eval.agreement import CompiledModel, differences
        from tqc.frontend import import_model
        from tqc.models.families import VOCAB

        imported = import_model(path)
        cell |= {"layers": len(imported.layers), "bar": BAR[imported.dtype]}
        stage = "reference"
        reference, cell["reference"] = _reference(zoo, family, form, imported)
        stage = "build"
        model = CompiledModel(imported)
        stage = "compare"
        # Without position_ids the rows of these are shifted by their padding, in onnxruntime as well.
        padding = reference.has_positions or not (family == "gpt2" or form.startswith("genai"))
        cell["differences"] = differences(model, reference, VOCAB, padding=padding, longest=imported.longest)
        if full:
            stage = "tq4"
            cell["cosine"] = _compressed(path, reference, imported.longest)
    except Exception as error:  # the table says what each exporter and each stage answered
        cell |= {"stage": stage, "error": _words(error)}
    cell["seconds"] = round(time.perf_counter() - start, 1)
    return cell


def passed(cell: dict[str, Any]) -> bool:
    """Whether a cell was compared and every number is within its bar."""
    within = "differences" in cell and max(cell["differences"].values()) <= cell["bar"]
    return within and "error" not in cell and cell.get("cosine", 1.0) >= COSINE


def _words(error: Exception) -> str:
    text = re.sub(re.escape(tempfile.gettempdir()) + r"/\w+", "FOLDER", " ".join(str(error).split()))
    return f"{type(error).__name__}: {text}"[:400]


def _reference(zoo: Any, family: str, form: str, imported: Any) -> tuple[Any, str]:
    """onnxruntime on the same file, or on the same model in another form if it cannot run this one."""
    import numpy as np

    from tqc.eval.agreement import OnnxModel

    failed = None
    for name in (form, *FALLBACK.get(form, ())):
        try:
            model = OnnxModel(zoo.path(family, name), imported)
            _, cache = model.run(np.ones((1, 2), np.int64), model.empty(1))
            model.run(np.ones((1, 1), np.int64), cache)
            return model, name
        except Exception as error:  # whatever onnxruntime says of a file or an operator that it cannot run
            failed = failed or error
    raise failed


def _compressed(path: Path, reference: Any, longest: int | None) -> float:
    """Cosine of the logits of a text decoded token by token over a tq4 cache with the default options."""
    import numpy as np

    import tqc
    from tqc.compiler import CompileOptions, compile_model
    from tqc.eval.forcing import teacher_forced
    from tqc.models.families import VOCAB

    ids = np.random.default_rng(1).integers(0, VOCAB, (1, min(TOKENS, longest or TOKENS)))
    cache, steps = reference.empty(1), []
    for position in range(ids.shape[1]):
        logits, cache = reference.run(ids[:, position : position + 1], cache)
        steps.append(logits[0])
    expected = np.concatenate(steps)
    with tempfile.TemporaryDirectory() as folder:
        options = CompileOptions(path, Path(folder) / "m.tqc", kv="tq4", max_context=min(256, longest or 256))
        session = tqc.load(compile_model(options))
        found = np.concatenate(list(teacher_forced(session, ids[0].tolist(), 1)))
    a, b = expected.astype(np.float64).ravel(), found.astype(np.float64).ravel()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def _shown(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "not run"
    if not cell["exported"]:
        return "–"
    if not passed(cell):
        return f"**{cell.get('stage', 'differs')}**"
    text = f"{max(cell['differences'].values()):.0e}"
    return text + (f", {cell['cosine']:.3f}" if "cosine" in cell else "")


def document(results: dict[str, Any]) -> str:
    """docs/exporters.md: the table family × form, the failures, and how it was made."""
    cells = results["cells"]
    families = list(dict.fromkeys(name.split("/")[0] for name in cells))
    forms = list(dict.fromkeys(name.split("/")[1] for name in cells))
    rows = [[f, *(_shown(cells.get(f"{family}/{f}")) for family in families)] for f in forms]
    tried = [cell for cell in cells.values() if cell["exported"]]
    known = ", ".join(f"{name} {version}" for name, version in results["versions"].items() if version)
    host = results["machine"]
    parts = [
        "# What exporters write, and what becomes of it",
        "Every cell is a tiny random decoder of a family (column) as one exporter writes it (row), imported and "
        "compared with onnxruntime on the same file: prefill, chunks, decode, batch and left padding, beyond the "
        "sliding window. The number is the largest |Δlogit| with an exact cache (bar: 1e-4 in float32, 0.1 in "
        "float16); a second number is the cosine of the logits of 200 tokens decoded one by one over `--kv tq4` (bar: "
        "0.99; of 200 tokens the default options code 64, and keep the first and the most recent ones exact). "
        "“–” is a form that the exporter refuses to write, a word in bold the stage that failed.",
        f"{sum(map(passed, tried))} of {len(tried)} exported files pass.",
        table(["form", *families], rows).rstrip(),
        "## Failures",
        _failures({name: cell for name, cell in cells.items() if cell["exported"] and not passed(cell)}),
        "## Forms that are not written",
        _failures({name: cell for name, cell in cells.items() if not cell["exported"]}),
        "## Compared with another form",
        _elsewhere(cells),
        "## Where this comes from",
        f"`python benchmarks/exporters.py`, raw data in `benchmarks/results/exporters.json`. {host['processor']}, "
        f"{host['cores']} cores; {results['date']}. {known}.",
    ]
    return "\n\n".join(parts) + "\n"


def _failures(cells: dict[str, Any]) -> str:
    """A line for each error, with the cells that share it."""
    by_error: dict[str, list[str]] = {}
    for name, cell in cells.items():
        worst = f"max |Δlogit| {max(cell.get('differences', {'': 0}).values()):.2g}, cosine {cell.get('cosine')}"
        by_error.setdefault(cell.get("error", worst), []).append(name)
    lines = [f"- {', '.join(names)}: `{error.replace('`', chr(39))}`" for error, names in by_error.items()]
    return "\n".join(lines) or "None."


def _elsewhere(cells: dict[str, Any]) -> str:
    lines = [f"{n} with {c['reference']}" for n, c in cells.items() if c.get("reference", n.split("/")[1]) not in n]
    return "onnxruntime's CPU provider cannot run: " + ", ".join(lines) + "." if lines else "None."


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", nargs="+", help="default: all")
    parser.add_argument("--form", nargs="+", help="default: all")
    parser.add_argument("--again", action="store_true", help="run cells that have a result")
    parser.add_argument("--failed", action="store_true", help="run cells again that did not pass")
    parser.add_argument("--folder", type=Path, help="keeps the exported files")
    parser.add_argument("--check", action="store_true", help="compare the document with the results and run nothing")
    options = parser.parse_args(arguments)
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {"cells": {}}
    if options.check:
        return int(DOC.read_text(encoding="utf-8") != document(results))

    from tqc.models.families import FAMILIES
    from tqc.models.forms import FORMS, Zoo

    order = [f"{family}/{form}" for family in FAMILIES for form in FORMS]
    with tempfile.TemporaryDirectory() as scratch:
        zoo = Zoo(options.folder or Path(scratch))
        for name in order:
            family, form = name.split("/")
            wanted = family in (options.family or FAMILIES) and form in (options.form or FORMS)
            known = results["cells"].get(name)
            again = options.again or (options.failed and known and not passed(known))
            if not wanted or (known and not again):
                continue
            full = family == FULL_FAMILY or form in FULL_FORMS[:1] or (family, form) == ("phi3-longrope", "dynamo18")
            cell = results["cells"][name] = check(zoo, family, form, full=full)
            print(f"{name}: {_shown(cell)} {cell.get('error', '')}"[:200], f"{cell['seconds']} s", flush=True)
            results["cells"] = {name: results["cells"][name] for name in order if name in results["cells"]}
            results |= {"date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"), "machine": machine()}
            results["versions"] = versions() | _more_versions()
            RESULT.write_text(json.dumps(results, indent=1) + "\n")
    DOC.write_text(document(results), encoding="utf-8")
    return 0


def _more_versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("onnx", "onnxscript", "transformers", "onnxruntime-genai")}


if __name__ == "__main__":
    sys.exit(main())
