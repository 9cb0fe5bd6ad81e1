from __future__ import annotations

import pytest

from tqc.errors import TqcError
from tqc.eval.measured import Measured, read


def test_the_machine_in_words_and_fields_that_are_not_known(tmp_path):
    file = tmp_path / "m.json"
    file.write_text('{"machine": {"processor": "A CPU", "cores": 2, "memory_gib": 23.5}, "else": [1]}')
    assert read(file, Measured, "x").hardware == "A CPU, 2 cores, 23.5 GiB"
    assert Measured().hardware == ""
    assert Measured(machine={"gpu": "A GPU", "cores": None}).hardware == "A GPU"


@pytest.mark.parametrize(
    ("text", "said"), [("{", "JSON"), ("[]", "object"), ('{"date": 7}', "date"), ('{"machine": 1}', "machine")]
)
def test_what_is_no_such_file_is_refused_with_the_command_that_makes_one(tmp_path, text, said):
    file = tmp_path / "m.json"
    file.write_text(text)
    with pytest.raises(TqcError) as refused:
        read(file, Measured, "tqc eval")
    assert said in str(refused.value)
    assert "tqc eval" in str(refused.value)
    assert str(file) in str(refused.value)


def test_a_missing_file_and_one_that_is_too_long(tmp_path, monkeypatch):
    with pytest.raises(TqcError, match="no such file"):
        read(tmp_path / "m.json", Measured, "tqc eval")
    (tmp_path / "m.json").write_text("{}    ")
    monkeypatch.setattr("tqc.eval.measured.MAX_BYTES", 4)
    with pytest.raises(TqcError, match="too long"):
        read(tmp_path / "m.json", Measured, "tqc eval")
