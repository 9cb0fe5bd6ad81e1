"""Bits against fidelity: our schemes and other projects' formats by the same rules, whole model, no kernels involved.

    python benchmarks/pareto.py --onnx demo/smollm2/model.onnx [--tokens 6144] [--window 2048] [POINT …]

The model runs with an exact cache; whenever a page of 64 tokens leaves the exact window (4 sinks and 128 newest stay
exact), its keys and values pass through a format (`tqc.eval.recoded_session`). A POINT is a scheme as --kv takes it,
a plan's file, or a peer: q4_0, q8_0, kivi2, kivi4. Finished windows are kept in the output and not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from engines import limit_threads, token_ids
from report import RESULTS, table, write

if TYPE_CHECKING:
    from tqc.eval.fidelity import Fidelity

DEFAULT = (
    *("tq8", "tq5", "tq4", "tq3", "tq2", "k4v3", "k3v2"),
    *("tq2.5", "tq3.5", "tqp4", "tqp3", "polar", "qjl", "k:qjl2o,v:tq2"),
    *("q8_0", "q4_0", "kivi4", "kivi2"),
)
BATCH = 9
"""Points that share a run of the exact model, after which they are saved: each has a float cache in memory."""


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__, RESULTS / "pareto")
    parser.add_argument("points", nargs="*", metavar="POINT", default=list(DEFAULT))
    options = parser.parse_args(arguments)
    limit_threads(options.threads)

    from tqc.eval.recoded_session import RecodedSession
    from tqc.eval.windows import windows

    ids = text_ids(options)
    model = Model(options)
    done = load_sums(options)
    with ExactModel(options) as exact:
        for number, window in enumerate(windows(ids, options.window)):
            waiting = [point for point in options.points if str(number) not in done.setdefault(point, {})]
            for points in batched(waiting, BATCH):
                sessions = {point: RecodedSession(exact.session(), model.recode(point)) for point in points}
                for point, tally in measure(exact.session(), sessions, window, number).items():
                    done[point][str(number)] = tally
                _save(options, model, done)


def batched(items: list[str], size: int) -> list[list[str]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


class ExactModel:
    """An artifact with an exact cache, every token in a page, that lives as long as the `with`."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options, self._folder = options, tempfile.TemporaryDirectory(prefix="tqc-exact-")

    def __enter__(self) -> ExactModel:
        from tqc.compiler import CompileOptions, compile_model

        self._path = Path(self._folder.name, "exact.tqc")
        options = CompileOptions(
            self._options.onnx, self._path, kv="fp32", sinks=0, recent=0, max_context=self._options.window
        )
        compile_model(options)
        return self

    def __exit__(self, *_error: object) -> None:
        self._folder.cleanup()

    def session(self) -> Any:
        """A new session; all share the weights in the file."""
        import tqc

        return tqc.load(self._path)


def make_parser(description: str, output: Path) -> argparse.ArgumentParser:
    """The arguments of this benchmark and of those that measure by the same rules."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=6144)
    parser.add_argument("--window", type=int, default=2048, help="tokens of context of each of the text's pieces")
    parser.add_argument("--skip", type=int, default=4096, help="first tokens of the text that are left out")
    parser.add_argument("--text", type=Path, help="a text file instead of Python's own documentation")
    parser.add_argument("--calibrate", type=Path, help="text for means and bases, in place of the built-in one")
    parser.add_argument("--no-centre", dest="centre", action="store_false")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=output, help="without ending")
    return parser


def text_ids(options: argparse.Namespace) -> list[int]:
    """The token ids of the text, with the one that follows it."""
    from tqc.eval.texts import prose

    text = options.text.read_text() if options.text else prose()
    return token_ids(options.onnx, text, options.skip + options.tokens + 1)[options.skip :]


class Model:
    """The exported model, measured over the calibration text once, and what its schemes and peers make of vectors."""

    def __init__(self, options: argparse.Namespace) -> None:
        from tqc.compiler import CompileOptions
        from tqc.compiler.choose import measure
        from tqc.compiler.manifest import check_context, model_settings
        from tqc.frontend import import_model

        self.options = CompileOptions(options.onnx, Path("unused"), calibrate=options.calibrate, centre=options.centre)
        self.imported = import_model(options.onnx)
        self.context = check_context(self.options, model_settings(options.onnx))
        self.means = measure(self.options, self.imported, self.context, moments=True)
        self.layers = {layer.layer: layer for layer in self.imported.layers}
        self.values = sum(2 * x.kv_heads * x.head_dim for x in self.imported.layers)

    def recode(self, point: str) -> Callable[[int, str, np.ndarray], np.ndarray]:
        """What a point gives back of vectors."""
        from tqc.compiler.basis import bases_of
        from tqc.compiler.choose import centred_layers, outputs_of
        from tqc.compiler.recode import make_recode
        from tqc.eval import peers

        if point in peers.NAMES:
            peer = peers.get(point)
            return lambda _layer, side, x: peer.keys(x) if side == "k" else peer.values(x)
        dims = {layer: x.head_dim for layer, x in self.layers.items()}
        centred = centred_layers(self.options, self.imported)
        bases = bases_of(self.schemes(point), dims, self.means.moments, centred, outputs_of(self.imported))
        return make_recode(self.schemes(point), {n: self.means.means[n] for n in centred}, bases)

    def schemes(self, point: str) -> dict[int, tuple[str, str]]:
        """The schemes of every layer."""
        from tqc.codec.scheme import parse
        from tqc.compiler.plan import check_plan, read_plan

        if not point.endswith(".json"):
            return dict.fromkeys(self.layers, parse(point))
        plan = read_plan(Path(point))
        check_plan(plan, self.layers)
        return plan.schemes()

    def bits_per_value(self, point: str) -> float:
        """Mean bits of a coded number, scales included."""
        from tqc.compiler.plan import bits_per_value
        from tqc.eval import peers

        if point not in peers.NAMES:
            return bits_per_value(self.schemes(point), self.layers)
        peer, total = peers.get(point), 0.0
        for x in self.layers.values():
            total += x.kv_heads * (peer.key_bytes(x.head_dim) + peer.value_bytes(x.head_dim))
        return 8 * total / self.values


def measure(exact, sessions, window, number: int) -> dict[str, dict]:
    """Sums over one window, all formats beside the exact cache."""
    from tqc.eval.fidelity import Tally
    from tqc.eval.forcing import teacher_forced

    fed, tallies = window[:-1], {name: Tally() for name in sessions}
    streams = {name: teacher_forced(session, fed, 64) for name, session in sessions.items()}
    done = 0
    for expected in teacher_forced(exact, fed, 64):
        following = np.asarray(window[done + 1 : done + 1 + len(expected)], np.int64)
        for name, stream in streams.items():
            tallies[name].add(expected, next(stream), following)
        done += len(expected)
        print(f"\rwindow {number}: {done}/{len(fed)} tokens", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {name: vars(tally) for name, tally in tallies.items()}


def about(options: argparse.Namespace) -> dict:
    keys = ("tokens", "window", "skip", "centre")
    names = {key: str(getattr(options, key) and getattr(options, key).name) for key in ("text", "calibrate")}
    return {key: getattr(options, key) for key in keys} | names


def load_sums(options: argparse.Namespace) -> dict[str, dict[str, dict]]:
    """Sums of windows that were measured before with the same arguments."""
    path = options.output.with_suffix(".json")
    if not path.exists():
        return {}
    found = json.loads(path.read_text())
    return found["sums"] if found.get("about") == about(options) else {}


def total(windows: dict[str, dict]) -> Fidelity | None:
    """The averages over the windows that were measured, None if there are none."""
    from tqc.eval.fidelity import Tally

    whole = Tally()
    for sums in windows.values():
        for key, value in sums.items():
            best = max if key in ("kl_max", "max_difference") else lambda a, b: a + b
            setattr(whole, key, best(getattr(whole, key), value))
    return whole.result("") if whole.tokens else None


def _save(options: argparse.Namespace, model: Model, done: dict[str, dict[str, dict]]) -> None:
    from tqc.eval import peers

    points, rows = [], []
    for name, windows in done.items():
        if (result := total(windows)) is None:
            continue
        bits = model.bits_per_value(name)
        points.append(
            {
                "name": Path(name).stem if name.endswith(".json") else name,
                "kind": "peer" if name in peers.NAMES else "ours",
                "bits_per_value": bits,
                "kl": result.kl,
                "agreement": result.agreement,
                "perplexity_change": result.perplexity_change,
            }
        )
    for point in sorted(points, key=lambda point: point["bits_per_value"]):
        p = SimpleNamespace(**point)
        size = f"{p.bits_per_value:.3f}"
        change = f"{100 * p.perplexity_change:+.2f} %"
        kind = "" if p.kind == "ours" else "peer"
        rows.append(
            [p.name, kind, size, f"{16 / p.bits_per_value:.2f}×", f"{p.kl:.6f}", f"{100 * p.agreement:.2f} %", change]
        )
    method = (
        f"{options.tokens} predictions in windows of {options.window} tokens, teacher-forced in chunks of 64; text: "
        f"{options.text.name if options.text else 'pydoc topics'} from token {options.skip} on. The model with a "
        "float cache whose pages pass through each format when they leave the exact window (4 sinks, 128 newest "
        f"tokens); means and bases measured over {model.means.tokens} tokens of another text. Bits count scales."
    )
    header = ["cache", "", "bits a number", "against fp16", "KL (nats)", "same next token", "perplexity"]
    data = {
        "model": options.onnx.parent.name,
        "values_per_token": model.values,
        "points": points,
        "about": about(options),
        "sums": done,
    }
    tables = table(header, rows)
    write(options.output, "Bits and fidelity of cache formats", method, data, tables)
    print(tables)


if __name__ == "__main__":
    main()
