"""What an attention mask means, from its values: causal, or causal within a window; everything else is refused."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .graph import Graph
from .probe import Observed, Probe
from .setting import Setting

FORBIDDEN = -1e4
"""A score this low or lower never counts; exporters use -inf, -3.4e38 or -65504."""

_NO_LIMIT = 1 << 31
_LONGEST = 1 << 16
_ROWS = 256


def forbids(values: np.ndarray, factor: float) -> np.ndarray:
    """Which scores never count, if they are multiplied by `factor` before the softmax."""
    with np.errstate(over="ignore", invalid="ignore"):
        return (values <= FORBIDDEN) & (values * np.float64(factor) <= FORBIDDEN / 10)


class UnknownMask(ValueError):
    """The mask is neither causal nor a causal window."""


@dataclass(frozen=True)
class Visible:
    """Which key a query sees, [batch, seq, total]."""

    setting: Setting
    allowed: np.ndarray

    def agrees(self, window: int) -> bool:
        """Whether the queries that are not padding see what a window (0: none) shows, padded keys hidden or not.

        A graph may leave the padding to its caller: without padding, which is how we run it, that is the same.
        """
        i = self.setting.past + np.arange(self.setting.seq)[:, None]
        j = np.arange(self.setting.total)[None]
        shown = np.broadcast_to((j <= i) & (j > i - window) if window else j <= i, self.allowed.shape)
        keys = self.setting.mask() > 0
        real = keys[:, self.setting.past :]
        hidden = shown & keys[:, None]
        return any(np.array_equal(self.allowed[real], expected[real]) for expected in (hidden, shown))


def settings(graph: Graph, masks: set[str]) -> tuple[Setting, ...]:
    """Sizes that show padding and every window whose width is written in the masks' own constants.

    Raises UnknownMask if such a constant is too large to be tried.
    """
    limit = 0
    for array in _numbers(graph, graph.ancestors(masks, values_only=True)):
        if array.size == 1 and array.dtype.kind in "iuf":
            size = abs(float(array.reshape(())))
            limit = max(limit, int(size)) if size < _NO_LIMIT else limit
    if limit > _LONGEST:
        raise UnknownMask(f"it depends on {limit} tokens of context, more than can be tried")
    long = max(96, 2 * limit)
    usual = (Setting(1, 7, 40), Setting(1, 64, 0), Setting(2, 5, 9, padding=3))
    return (*usual, Setting(1, 3, long), Setting(1, 1, long), *_whole_tables(graph, masks))


def _numbers(graph: Graph, names: set[str]) -> list[np.ndarray]:
    """The constants among tensors, and what is computed from constants alone."""
    fixed, computed = set(graph.constants), set()
    for node in graph.nodes:
        if node.outputs[0] in names and node.inputs and fixed.issuperset(filter(None, node.inputs)):
            fixed.update(node.outputs)
            computed.update(filter(None, node.outputs))
    values = Probe(graph, computed).run(Setting(1, 3, 5)).values
    return [graph.constants[name] for name in names if name in graph.constants] + list(values.values())


def _whole_tables(graph: Graph, masks: set[str]) -> list[Setting]:
    """Sizes that show the last rows of a stored mask [..., queries, keys], whose window is written nowhere else."""
    arrays = (graph.constants.get(name) for name in graph.ancestors(masks, values_only=True))
    extents = {min(a.shape[-2:]) for a in arrays if a is not None and a.ndim > 1 and min(a.shape[-2:]) > 1}
    return [Setting(1, min(n, _ROWS), n - min(n, _ROWS)) for n in sorted(extents)]


def _visible(masks: tuple[str, ...], seen: Observed, factor: float) -> Visible:
    setting = seen.setting
    allowed = np.ones((setting.batch, 1, setting.seq, setting.total), bool)
    for name in masks:
        values = seen.values[name]
        if values.dtype != bool:
            if not ((values == 0) | forbids(values, factor)).all():
                raise UnknownMask("it adds values other than 0 and minus infinity")
            values = values == 0
        if values.ndim == 4 and (values == values[:, :1]).all():
            values = values[:, :1]
        try:
            allowed = allowed & values
        except ValueError:
            raise UnknownMask(f"its shape is {list(values.shape)}") from None
        if allowed.shape != (setting.batch, 1, setting.seq, setting.total):
            raise UnknownMask(f"its shape is {list(values.shape)}")
    return Visible(setting, allowed[:, 0])


def classify(masks: tuple[str, ...], observed: tuple[Observed, ...], factor: float = 1.0) -> int:
    """The window width, 0 for a plain causal mask. What masks add is multiplied by `factor`. Raises UnknownMask."""
    if not masks:
        raise UnknownMask("there is none: every query sees every key")
    seen = [_visible(masks, entry, factor) for entry in observed]
    if all(entry.agrees(0) for entry in seen):
        return 0
    window = max(int(entry.allowed.sum(axis=2).max()) for entry in seen)
    if not all(entry.agrees(window) for entry in seen):
        raise UnknownMask("it is neither causal nor a causal sliding window")
    return window
