"""`tqc bench`: how quick decode steps are, beside full-precision engines timed in the same run."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import TqcError
from .bench_output import finish, print_document
from .output import progress

app = typer.Typer(help="Time decode steps beside full-precision engines.", no_args_is_help=True)

Numbers = Annotated[
    str | None, typer.Option(help="Tokens of each sequence, 2048,8192,…; by default those of the target.")
]
Threads = Annotated[int, typer.Option(help="Threads of every engine on the CPU; 0: one a core.")]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="A folder for results.json, results.csv, index.html; the same command goes on."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Begin the folder's results anew.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def attention(
    heads: Annotated[str, typer.Option(help="Layers: query heads x KV heads x head_dim, with commas.")] = "32x8x128",
    kv: Annotated[str, typer.Option(help="Schemes, as tqc compile --kv takes them, with commas.")] = "tq4,fp16",
    contexts: Numbers = None,
    batch: Annotated[str | None, typer.Option(help="Sequences, 1,8,…; by default 1, on cuda 1,8,32.")] = None,
    target: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Threads = 0,
    repeats: Annotated[int, typer.Option(help="Turns of every candidate.")] = 8,
    output: Folder = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Time decode attention of one layer: generated kernels, and torch, onnxruntime, FlashInfer on the same problem."""
    if target not in ("cpu", "cuda"):
        raise TqcError("unknown target", where="--target", expected="cpu or cuda", found=target)
    threads = _set_threads(threads)
    with progress() as said:
        said("loading", 0.0)
        from ..bench.attention import Settings, bench_attention
        from ..bench.gpu import find_gpu
        from ..bench.kernels import scheme_list
        from ..bench.machine import command
        from ..bench.problem import Geometry

        settings = Settings(
            geometries=[Geometry.parse(part) for part in _parts(heads)],
            contexts=_numbers("--contexts", contexts),
            batches=_numbers("--batch", batch),
            repeats=repeats,
        )
        schemes = scheme_list(kv)
        if target == "cuda":
            gpu = find_gpu()  # before anything is loaded that is slow or touches the driver
            from ..bench.cuda import CudaBench

            bench = CudaBench(schemes, gpu)
        else:
            from ..bench.cpu import CpuBench

            bench = CpuBench(schemes, threads)
        document = bench_attention(
            bench, settings, folder=output, force=force, command=command(["tqc", *sys.argv[1:]]), progress=said
        )
        finish(document, said)
    print_document(document, json)


@app.command()
def model(
    artifact: Annotated[Path, typer.Argument(help="The artifact's directory.")],
    onnx: Annotated[Path | None, typer.Option(help="The ONNX model, run by onnxruntime on the CPU.")] = None,
    reference: Annotated[
        list[Path] | None,
        typer.Option(help="An artifact to compare with, of the same model with --kv fp16 or fp32; repeatable."),
    ] = None,
    contexts: Numbers = None,
    batch: Annotated[str, typer.Option(help="Sequences at once, 1,8,…")] = "1",
    new_tokens: Annotated[int, typer.Option(help="Counted steps in a turn.")] = 16,
    repeats: Annotated[int, typer.Option(help="Turns of every engine at each context.")] = 5,
    prompt: Annotated[int, typer.Option(help="Tokens of the prompts that are timed.")] = 512,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Threads = 0,
    output: Folder = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Time a whole model: latency of a step over context and batch, its slope, prompts, and where it breaks even."""
    threads = _set_threads(threads)
    with progress() as said:
        said("loading", 0.0)
        from ..bench.engines import open_engines
        from ..bench.gpu import find_gpu
        from ..bench.machine import command
        from ..bench.model import bench_model
        from ..bench.model_settings import Settings

        settings = Settings(
            contexts=_numbers("--contexts", contexts),
            batches=_numbers("--batch", batch),
            new_tokens=new_tokens,
            repeats=repeats,
            prompt=prompt,
        )
        about = find_gpu().about() if device.startswith("cuda") else {"threads": threads}
        engines = open_engines(artifact, reference or (), onnx, device=device, threads=threads)
        document = bench_model(
            engines,
            settings,
            device=about,
            folder=output,
            force=force,
            command=command(["tqc", *sys.argv[1:]]),
            progress=said,
        )
        finish(document, said)
    print_document(document, json)


@app.command()
def page(folder: Annotated[Path, typer.Argument(help="A folder that tqc bench -o wrote.")]) -> None:
    """Write the page and the CSV of a folder anew, from its results.json."""
    from ..bench.document import RESULTS
    from ..bench.page import render
    from ..bench.results import read_results
    from ..bench.sheet import csv_text
    from ..files import replace_file

    results = read_results(folder / RESULTS)
    replace_file(folder / "results.csv", csv_text(results).encode())
    replace_file(folder / "index.html", render(results).encode())
    typer.echo(f"{folder / 'index.html'}")


def _set_threads(count: int) -> int:
    """The number of threads, told to TVM's pool before it is loaded. Raises TqcError for a negative one."""
    if count < 0:
        raise TqcError("an option is out of range", where="--threads", expected="0 or more", found=str(count))
    from ..runtime.threads import VARIABLE, default_threads

    count = count or int(os.environ.get(VARIABLE, 0)) or default_threads()
    os.environ[VARIABLE] = str(count)
    return count


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(option: str, text: str | None) -> tuple[int, ...]:
    """The numbers of a list with commas, `8k` for 8192; none if there is no list. Raises TqcError for anything else."""
    if text is None:
        return ()
    found = [re.fullmatch(r"(\d+)([kK]?)", part) for part in _parts(text)]
    if not found or not all(found):
        raise TqcError(
            "this is no list of numbers", where=option, expected="numbers with commas between, 2048 or 2k", found=text
        )
    return tuple(int(match[1]) * (1024 if match[2] else 1) for match in found)
