"""Writes the tables of benchmarks/results into the README, between its two markers; `--check` only compares.

python benchmarks/readme.py [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parent
README = BENCHMARKS.parent / "README.md"
SHOWN = (
    *("fidelity", "pareto", "biased", "needle", "whole_model", "decode_attention", "matmul_nbits"),
    *("compile_time", "large_model", "import_time"),
)
LEFT_OUT = ("| numpy |", " append |")
"""Rows of the tables that only the results show."""
BEGIN = "<!-- measured: written by benchmarks/readme.py from benchmarks/results -->\n"
END = "<!-- end of measured -->\n"


def measured(results: Path) -> str:
    """The section: for every result its title, machine and tables, without versions and method."""
    parts = []
    for name in SHOWN:
        title, place, _versions, _method, *tables = (results / f"{name}.md").read_text(encoding="utf-8").split("\n\n")
        tables = ["\n".join(r for r in t.splitlines() if not any(mark in r for mark in LEFT_OUT)) for t in tables]
        source = f"[method and versions](benchmarks/results/{name}.md), [raw data](benchmarks/results/{name}.json)"
        parts.append("\n\n".join([f"**{title.removeprefix('# ')}** ({place.rstrip('.')}; {source})", *tables]).rstrip())
    return "\n" + "\n\n".join(parts) + "\n\n"


def with_section(readme: str, section: str) -> str:
    """The README with the section between the markers. Raises ValueError if a marker is missing."""
    before, found_begin, rest = readme.partition(BEGIN)
    _, found_end, after = rest.partition(END)
    if not found_begin or not found_end:
        raise ValueError(f"{README.name} lacks the markers {BEGIN.strip()} and {END.strip()}")
    return before + BEGIN + section + END + after


def main(arguments: list[str]) -> int:
    old = README.read_text(encoding="utf-8")
    new = with_section(old, measured(BENCHMARKS / "results"))
    if "--check" in arguments:
        return int(old != new)
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
