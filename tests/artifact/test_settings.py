"""What the files beside a model say, and which of them counts."""

from __future__ import annotations

import json

import pytest

from tqc.artifact.settings import Search, Settings, read_settings
from tqc.errors import ArtifactError, FrontendError


def read(**files) -> Settings:
    """Settings of files by name, with dots for double underscores; values that are no text become JSON."""
    texts = {
        name.replace("__", "."): value if isinstance(value, str) else json.dumps(value) for name, value in files.items()
    }
    return read_settings(texts.get)


GENAI = {
    "model": {
        "bos_token_id": 1,
        "eos_token_id": [2, 7],
        "pad_token_id": 0,
        "context_length": 4096,
        "vocab_size": 100,
        "decoder": {"head_size": 64},
    },
    "search": {"do_sample": False, "temperature": 1.0, "top_k": 50, "max_length": 4096},
}


def test_genai_config():
    found = read(genai_config__json=GENAI)
    assert (found.bos_id, found.eos_ids, found.pad_id, found.context) == (1, (2, 7), 0, 4096)
    assert found.vocab_sizes == {"genai_config.json: model": 100}
    assert found.search == Search()


def test_no_files_say_nothing():
    assert read() == Settings()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"generation_config__json": {"eos_token_id": 5}, "genai_config__json": GENAI}, (5,)),
        ({"generation_config__json": {}, "genai_config__json": GENAI, "config__json": {"eos_token_id": 6}}, (2, 7)),
        ({"config__json": {"eos_token_id": [6, 8]}}, (6, 8)),
        ({"config__json": {"text_config": {"eos_token_id": 9}}}, (9,)),
        ({"generation_config__json": {"eos_token_id": None}, "config__json": {"eos_token_id": -1}}, ()),
    ],
)
def test_the_first_file_that_names_end_tokens_counts(files, expected):
    assert read(**files).eos_ids == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"genai_config__json": GENAI, "config__json": {"n_ctx": 7}}, 4096),
        ({"config__json": {"max_position_embeddings": 1024, "n_positions": 7}}, 1024),
        ({"config__json": {"text_config": {"max_position_embeddings": 512}}}, 512),
        ({"config__json": {}}, None),
    ],
)
def test_context(files, expected):
    assert read(**files).context == expected


@pytest.mark.parametrize(
    ("generation", "search", "expected"),
    [
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, GENAI["search"], Search(0.6, None, 0.9)),
        ({"do_sample": True, "top_k": 20, "top_p": 1.0}, {}, Search(1.0, 20, None)),
        ({"do_sample": False, "temperature": 0.6}, {"do_sample": True}, Search()),
        ({"temperature": 0.6}, {"do_sample": True, "temperature": 0.7, "top_k": 0}, Search(0.7)),
    ],
)
def test_search(generation, search, expected):
    assert read(generation_config__json=generation, genai_config__json={"search": search}).search == expected


NAMED = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "list"}]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"chat_template__jinja": "jinja", "chat_template__json": {"chat_template": "json"}}, "jinja"),
        ({"chat_template__json": {"chat_template": "json"}, "tokenizer_config__json": {"chat_template": "x"}}, "json"),
        ({"tokenizer_config__json": {"chat_template": "config"}}, "config"),
        ({"tokenizer_config__json": {"chat_template": NAMED}}, "list"),
        ({"tokenizer_config__json": {"chat_template": NAMED[:1]}}, None),
        ({"tokenizer_config__json": {"chat_template": None}}, None),
    ],
)
def test_chat_template(files, expected):
    assert read(**files).chat_template == expected


def test_special_tokens():
    config = {"eos_token": {"content": "</s>", "lstrip": False}, "pad_token": None}
    found = read(tokenizer_config__json=config, special_tokens_map__json={"eos_token": "other", "bos_token": "<s>"})
    assert found.tokens == {"eos_token": "</s>", "bos_token": "<s>"}


@pytest.mark.parametrize(
    "name", ["config.json", "genai_config.json", "generation_config.json", "tokenizer_config.json"]
)
@pytest.mark.parametrize("text", ['{"eos_token_id": ', "[1, 2]", "7", "[" * 100_000])
def test_damaged_files_are_named(name, text):
    with pytest.raises(FrontendError, match=name):
        read_settings({name: text}.get, FrontendError)


@pytest.mark.parametrize(
    ("name", "fields", "entry"),
    [
        ("config.json", {"eos_token_id": "2"}, "eos_token_id"),
        ("config.json", {"bos_token_id": True}, "bos_token_id"),
        ("config.json", {"max_position_embeddings": 0}, "max_position_embeddings"),
        ("config.json", {"text_config": 3}, "text_config"),
        ("genai_config.json", {"model": []}, "model"),
        ("genai_config.json", {"model": {"eos_token_id": [1, None]}}, "model: eos_token_id"),
        ("genai_config.json", {"search": {"do_sample": True, "top_k": -1}}, "search: top_k"),
        ("generation_config.json", {"do_sample": "yes"}, "do_sample"),
        ("generation_config.json", {"do_sample": True, "temperature": -1}, "temperature"),
        ("generation_config.json", {"do_sample": True, "top_p": 2}, "top_p"),
        ("tokenizer_config.json", {"eos_token": 3}, "eos_token"),
        ("tokenizer_config.json", {"chat_template": [{"name": "default"}]}, "chat_template"),
    ],
)
def test_entries_of_a_wrong_type_are_named(name, fields, entry):
    with pytest.raises(ArtifactError, match=f"{name}: {entry}"):
        read_settings({name: json.dumps(fields)}.get)


def test_a_file_of_another_model():
    settings = read(genai_config__json=GENAI, config__json={"vocab_size": 120})
    with pytest.raises(FrontendError, match=r"config\.json: vocab_size"):
        settings.check(100, FrontendError)
    read(genai_config__json=GENAI, config__json={"vocab_size": 100}).check(100)


@pytest.mark.parametrize("key", ["bos_token_id", "eos_token_id"])
def test_ids_outside_the_vocabulary(key):
    with pytest.raises(ArtifactError, match=key):
        read(config__json={key: 100}).check(100)
    read(config__json={key: 99}).check(100)
