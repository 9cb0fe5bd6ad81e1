"""The grammar of scheme names, and what it says about names it does not take."""

from __future__ import annotations

import pytest

from tqc.codec import scheme
from tqc.codec.form import form
from tqc.errors import CodecError


@pytest.mark.parametrize("name", ["tq1", "tq2", "tq3", "tq4", "tq5", "tq6", "tq7", "tq8", "fp16", "fp32"])
def test_one_name_sets_both_sides(name: str) -> None:
    assert scheme.parse(name) == (name, name)


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("k4v3", ("tq4", "tq3")),
        ("k8v1", ("tq8", "tq1")),
        ("k:tq4,v:tq3", ("tq4", "tq3")),
        ("v:tq3,k:fp16", ("fp16", "tq3")),
        (" K: TQ4 , V: tq3 ", ("tq4", "tq3")),
    ],
)
def test_sides(text: str, sides: tuple[str, str]) -> None:
    assert scheme.parse(text) == sides


@pytest.mark.parametrize(
    ("text", "near"), [("tq9", "tq8"), ("qt4", "tq4"), ("fp61", "fp16"), ("tq-4", "tq4"), ("k:tq4,v:tq44", "tq4")]
)
def test_reject_unknown_with_a_suggestion(text: str, near: str) -> None:
    with pytest.raises(CodecError, match=f"did you mean .*{near}"):
        scheme.parse(text)


@pytest.mark.parametrize("name", ["tqp2", "tqp8", "tq2.5", "tq3.5", "polar", "polar-plain", "bf16", "16@5+48@2"])
def test_every_scheme_of_both_sides(name: str) -> None:
    assert scheme.parse(name) == (name, name)
    assert scheme.parse(f"k:tq4,v:{name}") == ("tq4", name)


def test_qjl_is_a_scheme_of_keys() -> None:
    assert scheme.parse("qjl") == ("qjl3", "tq3")
    assert scheme.parse("k:qjl2o,v:tq2") == ("qjl2o", "tq2")
    for text in ("qjl2", "k:tq4,v:qjl1"):
        with pytest.raises(CodecError, match="keys only"):
            scheme.parse(text)


@pytest.mark.parametrize(
    "text", ["", "zzz", "k:tq4", "v:tq4", "k:tq4,k:tq3", "tq4,tq3", "k4", "k:tq4,v:tq3,", "k:,v:tq4"]
)
def test_reject_what_is_no_scheme(text: str) -> None:
    with pytest.raises(CodecError) as caught:
        scheme.parse(text)
    assert "tq4" in caught.value.expected


@pytest.mark.parametrize(("text", "side"), [("k9v3", "K"), ("k4v0", "V"), ("k:tq4,v:tqx", "V")])
def test_the_error_names_the_side(text: str, side: str) -> None:
    with pytest.raises(CodecError) as caught:
        scheme.parse(text)
    assert caught.value.where.startswith(side)


@pytest.mark.parametrize("name", [*scheme.NAMED, "16@4+48@2"])
def test_measured_schemes_are_those_with_a_matrix(name: str) -> None:
    assert scheme.is_measured(name) == (form(name, 64).basis == "matrix")
