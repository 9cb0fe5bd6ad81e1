from __future__ import annotations

import json
import shutil

import pytest


def continuation(fake, prompt, count):
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(fake.next_token(tokens))
    return tokens[len(prompt) :]


@pytest.fixture(scope="module")
def expected(fake):
    return continuation(fake, [1, 2, 3], 8)


def test_text_and_table(tqc, artifact, expected):
    assert 30 not in expected
    done = tqc("generate", artifact, "--prompt", "w1 w2 w3", "-n", 8)
    assert done.status == 0
    first, table = done.out.split("\n", 1)
    assert first == " ".join(f"w{token}" for token in expected)
    for text in ("3 tokens in", "8 tokens", "tokens/s", "3.20× smaller"):
        assert text in table


def test_json(tqc, artifact, expected):
    run = tqc("generate", artifact, "--prompt", "w1 w2 w3", "-n", 8, "--json").json["runs"][0]
    assert run["tokens"] == expected
    assert run["text"] == " ".join(f"w{token}" for token in expected)
    assert run["prompt_tokens"] == 3
    assert run["kv"]["tokens"] == 10
    assert run["kv"]["pages"] == 320
    assert run["tokens_per_second"] > 0
    # 64 tokens take 4 pages beside the exact 4096 bytes.
    assert run["full_compression"] == 64 * 64 / (4096 + 4 * 320)


def test_the_end_token_ends_the_text_and_is_not_printed(tqc, artifact, fake):
    prompt = next([a] for a in range(30) if 30 in continuation(fake, [a], 20))
    tokens = continuation(fake, prompt, 20)
    end = tokens.index(30) + 1
    run = tqc("generate", artifact, "-p", f"w{prompt[0]}", "-n", 40, "--json").json["runs"][0]
    assert run["tokens"] == tokens[:end]
    assert "w30" not in run["text"]


def test_compare(tqc, artifact, tmp_path, fake, sum_library, tokenizer_dir, expected):
    other = fake.write_fake(tmp_path / "other.tqc", sum_library, tokenizer_dir)
    done = tqc("generate", artifact, "-p", "w1 w2 w3", "-n", 8, "--compare", other)
    line = " ".join(f"w{token}" for token in expected)
    assert done.out.count(line) == 2
    assert "sum.tqc" in done.out
    assert "other.tqc" in done.out
    assert "agree on 8 of 8 tokens (100.0 %)" in " ".join(done.out.split())
    found = tqc("generate", artifact, "-p", "w1 w2 w3", "-n", 8, "--compare", other, "--json").json
    assert found["agreement"] == {"same_prefix": 8, "compared": 8, "matching": 8}


def test_compare_with_itself(tqc, artifact):
    json = tqc("generate", artifact, "-p", "w1 w2 w3", "-n", 8, "--compare", artifact, "--json").json
    assert len(json["runs"]) == 2
    assert json["agreement"] == {"same_prefix": 8, "compared": 8, "matching": 8}


def test_each_of_two_artifacts_has_its_device(tqc, artifact):
    words = ("generate", artifact, "-p", "w1", "-n", 2, "--compare", artifact)
    assert tqc(*words, "--device", "cpu", "--compare-device", "cpu").status == 0
    refused = tqc(*words, "--compare-device", "tpu")
    assert (refused.status, "found: tpu" in refused.err) == (1, True)


def test_sampling_is_seeded(tqc, artifact):
    def tokens(seed):
        done = tqc("generate", artifact, "-p", "w1", "--temperature", 9, "--seed", seed, "-n", 16, "--json")
        return done.json["runs"][0]["tokens"]

    assert tokens(1) == tokens(1) != tokens(2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-p", "w1", "-n", 65), "too small"),
        (("-p", ""), "prompt is empty"),
        (("-p", "w1", "--chat"), "no chat template"),
        (("-p", "w1", "--device", "tpu"), "Unknown device"),
        (("-p", "w1", "--max-context", 65), "out of range"),
        (("-p", "w1", "--seed", -1), "out of range"),
    ],
)
def test_refusals(tqc, artifact, options, message):
    done = tqc("generate", artifact, *options)
    assert done.status == 1
    assert message in done.err
    assert "Traceback" not in done.err


@pytest.fixture
def sampled(tmp_path, fake, sum_library, tokenizer_dir):
    """An artifact whose settings draw tokens and name the token that starts a text."""
    folder = tmp_path / "settings"
    shutil.copytree(tokenizer_dir, folder)
    settings = {"do_sample": True, "temperature": 100.0, "top_k": 9, "bos_token_id": 3, "eos_token_id": 30}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return fake.write_fake(tmp_path / "sampled.tqc", sum_library, folder)


def _tokens(tqc, *words):
    return tqc("generate", *words, "-n", 8, "--json").json["runs"][0]["tokens"]


def test_sample_draws_as_the_settings_say(tqc, sampled, expected):
    same = _tokens(tqc, sampled, "-p", "w1 w2 w3", "--temperature", 100, "--top-k", 9)
    assert _tokens(tqc, sampled, "-p", "w1 w2 w3", "--sample") == same != expected
    assert _tokens(tqc, sampled, "-p", "w1 w2 w3") == expected
    assert _tokens(tqc, sampled, "-p", "w1 w2 w3", "--sample", "--top-k", 1) == expected


def test_sample_needs_settings(tqc, artifact):
    done = tqc("generate", artifact, "-p", "w1", "--sample")
    assert done.status == 1
    assert "do not say how to draw tokens" in done.err


def test_an_empty_prompt_is_the_start_of_a_text(tqc, sampled, fake):
    assert _tokens(tqc, sampled, "-p", "") == continuation(fake, [3], 8)
