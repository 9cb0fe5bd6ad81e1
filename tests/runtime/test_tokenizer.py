from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tqc.errors import ArtifactError, SessionError
from tqc.runtime.tokenizer import TextTokenizer


def byte_tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<user>", "<end>"])
    return tokenizer


@pytest.fixture
def make(tmp_path):
    """`make(**{file name: text})` → the tokenizer of an artifact with these files besides tokenizer.json."""
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))

    def build(**files):
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        return TextTokenizer(tmp_path, SimpleNamespace(files={"tokenizer.json": None, **files}))

    return build


def test_text_survives(make):
    tokenizer = make()
    for text in ("plain", "Grüße, 世界 🙂", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_stream_never_cuts_a_character(make):
    tokenizer, text = make(), "é世🙂x"
    pieces = list(tokenizer.stream(tokenizer.encode(text)))
    assert pieces == list(text)
    half = tokenizer.encode("a🙂")[:-1]
    assert list(tokenizer.stream(half)) == ["a", "\ufffd"]
    assert list(tokenizer.stream([])) == []


def test_files_the_manifest_does_not_list_are_not_read(make, tmp_path):
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7}')
    assert make().stop_ids == frozenset()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"generation_config.json": {"eos_token_id": 7}, "config.json": {"eos_token_id": 8}}, {7}),
        ({"generation_config.json": {}, "config.json": {"eos_token_id": [8, 9]}}, {8, 9}),
        ({"genai_config.json": {"model": {"eos_token_id": [3, 4]}}, "config.json": {"eos_token_id": 8}}, {3, 4}),
        ({"tokenizer_config.json": {"eos_token": "<end>"}}, {257}),
        ({"special_tokens_map.json": {"eos_token": "<end>"}}, {257}),
        ({"tokenizer_config.json": {"eos_token": {"content": "<end>"}}}, {257}),
        ({"tokenizer_config.json": {"eos_token": "unknown"}}, set()),
        ({}, set()),
    ],
)
def test_where_a_text_ends(make, files, expected):
    assert make(**{name: json.dumps(value) for name, value in files.items()}).stop_ids == expected


TEMPLATE = (
    "{% for m in messages %}<user>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}>{% endif %}"
)


def test_chat(make):
    settings = json.dumps({"eos_token": "<end>", "chat_template": "wrong"})
    tokenizer = make(**{"chat_template.jinja": TEMPLATE, "tokenizer_config.json": settings})
    assert tokenizer.chat("hi") == [256, *tokenizer.encode("hi"), 257, *tokenizer.encode(">")]


def test_chat_template_inside_the_configuration(make):
    tokenizer = make(**{"tokenizer_config.json": json.dumps({"chat_template": TEMPLATE})})
    assert tokenizer.chat("hi")[0] == 256


def test_chat_template_as_json(make):
    tokenizer = make(**{"chat_template.json": json.dumps({"chat_template": TEMPLATE})})
    assert tokenizer.chat("hi") == [256, *tokenizer.encode("hi"), *tokenizer.encode(">")]


def test_a_template_may_break_off_loops_and_refuse(make):
    template = "{% for m in messages * 2 %}{{ m.content }}{% break %}{% endfor %}"
    assert make(**{"chat_template.jinja": template}).chat("hi") == make().encode("hi")
    with pytest.raises(SessionError, match="only the system speaks"):
        make(**{"chat_template.jinja": "{{ raise_exception('only the system speaks') }}"}).chat("hi")


def test_a_template_cannot_reach_outside(make):
    tokenizer = make(**{"chat_template.jinja": "{{ messages.__class__.__mro__ }}"})
    with pytest.raises(SessionError, match="chat template cannot be used"):
        tokenizer.chat("hi")


def test_no_chat_template_and_no_jinja(make, monkeypatch):
    with pytest.raises(SessionError, match="no chat template"):
        make().chat("hi")
    monkeypatch.setitem(sys.modules, "jinja2.sandbox", None)
    with pytest.raises(SessionError, match="pip install jinja2"):
        make(**{"chat_template.jinja": TEMPLATE}).chat("hi")


def test_damaged_files(make, tmp_path):
    with pytest.raises(ArtifactError, match="not JSON"):
        _ = make(**{"config.json": "{"}).stop_ids
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match="tokenizer is not understood"):
        make()
    with pytest.raises(SessionError, match="no tokenizer"):
        TextTokenizer(tmp_path, SimpleNamespace(files={}))
