"""Large key biases (Qwen2 family): what they cost few bits, and what finding them, or a plan, makes of it.

    python benchmarks/biased.py [--work FOLDER] [--tokens 2048]

Exports `smollm2-biased` (models/biased.py) and SmolLM2 itself, compiles artifacts with and without protection, with
plans and with the same scheme everywhere, and compares them over a text as benchmarks/fidelity.py does. What lies in
the folder already is not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import fidelity
import report
from engines import limit_threads

VARIANTS = {
    "fp32": {"kv": "fp32"},
    "tq4-bare": {"kv": "tq4", "protect": False, "centre": False},
    "tq4-centred": {"kv": "tq4", "protect": False},
    "tq4": {"kv": "tq4"},
    "plan4.25": {"budget": 4.25},
    "tq3.5-tq3": {"kv": "k:tq3.5,v:tq3", "protect": False},
    "plan3.5": {"budget": 3.5},
}
"""Name → options. Bare is what engines without either do; 4.25 and 3.5 bits are those of tq4 and tq3.5-tq3."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("demo/biased"), help="folder of models and artifacts")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=report.RESULTS / "biased", help="without ending")
    options = parser.parse_args(arguments)
    limit_threads(options.threads)
    model = _export(options.work, "smollm2-biased")
    plain = _export(options.work, "smollm2")
    about = {name: _compiled(options.work / f"{name}.tqc", model, settings) for name, settings in VARIANTS.items()}

    raw = options.work / "fidelity"
    # 64 tokens a step, as fast as a prompt is read.
    artifacts = [str(options.work / f"{name}.tqc") for name in VARIANTS if name != "fp32"]
    words = ["--tokens", str(options.tokens), "--chunk", "64", "--threads", str(options.threads), "--output", str(raw)]
    fidelity.main([*artifacts, "--reference", str(options.work / "fp32.tqc"), *words])
    found = json.loads(raw.with_suffix(".json").read_text())
    base = options.work / "unbiased"
    fidelity.main([str(plain), "--reference", str(model), *words[:-1], str(base)])
    unbiased = next(iter(json.loads(base.with_suffix(".json").read_text())["results"].values()))
    _write(options.output, found, unbiased, about)


def _export(work: Path, name: str) -> Path:
    from tqc.models.export import export_model

    path = work / name / "model.onnx"
    return path if path.exists() else export_model(name, path.parent, progress=_say)


def _compiled(path: Path, model: Path, settings: dict) -> dict:
    """Compiles unless it is there; returns bits per number, protected layers and the schemes of all layers."""
    from tqc.compiler import CompileOptions, compile_model
    from tqc.compiler.plan import bits_per_value
    from tqc.frontend import import_model

    beside = path.with_suffix(".json")
    if not (path.exists() and beside.exists()):
        _say(f"compiling {path.name}")
        seen = []
        compile_model(CompileOptions(model, path, force=True, chosen=seen.append, **settings))
        (chosen,) = seen
        layers = {layer.layer: layer for layer in import_model(model).layers}
        about = {
            "bits_per_value": bits_per_value(chosen.schemes, layers),
            "protected": chosen.protected,
            "schemes": {layer: list(sides) for layer, sides in sorted(chosen.schemes.items())},
            "why": {layer.layer: layer.why for layer in chosen.plan.layers} if chosen.plan else {},
        }
        beside.write_text(json.dumps(about, indent=1) + "\n")
    return json.loads(beside.read_text())


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _write(output: Path, found: dict, unbiased: dict, about: dict[str, dict]) -> None:
    rows = [
        [
            name,
            f"{about[name]['bits_per_value']:.3f}",
            ", ".join(layer for layer, (k, _) in about[name]["schemes"].items() if k == "tq8") or "none",
            f"{result['kl']:.5f}",
            f"{100 * result['agreement']:.2f} %",
            f"{result['perplexity']:.3f}",
            f"{100 * result['perplexity_change']:+.2f} %",
        ]
        for name, result in found["results"].items()
    ]
    exact = next(iter(found["results"].values()))
    reference = exact["perplexity"] / (1 + exact["perplexity_change"])
    method = (
        f"SmolLM2-135M-Instruct in Qwen2's architecture with key biases of length 600 to 900 in its first and last two "
        f"layers (models/biased.py). With an exact cache its perplexity is {reference:.3f}; that of SmolLM2 itself is "
        f"{unbiased['perplexity']:.3f}, with the same next token at {100 * unbiased['agreement']:.2f} %. "
        f"{found['method']} bare: keys are neither centred nor protected; centred: not protected."
    )
    header = ["cache", "bits a number", "8-bit keys in layers", "KL (nats)", "same next token", "perplexity", "change"]
    data = {"reference_perplexity": reference, "unbiased": unbiased, "artifacts": about, "results": found["results"]}
    tables = report.table(header, rows)
    report.write(output, "Large key biases", method, data, tables)
    print(tables)


if __name__ == "__main__":
    main()
