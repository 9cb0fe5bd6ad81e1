from __future__ import annotations

import numpy as np
import pytest

from tqc.frontend.build import build
from tqc.frontend.dependence import dependences
from tqc.frontend.facts import SETTINGS, observe
from tqc.frontend.interface import bind
from tqc.frontend.load import load


@pytest.fixture
def facts(decoder, tmp_path):
    model = decoder()
    model.add("Shape", ["q"], "q_shape")
    model.add("Gather", ["q_shape", model.int(3)], "q_dim", axis=0)
    model.add("Cast", ["q_dim"], "q_dim_float", to=1)
    model.nodes[-4].output[0] = "plain"
    model.add("Mul", ["plain", "q_dim_float"], "scaled")
    model.add("Gather", ["q_shape", model.int(2)], "q_seq", axis=0)
    model.add("Cast", ["q_seq"], "q_seq_float", to=1)
    model.add("Div", ["scaled", "q_seq_float"], "logits")
    graph = build(load(model.save(tmp_path)))
    return observe(graph, dependences(graph, bind(graph)), set())


def test_values_that_never_change_are_known(facts):
    assert facts.scalar("q_dim_float") == 16
    assert facts.scalar("scale") == pytest.approx(0.3)


def test_values_that_follow_sizes_or_data_are_not(facts):
    assert facts.value("q_seq_float") is None
    assert [seen.values["q_seq_float"] for seen in facts.observed] == [s.seq for s in SETTINGS]
    assert facts.value("plain") is None
    assert facts.value("w_q") is None


def test_more_than_one_element_is_no_scalar(facts):
    np.testing.assert_array_equal(facts.value("ints_0_0_4_16"), [0, 0, 4, 16])
    assert facts.scalar("ints_0_0_4_16") is None


def test_shapes_of_reshaped_tensors_are_known(facts):
    assert facts.shapes("flat") == [(s.batch, s.seq, 64) for s in SETTINGS]
    assert facts.shapes("residual") is None
