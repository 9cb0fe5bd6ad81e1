"""What importing costs in the number of layers, counted and not timed: as many probes, nodes in proportion."""

from __future__ import annotations

from collections import Counter

import onnx
import pytest

from tqc.frontend import import_model, probe
from tqc.frontend.graph import Graph
from tqc.models.large import Geometry, write_large


@pytest.fixture
def cost(tmp_path, monkeypatch):
    """`cost(layers)` → sessions opened, nodes in them, times the graph is put in order, and nodes that were."""
    counts: Counter[str] = Counter()
    session, prune = probe.ort.InferenceSession, Graph.prune

    def counted_session(model, *arguments, **options):
        counts["sessions"] += 1
        counts["nodes in sessions"] += len(onnx.ModelProto.FromString(model).graph.node)
        return session(model, *arguments, **options)

    def counted_prune(graph):
        counts["prunes"] += 1
        counts["nodes pruned"] += len(graph.nodes)
        prune(graph)

    monkeypatch.setattr(probe.ort, "InferenceSession", counted_session)
    monkeypatch.setattr(Graph, "prune", counted_prune)

    def run(layers: int) -> Counter[str]:
        folder = tmp_path / str(layers)
        folder.mkdir()
        sizes = Geometry(hidden=32, layers=layers, heads=2, kv_heads=1, head_dim=16, intermediate=32, vocab=64)
        path = write_large(folder, sizes, random=False)
        counts.clear()
        assert len(import_model(path).layers) == layers
        return counts.copy()

    return run


def test_import_is_linear_in_the_layers(cost):
    two, four, eight = cost(2), cost(4), cost(8)
    for what in ("sessions", "prunes"):
        assert two[what] == four[what] == eight[what] > 0
    for what in ("nodes in sessions", "nodes pruned"):
        assert eight[what] - four[what] == 2 * (four[what] - two[what]) > 0
