"""What can be understood of a model that is refused: each layer by itself, as far as it goes.

The frontend stops at the first thing it does not understand. Here the same steps are taken layer by layer, so that a
report can tell which layers are fine and which node of the others is in the way. Nothing is compiled from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tqc.errors import FrontendError

from .attention import Match, attempts, products
from .build import build
from .canonical import LayerInfo, layer_info, windows_of
from .dependence import dependences
from .expand import expand
from .facts import Facts, observe
from .graph import Graph
from .interface import Interface, bind
from .load import LoadedModel
from .rope_form import rope_form
from .rotary import angle_tensors, fuse_rotary


@dataclass(frozen=True)
class Recognised:
    """`layers` that are understood, numbers of those that are not, and for these the node and the reason each."""

    layers: tuple[LayerInfo, ...] = ()
    missing: tuple[int, ...] = ()
    reasons: tuple[str, ...] = ()


def recognise(model: LoadedModel) -> Recognised:
    """As much as can be said of every layer of a model, in whatever way it is broken."""
    reasons: list[str] = []
    layers: dict[int, LayerInfo] = {}
    count = 0
    with _stopping(reasons):
        graph = build(model)
        refused: list[FrontendError] = []
        expand(graph, refused)
        reasons.extend(map(_reason, refused))
        interface = bind(graph)
        count = len(interface.layers)
        layers = _layers(graph, interface, reasons)
    missing = tuple(layer for layer in range(count) if layer not in layers)
    return Recognised(tuple(layers[layer] for layer in sorted(layers)), missing, tuple(dict.fromkeys(reasons)))


def _layers(graph: Graph, interface: Interface, reasons: list[str]) -> dict[int, LayerInfo]:
    sources = dependences(graph, interface)
    facts = observe(graph, sources, products(graph) | angle_tensors(graph, sources))
    matches, failures = attempts(facts, interface)
    reasons.extend(failures)
    layers = dict(_with_windows(facts, interface, matches, reasons))
    # The rotations are fused last: what the masks were probed for must not have changed.
    fuse_rotary(facts)
    return {layer: replace(info, rope=rope_form(graph, matches[layer].q)) for layer, info in layers.items()}


def _with_windows(
    facts: Facts, interface: Interface, matches: dict[int, Match], reasons: list[str]
) -> Iterator[tuple[int, LayerInfo]]:
    """The layers whose masks are understood: all in one probe where they are, else each by itself."""
    together: list[str] = []
    with _stopping(together):
        windows = windows_of(facts, list(matches.values())) if matches else []
        for match, window in zip(matches.values(), windows, strict=True):
            yield match.layer, layer_info(interface, match, window)
    if not together:
        return
    for match in matches.values():
        with _stopping(reasons):
            yield match.layer, layer_info(interface, match, windows_of(facts, [match])[0])


@contextmanager
def _stopping(reasons: list[str]) -> Iterator[None]:
    try:
        yield
    except FrontendError as error:
        reasons.append(_reason(error))
    except Exception as error:
        # A model that is refused may be broken in any way; that it is was said before.
        reasons.append(f"{type(error).__name__}: {error}")


def _reason(error: FrontendError) -> str:
    """One line: the node first, then what is wrong with it."""
    what = f"{error.what.rstrip('.')} ({error.found})" if error.found else error.what.rstrip(".")
    return f"{error.where}: {what}" if error.where else what
