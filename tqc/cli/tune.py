"""`tqc tune`: measures the configurations of kernels, into a log that `tqc compile` chooses from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ..errors import TqcError
from .output import console, plain, print_json, progress, status

if TYPE_CHECKING:
    from ..records.record import Record
    from ..tune.measurer import Subject

CONTEXTS = {"cpu": "2048,8192,32768", "cuda": "2048,8192,32768,131072"}


def tune(
    what: Annotated[str, typer.Argument(metavar="MODEL.onnx|KERNEL", help="A model, or decode or prefill.")],
    target: Annotated[str, typer.Option(help="cpu, cuda or a TVM target.")] = "cuda",
    arch: Annotated[str | None, typer.Option(help="One architecture; that of this machine by default.")] = None,
    heads: Annotated[
        str, typer.Option(help="Of a kernel: query heads:KV heads:head_dim, comma-separated.")
    ] = "32:8:128",
    kv: Annotated[str, typer.Option(help="Cache schemes, comma-separated.")] = "tq4",
    contexts: Annotated[str | None, typer.Option(help="Tokens in the cache, comma-separated.")] = None,
    batch: Annotated[int, typer.Option(help="Sequences.")] = 1,
    chunk: Annotated[int, typer.Option(help="New tokens of prefill.")] = 512,
    trials: Annotated[int | None, typer.Option(help="Configurations of a kernel to try; by default all.")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="For all kernels together: begin no further configurations after that.")
    ] = None,
    logs: Annotated[Path, typer.Option(help="The folder with a log for each device.")] = Path("tune_logs"),
    jobs: Annotated[int | None, typer.Option(help="Processes that compile; by default one a core.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Build, check and time the configurations of kernels; what is in the log already is not measured again."""
    with status("loading the compiler"):
        from ..bench.kernels import scheme_list
        from ..bench.problem import Geometry
        from ..records.log import TuneLog, log_path
        from ..records.record import Cell
        from ..tune import machines, subjects
        from ..tune.tuner import Limits
        from ..tune.tuner import tune as run
    limits = Limits(trials, minutes)
    measurer = machines.machine_for(target, arch, jobs)
    lengths = _numbers("--contexts", contexts or CONTEXTS[measurer.target.kind])
    schemes = scheme_list(kv)
    if what.endswith(".onnx"):
        with status(f"reading {Path(what).name}"):
            asked = subjects.of_model(Path(what), schemes, measurer.target)
    else:
        asked = subjects.of_kernel(what, [Geometry.parse(text) for text in heads.split(",")], schemes, measurer.target)
    subjects.check_all(asked)
    with TuneLog(log_path(logs, measurer.device)) as log, progress() as said:
        cut = log.torn
        for number, subject in enumerate(asked):
            cells = [
                Cell(
                    device=measurer.device, batch=batch, context=n, tokens=chunk if subject.schedule == "prefill" else 1
                )
                for n in lengths
            ]
            part = lambda text, share, n=number: said(text, (n + share) / len(asked))  # noqa: E731
            run(subject, cells, measurer, log, limits.share(len(asked) - number), part)
        said("done", 1.0)
    if cut:
        typer.echo(f"{log.path.name}: the last line was cut off, and does not count.", err=True)
    found = [(subject, [r for r in log.records if r.kernel == subject.kernel]) for subject in asked]
    if json:
        print_json({"log": str(log.path), "kernels": [_as_json(*pair) for pair in found]})
        return
    for subject, records in found:
        _print(subject, records)
    typer.echo(f"{log.path}: {len(log.records)} records")


def _as_json(subject: Subject, records: list[Record]) -> dict:
    from ..records.choose import best

    chosen = best(records, subject.kernel)
    return {
        "kernel": subject.kernel.model_dump(),
        "records": len(records),
        "faults": sum(bool(record.fault) for record in records),
        "best": None if isinstance(chosen, str) else {"config": chosen.config, "relative": chosen.relative},
        "said": str(chosen),
    }


def _print(subject: Subject, records: list[Record]) -> None:
    """The five fastest of each cell, and what compiling would choose."""
    from ..records.choose import best

    table = Table(
        "context", "ms", "default's", "error", "differs from the default in", title=str(subject), title_justify="left"
    )
    for cell in sorted({record.cell for record in records}, key=lambda cell: (cell.batch, cell.context)):
        timed = [record for record in records if record.cell == cell and record.relative is not None]
        for record in sorted(timed, key=lambda record: record.relative)[:5]:
            config = _differences(subject, record.config)
            ratio = f"× {record.relative:.3f}"
            table.add_row(*plain(cell.context, f"{record.seconds * 1e3:.4f}", ratio, f"{record.error:.1e}", config))
    out = console()
    out.print(table)
    faults = [record for record in records if record.fault]
    if faults:
        out.print(f"{len(faults)} with a fault, such as: {faults[0].fault}", markup=False)
    chosen = best(records, subject.kernel)
    if isinstance(chosen, str):
        out.print(f"compiling takes the default, {chosen}", markup=False)
    else:
        out.print(f"compiling takes {_differences(subject, chosen.config)}: {chosen}", markup=False)


def _differences(subject: Subject, config: dict) -> str:
    """What is not as in the default configuration."""
    from dataclasses import asdict

    from ..compiler.configurations import default_of

    default = asdict(default_of(subject.target, subject.schedule, subject.layout))
    return " ".join(f"{name}={value}" for name, value in config.items() if default.get(name) != value) or "–"


def _numbers(option: str, text: str) -> list[int]:
    """Raises TqcError for anything else than numbers of 1 or more."""
    try:
        found = [int(word) for word in text.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1:
        raise TqcError(f"{option} is not understood", expected="numbers of 1 or more with commas", found=text)
    return sorted(set(found))
