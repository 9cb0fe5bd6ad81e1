"""A model with a learned logit per query head beside the scores, in layers with and without a sliding window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from references import onnx_logits, random_ids

import tqc
from tqc.models import trace
from tqc.models.families import family_model
from tqc.models.tiny import byte_tokenizer

LENGTH = 140


@pytest.fixture(scope="module")
def gpt_oss(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """gpt-oss with dense layers in place of the experts; window 16 in every other layer, and a tokenizer."""
    folder = tmp_path_factory.mktemp("gptoss")
    path = trace.write_onnx(family_model("gptoss"), folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return path


@pytest.mark.parametrize("options", [{"kv": "fp32", "recent": 0, "page": 16}, {"kv": "tq4", "recent": 256}])
def test_logits_equal_onnxruntime(gpt_oss, compiled, options):
    """From exact pages; and, where keys would be centred, from rotated tokens that are all in the exact window."""
    ids = random_ids(LENGTH)
    expected = onnx_logits(gpt_oss, ids)
    session = tqc.load(compiled(gpt_oss, max_context=512, **options))
    (found,) = session.prefill(ids[:100], all_logits=True)
    np.testing.assert_allclose(found, expected[:100], atol=1e-3, rtol=0)
    for position in range(100, LENGTH):
        np.testing.assert_allclose(session.decode([ids[position]])[0], expected[position], atol=1e-3, rtol=0)
    assert [layer.window for layer in session.manifest.layers] == [16, 0]
    assert not any(layer.key_mean for layer in session.manifest.layers)
