"""What each decision of the cache's coding is worth: one thing changed at a time, whole model, as in `pareto.py`.

    python benchmarks/ablations.py --onnx demo/smollm2/model.onnx [--tokens 4096] [--window 2048] [ROW …]

A ROW is a name of `variations.py`, by default all. Finished windows are kept in the output and not measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from engines import limit_threads
from pareto import BATCH, ExactModel, Model, about, batched, load_sums, make_parser, measure, text_ids, total
from report import RESULTS, table, write
from sources import Sources
from variations import VARIATIONS, Variation, make_recode

BY_NAME = {variation.name: variation for variation in VARIATIONS}


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__, RESULTS / "ablations")
    parser.add_argument("rows", nargs="*", metavar="ROW", default=list(BY_NAME))
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.rows if name not in BY_NAME]:
        parser.error(f"unknown rows: {', '.join(unknown)}; there are: {', '.join(BY_NAME)}")
    limit_threads(options.threads)

    from tqc.eval.windows import windows

    ids, model, done = text_ids(options), Model(options), load_sums(options)
    with ExactModel(options) as exact:
        sources = Sources(options, model, exact.session(), _generated(options) if done else "")
        for number, window in enumerate(windows(ids, options.window)):
            waiting = [name for name in options.rows if str(number) not in done.setdefault(name, {})]
            for names in batched(waiting, BATCH):
                sessions = {name: _session(BY_NAME[name], exact.session(), model, sources) for name in names}
                for name, tally in measure(exact.session(), sessions, window, number).items():
                    done[name][str(number)] = tally
                _save(options, model, sources, done)
        _save(options, model, sources, done)


def _session(row: Variation, exact: Any, model: Model, sources: Sources) -> Any:
    from tqc.eval.recoded_session import RecodedSession

    return RecodedSession(exact, make_recode(row, model, sources), sinks=row.sinks, recent=row.recent)


def _generated(options: argparse.Namespace) -> str:
    """The model's own text of the run whose sums go on."""
    return json.loads(options.output.with_suffix(".json").read_text())["generated"]


def results(done: dict[str, dict[str, dict]], layers: dict[int, Any]) -> list[dict[str, Any]]:
    """Numbers of the rows that were measured, in the order of the tables; `ratio`: the KL by that of the base.

    The ratio compares the same windows, and is None where the base lacks one of them or lost nothing.
    """
    found = []
    for row in VARIATIONS:
        if not (windows := done.get(row.name)):
            continue
        result, base_windows = total(windows), done.get(row.base, {})
        base = (
            total({number: base_windows[number] for number in windows})
            if windows.keys() <= base_windows.keys()
            else None
        )
        found.append(
            {
                "topic": row.topic,
                "name": row.name,
                "base": row.base,
                "bits_per_value": row.bits_per_value(layers),
                "tokens": result.tokens,
                "kl": result.kl,
                "agreement": result.agreement,
                "perplexity_change": result.perplexity_change,
                "ratio": result.kl / base.kl if base and base.kl else None,
            }
        )
    return found


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """One table a topic, each with the base rows that it lacks in front."""
    by_name, parts = {row["name"]: row for row in rows}, []
    for topic, group in groupby(rows, key=lambda row: row["topic"]):
        own = list(group)
        names = {row["name"] for row in own}
        bases = dict.fromkeys(row["base"] for row in own if row["base"] in by_name and row["base"] not in names)
        header = [topic, "bits a number", "KL (nats)", "by its base's", "same next token", "perplexity"]
        parts.append(table(header, [_cells(row) for row in [*(by_name[name] for name in bases), *own]]))
    return "\n".join(parts)


def _cells(row: dict[str, Any]) -> list[str]:
    if row["name"] == row["base"]:
        ratio = "base"
    else:
        ratio = f"{row['ratio']:.2f}× {row['base']}" if row["ratio"] is not None else ""
    change = f"{100 * row['perplexity_change']:+.2f} %"
    agreement = f"{100 * row['agreement']:.2f} %"
    return [row["name"], f"{row['bits_per_value']:.3f}", f"{row['kl']:.6f}", ratio, agreement, change]


def _save(options: argparse.Namespace, model: Model, sources: Sources, done: dict[str, dict[str, dict]]) -> None:
    rows = results(done, model.layers)
    counted = sorted({row["tokens"] for row in rows})
    method = (
        f"{' to '.join(map(str, counted[:: max(1, len(counted) - 1)]))} predictions a row, in windows of "
        f"{options.window} tokens, teacher-forced in chunks of 64; text: "
        f"{options.text.name if options.text else 'pydoc topics'} from token {options.skip} on. The model with a "
        "float cache whose pages pass through each format when they leave the exact window. What a row does not say is "
        "as in tq3, the first: rotation of one round with seed 0, the unbiased scalar, 4 sinks and 128 newest tokens "
        "exact, keys centred by their mean before RoPE over "
        f"{model.means.tokens} tokens of the built-in text, averaged over positions. Bands of "
        "one side leave the other tq3. No window: every token is coded at once, but a chunk sees its own 64 tokens "
        "exactly. Bits count scales, not the exact tokens. The seeds of the rotation show how much is noise."
    )
    data = {
        "model": options.onnx.parent.name,
        "rows": rows,
        "about": about(options),
        "sums": done,
        "generated": sources.generated if done.get("mean of the model's own text") else "",
    }
    made = tables(rows)
    write(options.output, "Decisions of the cache's coding", method, data, made)
    print(made, flush=True)


if __name__ == "__main__":
    main()
