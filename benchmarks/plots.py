"""Writes the figures of the documentation from benchmarks/results: docs/pareto.svg and docs/needle.svg.

    python benchmarks/plots.py [--check]

Plain SVG without scripts, the same bytes for the same results. `--check` only compares. Results that are not there
leave their figure alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from tqc.eval.drawing import needle_svg, pareto_svg
from tqc.eval.needles import read_needles
from tqc.eval.points import read_points

BENCHMARKS = Path(__file__).parent
RESULTS, DOCS = BENCHMARKS / "results", BENCHMARKS.parent / "docs"
FIGURES: dict[str, Callable[[Path], str]] = {
    "pareto": lambda path: pareto_svg(read_points(path)),
    "needle": lambda path: needle_svg(read_needles(path)),
}


def draw(results: Path) -> dict[str, str]:
    """Name of a figure → its SVG, for all whose results are in the folder."""
    found = {name: results / f"{name}.json" for name in FIGURES}
    return {name: FIGURES[name](path) for name, path in found.items() if path.is_file()}


def main(arguments: list[str], results: Path = RESULTS, docs: Path = DOCS) -> int:
    status = 0
    for name, svg in draw(results).items():
        path = docs / f"{name}.svg"
        if "--check" not in arguments:
            path.write_text(svg, encoding="utf-8")
            print(path.name)
        elif not path.is_file() or path.read_text(encoding="utf-8") != svg:
            print(f"{path.name} is not what {name}.json gives: run python benchmarks/plots.py", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
