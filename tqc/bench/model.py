"""`tqc bench model ARTIFACT`: a whole model beside its peers, over contexts and batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqc.eval.document import now

from .batch_run import BatchRun, Progress
from .document import Document
from .engines import Engine
from .machine import machine, versions
from .model_settings import Settings
from .results import ModelBench


def bench_model(
    engines: Sequence[Engine],
    settings: Settings,
    *,
    device: dict[str, Any],
    folder: Path | None = None,
    force: bool = False,
    command: str = "",
    progress: Progress = lambda step, fraction: None,
) -> Document[ModelBench]:
    """Times all cells that `folder` does not hold yet; `engines`: the artifact, then its peers.

    Raises TqcError for what cannot be measured at all. What a single engine cannot do at some batch is a fault in its
    place of the results, and the others go on.
    """
    contexts = settings.contexts_for(min((e.max_context for e in engines if e.max_context), default=None))
    prompt = min(settings.prompt, contexts[-1])
    chosen = {"new_tokens": settings.new_tokens, "repeats": settings.repeats, "prompt": prompt}
    fresh = ModelBench(
        created=now(),
        updated=now(),
        machine=machine() | {"device": device},
        versions=versions(),
        commands=(command,) if command else (),
        settings=chosen,
        engines=tuple(engine.model for engine in engines),
    )
    document = Document(folder, fresh, force=force)
    batches = sorted(set(settings.batches))
    for number, batch in enumerate(batches):

        def said(step: str, done: float, number: int = number, batch: int = batch) -> None:
            progress(f"batch {batch}: {step}", (number + done) / len(batches))

        run = BatchRun(engines, settings, batch, contexts, prompt, document, said)
        if run.missing:
            run.run()
    return document
