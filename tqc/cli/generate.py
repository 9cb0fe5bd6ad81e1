"""`tqc generate`: text from an artifact, alone or beside another one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from .output import console, print_json, size, status


def generate(
    artifact: Annotated[Path, typer.Argument(help="The artifact's directory.")],
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="The text to continue.")],
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", help="Tokens to generate, at most.")] = 64,
    temperature: Annotated[
        float | None, typer.Option(help="0, as it is by default, takes the most probable token.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k most probable tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the tokens that make up this probability.")] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Draw tokens the way the model's own settings say.")] = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt into the model's chat template.")] = False,
    compare: Annotated[Path | None, typer.Option(help="Another artifact to run beside it.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    compare_device: Annotated[
        str | None, typer.Option(help="The device of the artifact to compare with; that of the first by default.")
    ] = None,
    max_context: Annotated[
        int | None, typer.Option(help="Reserve the cache for fewer tokens than compiled for.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Generate text and report speed and memory."""
    from dataclasses import astuple

    from ..artifact.settings import Search
    from .generation import Request, agreement, open_model, run

    models = []
    places = [(artifact, device)] + ([] if compare is None else [(compare, compare_device or device)])
    for path, place in places:
        with status(f"loading {path.name}"):
            models.append(open_model(path, place, max_context))
    search = models[0].search() if sample else Search()
    search = Search(*(b if a is None else a for a, b in zip((temperature, top_k, top_p), astuple(search), strict=True)))
    request = Request(prompt, max_new_tokens, search.temperature, search.top_k, search.top_p, seed, chat)
    runs = []
    for model in models:
        if not json and compare is not None:
            console().print(model.session.path.name, style="bold", markup=False)
        runs.append(run(model, request, say=None if json else _say))
    same = None
    if compare is not None:
        with status("comparing"):
            same = agreement(models[1], request, runs[0].tokens, runs[1].tokens)
    if json:
        print_json({"runs": [result.as_json() for result in runs], "agreement": same and same.as_json()})
        return
    console().print(_table(runs))
    if same is not None:
        console().print(same.text(), markup=False)


def _say(text: str) -> None:
    typer.echo(text, nl=False)


def _table(runs) -> Table:
    table = Table("", *(escape(result.name) for result in runs))
    rows = {
        "prompt": lambda r: f"{r.prompt_tokens} tokens in {r.prefill_seconds:.3f} s",
        "generated": lambda r: f"{len(r.tokens)} tokens",
        "decode": lambda r: "–" if r.tokens_per_second is None else f"{r.tokens_per_second:.1f} tokens/s",
        "KV cache, pages": lambda r: f"{size(r.kv.pages)} for {r.kv.coded_tokens} tokens",
        "KV cache, exact": lambda r: f"{size(r.kv.sinks + r.kv.tail)} for sinks and newest tokens",
        "the same in fp16": lambda r: size(r.kv.fp16),
        "a page against fp16": lambda r: f"{r.kv.page_compression:.2f}× smaller",
        "at full context": lambda r: f"{r.full_compression:.2f}× smaller",
    }
    for name, cell in rows.items():
        table.add_row(name, *(cell(result) for result in runs))
    return table
