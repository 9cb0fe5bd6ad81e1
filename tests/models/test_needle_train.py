from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tqc.models import needle, needle_train  # noqa: E402
from tqc.models.needle_train import Batches, Stage  # noqa: E402


def test_a_batch_asks_for_the_answers_and_weighs_the_filler():
    stage = Stage(1, 8, 128, 2, 1, context=1 << 20)
    ids, labels, bias = Batches(np.random.default_rng(0)).draw(stage)
    assert ids.shape == labels.shape == bias.shape == (8, 128)
    asked = labels != -100
    assert (asked.sum(-1) == 2 * 5).all()
    assert (labels[asked] == ids[asked]).all()
    assert (bias[asked] == 0).all()
    assert 0 < bias.max() <= math.log((1 << 20) / 128)
    assert all(len(row.unique()) == 2 for row in bias)


def test_without_a_context_the_filler_counts_as_it_is():
    assert (Batches(np.random.default_rng(0)).draw(Stage(1, 2, 64, 1))[2] == 0).all()


def test_the_answers_logits_are_those_of_the_whole_model():
    model = needle.new_model()
    ids, rows = torch.randint(0, 256, (2, 50)), torch.tensor([[3, 20, 48], [17, 30, 49]])
    with torch.no_grad():
        whole = model(ids).logits.gather(1, rows[..., None].expand(2, 3, 272))
        torch.testing.assert_close(needle_train.answers(model, ids, rows, torch.zeros(2, 50)), whole, atol=1e-4, rtol=0)


def test_a_bias_counts_like_copies_of_the_key():
    """log 3 on a key is what two more tokens with the same key and value do: the layer has no positions."""
    model = needle.new_model()
    ids = torch.full((1, 60), 65)  # from the 16th token on all tokens are alike to the global layer
    ids[0, 59] = 66
    with torch.no_grad():
        longer = needle_train.answers(
            model, torch.cat([ids[:, :1].expand(1, 40), ids], 1), torch.tensor([[99]]), torch.zeros(1, 100)
        )
        bias = torch.zeros(1, 60)
        bias[0, 20:40] = math.log(3)
        biased = needle_train.answers(model, ids, torch.tensor([[59]]), bias)
    torch.testing.assert_close(biased, longer, atol=1e-4, rtol=0)


def test_training_lowers_the_loss_and_repeats():
    said: list[str] = []
    stages = (Stage(4, 8, 32, 1),)
    first, second = (needle_train.train(stages, say=said.append).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    batch = Batches(np.random.default_rng(7)).draw(stages[0])
    with torch.no_grad():
        before, _ = needle_train.loss_and_hits(needle.new_model(), batch)
        model = needle.new_model()
        model.load_state_dict(first)
        after, _ = needle_train.loss_and_hits(model, batch)
    assert after < before
    assert said[0].startswith("stage 1: 4 of 4")
