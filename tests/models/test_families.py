from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from tqc.errors import ExportError  # noqa: E402
from tqc.models.families import FAMILIES, LONG_ROPE_START, VOCAB, WINDOW, family_model  # noqa: E402
from tqc.models.trace import geometry  # noqa: E402

HEAD_DIMS = {"llama": 64, "llama31": 128, "gemma2": 256, "phi3": 96, "opt": 80, "gpt2": 64, "gptoss": 64}


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_differ_and_no_projection_is_as_wide_as_the_head(name):
    model = family_model(name)
    ids = torch.arange(40)[None] * 7 % VOCAB
    assert 1.0 < logits(model, ids).std() < 6.0
    widths = [layer.out_features for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    assert widths.count(VOCAB) == 1
    assert geometry(model.config)[0] == 2
    if name in HEAD_DIMS:
        assert geometry(model.config)[2] == HEAD_DIMS[name]


@pytest.mark.parametrize("name", ["mistral", "phi3"])
def test_a_window_hides_what_is_before_it(name):
    model = family_model(name)
    ids = torch.arange(40)[None] * 7 % VOCAB
    changed = ids.clone()
    changed[0, 0] += 1
    difference = (logits(model, ids) - logits(model, changed))[0].abs().amax(-1)
    assert difference[:WINDOW].max() > 1e-2
    assert difference[2 * WINDOW :].max() == 0


def test_the_long_factors_count_from_the_first_token_beyond_the_short_context():
    model = family_model("phi3-longrope")
    ids = torch.arange(LONG_ROPE_START + 1)[None] * 7 % VOCAB
    short, long = logits(model, ids[:, :-1]), logits(model, ids)[:, :-1]
    assert (short - long).abs().max() > 1e-2


def test_sinks_take_part_in_gpt_oss():
    model = family_model("gptoss")
    ids = torch.arange(9)[None]
    before = logits(model, ids)
    with torch.no_grad():
        model.model.layers[0].self_attn.sinks.add_(2.0)
    assert (before - logits(model, ids)).abs().max() > 1e-2


def test_the_seed_decides_the_weights():
    first, same, other = (family_model("llama", seed=seed).lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_unknown_names_are_refused():
    with pytest.raises(ExportError, match="unknown family"):
        family_model("mamba")
