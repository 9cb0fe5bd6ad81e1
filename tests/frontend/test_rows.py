"""Operations along the tokens are refused by name; along everything else they are not."""

from __future__ import annotations

import pytest

from tqc.errors import FrontendError
from tqc.frontend import import_model


def _ending(decoder, op: str, ints: tuple[tuple[int, ...], ...], **attrs):
    """A decoder whose logits have one more operation's result of them added."""
    model = decoder()
    model.nodes[-1].output[0] = "plain"
    model.add(op, ["plain", *(model.ints(*values) for values in ints)], "mixed", **attrs)
    model.add("Add", ["plain", "mixed"], "logits")
    return model


MIXING = {
    "mean": ("ReduceMean", (), {"axes": [1]}),
    "sum": ("ReduceSum", ((1,),), {}),
    "mean of all": ("ReduceMean", (), {}),
    "over the batch": ("ReduceMax", (), {"axes": [0]}),
    "first token": ("Slice", ((0,), (1,), (1,)), {}),
    "last token": ("Slice", ((-1,), (1 << 40,), (1,)), {}),
}


@pytest.mark.parametrize("name", MIXING)
def test_mixing_tokens_is_refused(decoder, tmp_path, name):
    op, ints, attrs = MIXING[name]
    with pytest.raises(FrontendError, match="outside attention") as caught:
        import_model(_ending(decoder, op, ints=ints, **attrs).save(tmp_path))
    assert "node_mixed" in caught.value.where


TREATING_ALIKE = {
    "mean": ("ReduceMean", (), {"axes": [-1]}),
    "sum": ("ReduceSum", ((2,),), {}),
    "one column": ("Slice", ((3,), (4,), (2,)), {}),
}


@pytest.mark.parametrize("name", TREATING_ALIKE)
def test_what_treats_tokens_alike_is_not(decoder, tmp_path, name):
    op, ints, attrs = TREATING_ALIKE[name]
    assert import_model(_ending(decoder, op, ints=ints, **attrs).save(tmp_path)).vocab_size == decoder.vocab
