"""Lines through a whole model's latencies over the context, and where the artifact becomes quicker than a peer."""

from __future__ import annotations

from .fit import break_even, fit
from .results import Crossing, EngineLine, ModelBench


def summarised(results: ModelBench) -> ModelBench:
    """The results with `lines` and `crossings` computed anew from all cells."""
    lines = tuple(
        line
        for batch in sorted({cell.batch for cell in results.decode})
        for engine in results.engines
        if (line := engine_line(results, engine.name, batch))
    )
    return results.model_copy(update={"lines": lines, "crossings": crossings(results, lines)})


def engine_line(results: ModelBench, engine: str, batch: int) -> EngineLine | None:
    """The lines of one engine; None with fewer than two contexts."""
    timings = [timing for cell in results.decode if cell.batch == batch and (timing := cell.of(engine))]
    found = {
        name: fit([(timing.tokens, getattr(timing, name)) for timing in timings]) for name in ("median", "minimum")
    }
    return EngineLine(engine=engine, batch=batch, **found) if all(found.values()) else None


def crossings(results: ModelBench, lines: tuple[EngineLine, ...]) -> tuple[Crossing, ...]:
    """The artifact's line against that of each peer at the same batch."""
    own, made = results.engines[0].name, []
    ours = {line.batch: line for line in lines if line.engine == own}
    for line in lines:
        if line.engine != own and line.batch in ours:
            tokens = [t.tokens for c in results.decode if c.batch == line.batch for t in c.timings if t.tokens]
            measured = (min(tokens), max(tokens))
            found = {
                name: break_even(getattr(ours[line.batch], name), getattr(line, name), measured)
                for name in ("median", "minimum")
            }
            made.append(Crossing(peer=line.engine, batch=line.batch, **found))
    return tuple(made)
