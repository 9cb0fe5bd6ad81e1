from __future__ import annotations

import numpy as np
import pytest

from tqc.errors import FrontendError
from tqc.frontend.build import build
from tqc.frontend.claims import Claim, Claimed
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


def _observed(model, tmp_path, *tensors):
    graph = build(load(model.save(tmp_path)))
    return observe(graph, dependences(graph, bind(graph)), set(tensors))


def _with_positions(decoder, offset: int = 0):
    """The decoder with positions that it counts itself, from the sizes and from the attention mask."""
    model = decoder()
    model.nodes[-1].output[0] = "plain"
    model.add("Unsqueeze", ["queries_flat", model.ints(0)], "counted")
    model.add("Add", ["counted", model.int(offset)], "from_sizes")
    model.add("CumSum", ["attention_mask", model.int(1)], "sums")
    model.add("Sub", ["sums", model.int(1)], "all_positions")
    model.add("Unsqueeze", ["past_size", model.ints(0)], "first_new")
    model.add("Slice", ["all_positions", "first_new", model.ints(1 << 40), model.ints(1)], "from_mask")
    table = model.weight("table", 128, model.vocab)
    model.add("Gather", [table, "from_sizes"], "row_of_size")
    model.add("Gather", [table, "from_mask"], "row_of_mask")
    model.add("Add", ["plain", "row_of_size"], "one_more")
    model.add("Add", ["one_more", "row_of_mask"], "logits")
    return model


@pytest.mark.parametrize("offset", [0, 2])
def test_positions_are_known_however_they_are_counted(decoder, tmp_path, offset):
    facts = _observed(_with_positions(decoder, offset), tmp_path)
    assert facts.positions_from("from_sizes") == offset
    assert facts.positions_from("from_mask") == 0
    assert facts.positions_from("plain") is None
    assert facts.positions_from("first_new") is None


def test_what_changes_with_the_length_is_not_trusted(decoder, tmp_path):
    """Positions that stop at 100 and a factor that is another from 4096 tokens on look right at every size tried."""
    model = _with_positions(decoder)
    model.add("Min", ["from_sizes", model.int(100)], "stopped")
    model.add("Greater", ["total_size", model.int(4096)], "is_long")
    model.add("Where", ["is_long", model.constant("f", np.float32(2)), model.constant("g", np.float32(1))], "factor")
    model.nodes[-4].output[0] = "summed"
    model.add("Gather", ["table", "stopped"], "row_stopped")
    model.add("Add", ["summed", "row_stopped"], "summed_again")
    model.add("Mul", ["summed_again", "factor"], "logits")
    facts = _observed(model, tmp_path)
    assert facts.positions_from("stopped") is None
    assert facts.value("factor") is None
    assert facts.positions_from("from_sizes") == 0


def test_a_claim_that_does_not_hold_is_an_error(decoder, tmp_path):
    graph = build(load(_with_positions(decoder, 1).save(tmp_path)))
    sources = dependences(graph, bind(graph))
    graph.claims += [Claimed("from_mask", Claim.POSITIONS, "Op good")]
    observe(graph, sources, set())
    graph.claims += [Claimed("from_sizes", Claim.POSITIONS, "Op bad")]
    with pytest.raises(FrontendError, match="Op bad, operand from_sizes"):
        observe(graph, sources, set())


def test_a_claim_that_only_short_sequences_fulfil_is_an_error(decoder, tmp_path):
    model = _with_positions(decoder)
    model.add("Min", ["from_sizes", model.int(100)], "stopped")
    model.nodes[-4].input[1] = "stopped"
    model.nodes.insert(-4, model.nodes.pop())
    graph = build(load(model.save(tmp_path)))
    graph.claims += [Claimed("stopped", Claim.POSITIONS, "Op bad")]
    with pytest.raises(FrontendError, match="Op bad, operand stopped"):
        observe(graph, dependences(graph, bind(graph)), set())


@pytest.mark.parametrize(("size", "last_equal"), [("seq_size", 1), ("past_size", 0)])
def test_what_only_a_step_or_a_first_prompt_does_is_not_missed(decoder, tmp_path, size, last_equal):
    model = decoder()
    model.nodes[-1].output[0] = "plain"
    model.add("Equal", [size, model.int(last_equal)], "special")
    model.add("Where", ["special", "plain", "plain"], "logits")
    assert _observed(model, tmp_path).value("special") is None


def test_a_claim_about_data_is_an_error(decoder, tmp_path):
    graph = build(load(decoder().save(tmp_path)))
    graph.claims += [Claimed("input_ids", Claim.POSITIONS, "Op bad")]
    with pytest.raises(FrontendError, match="the model's data"):
        observe(graph, dependences(graph, bind(graph)), set())
