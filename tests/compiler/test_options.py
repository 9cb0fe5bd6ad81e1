"""What a compilation may be asked for."""

from pathlib import Path

import pytest

from tqc.compiler import CompileOptions
from tqc.errors import CodecError, PassError


def options(**changes):
    return CompileOptions(Path("model.onnx"), Path("out.tqc"), **changes)


def test_defaults():
    assert (options().kv, options().sinks, options().recent, options().page) == ("tq4", 4, 128, 64)
    assert options(sinks=0, recent=0).recent == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [("sinks", -1), ("recent", -5), ("page", 8), ("page", 24), ("page", 512), ("sinks", 500), ("max_context", 0)],
)
def test_reject_lengths_out_of_range(field, value):
    with pytest.raises(PassError, match=field.replace("_", "-")):
        options(**{field: value})


def test_reject_an_unknown_scheme_before_anything_is_read():
    with pytest.raises(CodecError, match="tq44"):
        options(kv="tq44")


@pytest.mark.parametrize("changes", [{"centre": False}, {"kv": "fp16"}, {"kv": "k:fp32,v:tq4"}])
def test_reject_a_text_that_would_not_be_used(changes):
    with pytest.raises(PassError, match="--calibrate would be ignored"):
        options(calibrate=Path("text.txt"), **changes)
    assert options(calibrate=Path("text.txt"), kv="k:tq4,v:fp16").calibrate == Path("text.txt")
    assert options(calibrate=Path("text.txt"), kv="k:fp16,v:tq2.5", centre=False).calibrate == Path("text.txt")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"plan": Path("p.json"), "budget": 3.5}, "given twice"),
        ({"kv": "tq3", "budget": 3.5}, "given twice"),
        ({"rounds": 3}, "--rounds"),
        ({"budget": 0.5}, "--budget"),
        ({"budget": float("nan")}, "--budget"),
    ],
)
def test_reject_schemes_that_contradict(changes, what):
    with pytest.raises(PassError, match=what):
        options(**changes)
