"""Writes the tables of benchmarks/results into the README, between its two markers; `--check` only compares.

python benchmarks/readme.py [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path

import report

BENCHMARKS = Path(__file__).parent
README = BENCHMARKS.parent / "README.md"
SHOWN = (
    *("fidelity", "pareto", "biased", "needle", "bench_model", "bench_attention", "matmul_nbits"),
    *("compile_time", "large_model", "import_time"),
)
FOLDERS = {
    "bench_model": "Whole-model speed on the CPU",
    "bench_attention": "Decode attention of one layer on the CPU",
}
"""Titles of what `tqc bench` wrote."""
LEFT_OUT = ("Appending a token", "Time of a step over the context", "Quicker than a peer")
"""Tables of `tqc bench` that only the results show."""
SHORT = {"needle": 2}
"""Paragraphs that are shown of results with many tables."""
BEGIN = "<!-- measured: written by benchmarks/readme.py from benchmarks/results -->\n"
END = "<!-- end of measured -->\n"


def measured(results: Path) -> str:
    """The section: for every result its title, machine and tables, without versions and method."""
    parts = [_folder(results, name) if name in FOLDERS else _file(results, name) for name in SHOWN]
    return "\n" + "\n\n".join(parts) + "\n\n"


def _file(results: Path, name: str) -> str:
    """What `report.write` wrote."""
    title, place, _versions, _method, *tables = (results / f"{name}.md").read_text(encoding="utf-8").split("\n\n")
    source = f"[method and versions](benchmarks/results/{name}.md), [raw data](benchmarks/results/{name}.json)"
    head = f"**{title.removeprefix('# ')}** ({place.rstrip('.')}; {source})"
    return "\n\n".join([head, *tables[: SHORT.get(name)]]).rstrip()


def _folder(results: Path, name: str) -> str:
    """What `tqc bench` wrote."""
    from tqc.bench.results import read_results
    from tqc.bench.tables import tables

    found = read_results(results / name / "results.json")
    host = found.machine
    loads = [load for cell in found.cells for load in cell.load if load is not None]
    date = found.updated[:16].replace("T", " ")
    place = f"{host['processor']}, {host['cores']} cores, {' '.join(host['simd'])}; {date} UTC"
    source = f"[method](docs/bench.md), [raw data](benchmarks/results/{name}/results.json)"
    parts = [f"**{FOLDERS[name]}** ({place}, load {min(loads):.1f} to {max(loads):.1f}; {source})"]
    for shown in tables(found):
        if not shown.title.startswith(LEFT_OUT):
            parts += [shown.title, report.table(shown.header, shown.rows).rstrip()]
    return "\n\n".join(parts)


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
