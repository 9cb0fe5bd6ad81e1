from __future__ import annotations

import pytest

from tqc.errors import FrontendError
from tqc.frontend.build import build
from tqc.frontend.canonical import canonicalise
from tqc.frontend.folding import DIMS
from tqc.frontend.load import load
from tqc.frontend.operators import BUILDERS


def _canonical(model, tmp_path):
    return canonicalise(build(load(model.save(tmp_path))), BUILDERS).graph


def test_reshapes_carry_their_dimensions(decoder, tmp_path):
    graph = _canonical(decoder(), tmp_path)
    found = {node.outputs[0]: tuple(map(str, node.attrs[DIMS])) for node in graph.nodes if node.op == "Reshape"}
    assert found["q_split"] == ("batch", "seq", "4", "16")
    assert found["flat"] == ("batch", "seq", "64")
    assert all(len(node.inputs) == 1 for node in graph.nodes if node.op == "Reshape")


def test_size_arithmetic_vanishes(decoder, tmp_path):
    kinds = {node.op for node in _canonical(decoder(mask="window"), tmp_path).nodes}
    assert not kinds & {"Shape", "Range", "Gather_1", "Unsqueeze", "Where", "And", "Softmax", "Expand"}


def test_constant_size_arithmetic_becomes_a_constant(decoder, tmp_path):
    model = decoder()
    model.nodes[-1].output[0] = "raw_logits"
    model.add("Shape", ["q"], "q_shape")
    model.add("Gather", ["q_shape", model.int(3)], "q_dim", axis=0)
    model.add("Cast", ["q_dim"], "q_dim_float", to=1)
    model.add("Mul", ["raw_logits", "q_dim_float"], "logits")
    graph = _canonical(model, tmp_path)
    (factor,) = [t for t in graph.producer["logits"].inputs if t in graph.constants]
    assert graph.constants[factor] == 16


def test_expansion_to_a_symbolic_size(decoder, tmp_path):
    model = decoder()
    model.nodes[-1].output[0] = "raw_logits"
    model.add("Shape", ["raw_logits"], "sizes")
    model.add("ReduceMean", ["raw_logits"], "mean", axes=[2], keepdims=1)
    model.add("Expand", ["mean", "sizes"], "logits")
    graph = _canonical(model, tmp_path)
    assert tuple(map(str, graph.producer["logits"].attrs[DIMS])) == ("batch", "seq", "40")


def test_sizes_used_as_numbers_are_refused(decoder, tmp_path):
    model = decoder()
    model.nodes[-1].output[0] = "raw_logits"
    model.add("Cast", ["total_size"], "total_float", to=1)
    model.add("Mul", ["raw_logits", "total_float"], "logits")
    with pytest.raises(FrontendError) as caught:
        _canonical(model, tmp_path)
    assert "size arithmetic" in caught.value.what
    assert "node_logits" in caught.value.where


def test_positions_counted_by_the_graph_become_the_runtimes(decoder, tmp_path):
    model = decoder()
    model.nodes[-1].output[0] = "plain"
    model.add("CumSum", ["attention_mask", model.int(1)], "sums")
    model.add("Add", ["sums", model.int(1)], "shifted")
    model.add("Unsqueeze", ["past_size", model.ints(0)], "first_new")
    model.add("Slice", ["shifted", "first_new", model.ints(1 << 40), model.ints(1)], "from_mask")
    model.add("Gather", [model.weight("table", 128, model.vocab), "from_mask"], "row")
    model.add("Add", ["plain", "row"], "logits")
    graph = _canonical(model, tmp_path)
    added = graph.producer[graph.producer["row"].inputs[1]]
    assert added.inputs[0] == "position_ids"
    assert graph.constants[added.inputs[1]] == 2
    assert not graph.users["attention_mask"]
