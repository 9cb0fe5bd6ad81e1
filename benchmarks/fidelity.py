"""Fidelity of artifacts against a reference: next-token agreement, perplexity and KL divergence over English text.

    python benchmarks/fidelity.py --reference demo/smollm2-fp32.tqc demo/smollm2-tq4.tqc [MORE.tqc …]

The reference is an artifact with an exact cache, or a .onnx file that onnxruntime then runs. All models are fed the
same true text. `--chunk 1` (default) feeds one token a step through decode; a larger chunk goes through prefill, where
a chunk sees its own tokens exactly.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import platform
import sys
from pathlib import Path

from engines import engine_name, limit_threads, open_engine, token_ids
from report import RESULTS, table, write


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", nargs="+", type=Path, metavar="ARTIFACT")
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=2048, help="predictions to compare")
    parser.add_argument("--chunk", type=int, default=1, help="tokens a step; 1 is decode")
    parser.add_argument("--text", type=Path, help="a text file instead of Python's own documentation")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS / "fidelity", help="without ending")
    options = parser.parse_args(arguments)

    limit_threads(options.threads)
    from tqc.eval.fidelity import compare
    from tqc.eval.forcing import cache_bytes, mode
    from tqc.eval.texts import prose

    text = options.text.read_text() if options.text else prose()
    ids = token_ids(options.reference, text, options.tokens + 1)
    reference = open_engine(options.reference, options.threads)
    tests = {engine_name(path): open_engine(path, options.threads) for path in options.artifacts}
    results = compare(reference, tests, ids, chunk=options.chunk, progress=_print_progress)

    origin = options.text.name if options.text else f"pydoc topics, Python {platform.python_version()}"
    method = (
        f"{options.tokens} predictions, teacher-forced, {mode(options.chunk)}; text: {origin}. "
        f"Reference: {engine_name(options.reference)}. Perplexity change is relative to the reference."
    )
    data = {
        "reference": engine_name(options.reference),
        "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "chunk": options.chunk,
        "results": {
            name: dataclasses.asdict(result)
            | {"perplexity_change": result.perplexity_change, "kv_bytes": cache_bytes(tests[name])}
            for name, result in results.items()
        },
    }
    rows = [
        [
            name,
            f"{100 * result.agreement:.2f} %",
            f"{result.perplexity:.4f}",
            f"{100 * result.perplexity_change:+.2f} %",
            f"{result.kl:.5f}",
            f"{result.max_difference:.3f}",
            f"{cache_bytes(tests[name]):,}",
        ]
        for name, result in results.items()
    ]
    header = ["cache", "same next token", "perplexity", "change", "KL (nats)", "max Δlogit", "cache bytes at the end"]
    tables = table(header, rows)
    write(options.output, "Fidelity of the compressed cache", method, data, tables)
    print(tables)


def _print_progress(done: int, total: int) -> None:
    if sys.stderr.isatty() and (done == total or done % 64 == 0):
        print(f"\r{done}/{total} tokens", end="\n" if done == total else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
