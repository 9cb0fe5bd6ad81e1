from __future__ import annotations

import pytest

from tqc.errors import FrontendError
from tqc.frontend.build import build
from tqc.frontend.dependence import Source, dependences
from tqc.frontend.interface import bind
from tqc.frontend.load import load


def _sources(decoder, tmp_path):
    graph = build(load(decoder.save(tmp_path)))
    return dependences(graph, bind(graph))


def test_sizes_masks_and_data_are_told_apart(decoder, tmp_path):
    sources = _sources(decoder(mask="padded"), tmp_path)
    assert sources["past_size"] is Source.NOTHING
    assert sources["causal"] is Source.NOTHING
    assert sources["padding"] is Source.MASK
    assert sources["added_padding"] is Source.MASK
    assert sources["masked"] == Source.MASK | Source.DATA
    assert sources["x"] is Source.DATA
    assert sources["w_q"] is Source.DATA


def test_undefined_tensors_are_named(decoder, tmp_path):
    model = decoder()
    model.nodes[-1].input[0] = "nowhere"
    with pytest.raises(FrontendError, match="nowhere"):
        _sources(model, tmp_path)
