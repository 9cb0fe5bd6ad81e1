from __future__ import annotations

import json

import numpy as np
import pytest

from tqc.models import needle_task

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def trained():
    from tqc.models import needle

    return needle.trained_model()


def found(model, prompt) -> float:
    """The share of the needles that the model finds."""
    with torch.no_grad():
        logits = model(torch.from_numpy(prompt.ids[None]), logits_to_keep=len(prompt.ids) - prompt.haystack).logits[0]
    return float(np.mean(prompt.correct(logits.argmax(-1).numpy())))


@pytest.mark.parametrize("values", [1, 2])
def test_needles_are_found_at_every_depth(trained, values):
    depths, rng = np.linspace(0, 1, 21).tolist(), np.random.default_rng(0)
    prompt = needle_task.prompt(2048, depths, rng, lookalikes=0, values=values)
    assert found(trained, prompt) >= 0.95


def test_two_of_three_are_told_from_a_key_that_differs_in_one_letter(trained):
    """By keys read without care for every letter, half of them would be."""
    prompt = needle_task.prompt(2048, np.linspace(0, 1, 41).tolist(), np.random.default_rng(0))
    assert found(trained, prompt) >= 2 / 3


def test_what_is_found_is_read_from_the_haystack(trained):
    prompt = needle_task.prompt(1024, [0.2, 0.5, 0.8], np.random.default_rng(1), lookalikes=0)
    prompt.ids[: prompt.haystack] = needle_task.tokens(needle_task.filler(prompt.haystack, np.random.default_rng(2)))
    assert found(trained, prompt) == 0


def test_the_exported_graph_finds_them_with_a_cache(tmp_path):
    from tqc.eval.onnx_session import OnnxSession
    from tqc.models.export import export_model

    path = export_model("needle", tmp_path / "needle")
    session = OnnxSession(path, threads=1)
    prompt = needle_task.prompt(1024, [0.0, 0.5, 1.0], np.random.default_rng(3), lookalikes=0)
    session.prefill(prompt.ids[: prompt.haystack].tolist())
    answers = [session.decode([int(token)]).reshape(-1).argmax() for token in prompt.ids[prompt.haystack :]]
    assert prompt.correct(np.array(answers)) == [True] * 3
    settings = json.loads((path.parent / "config.json").read_text())
    assert settings["max_position_embeddings"] >= 104 * 1024
    assert settings["layer_types"] == ["sliding_attention", "full_attention"]
    assert settings["no_rope_layers"] == [1, 0]
    assert (path.parent / "tokenizer.json").is_file()


def test_the_weights_are_small_and_the_model_is_not_a_toy(trained):
    from tqc.models import needle

    assert sum(item.stat().st_size for item in needle.FOLDER.iterdir()) < 4 << 20
    assert sum(parameter.numel() for parameter in trained.parameters()) > 1_000_000
    assert (trained.config.head_dim, trained.config.num_attention_heads) == (64, 8)


def test_saving_keeps_the_model(tmp_path):
    from tqc.models import needle

    model = needle.new_model(seed=3)
    needle.save(model, tmp_path)
    again = needle.trained_model(tmp_path)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value.half().float())


def test_a_new_model_is_not_trained_and_follows_from_its_seed():
    from tqc.models import needle

    first, second = (needle.new_model(seed=1).state_dict() for _ in range(2))
    assert all((first[name] == second[name]).all() for name in first)
    prompt = needle_task.prompt(512, [0.1, 0.5, 0.9], np.random.default_rng(0))
    assert found(needle.new_model(), prompt) == 0


def test_local_heads_start_out_looking_back_one_by_one():
    from tqc.models import needle

    model = needle.new_model()
    model.set_attn_implementation("eager")
    ids = torch.randint(0, 256, (1, 40))
    weights = model(ids, output_attentions=True, use_cache=False).attentions[0][0]
    assert [int(head.argmax()) for head in weights[:, 39]] == [39 - head for head in range(8)]
