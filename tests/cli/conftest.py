"""The sum model with a tokenizer of 32 words, and a way to run the command as a user would."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from tqc.cli import main


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory) -> Path:
    """Words w0 … w30; w30 ends a text."""
    folder = tmp_path_factory.mktemp("tokenizer")
    vocab = {f"w{number}": number for number in range(31)} | {"unknown": 31}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="unknown"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [30]}))
    return folder


@pytest.fixture(scope="session")
def artifact(tmp_path_factory, fake, sum_library, tokenizer_dir) -> Path:
    return fake.write_fake(tmp_path_factory.mktemp("artifact") / "sum.tqc", sum_library, tokenizer_dir)


@dataclass(frozen=True)
class Done:
    """What a command left: its status and what it printed."""

    status: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def tqc(monkeypatch, capsys):
    """`tqc("inspect", path)` runs the command line in this process."""

    def run(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["tqc", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main.main()
        printed = capsys.readouterr()
        return Done(stopped.value.code or 0, printed.out, printed.err)

    return run
