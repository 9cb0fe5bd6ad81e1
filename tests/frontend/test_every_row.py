"""A graph with the logits of the last token alone is imported with those of all tokens."""

from __future__ import annotations

import numpy as np
import pytest

from tqc.errors import FrontendError
from tqc.frontend import import_model


@pytest.fixture
def build(decoder):
    """`build(how)` → a decoder whose vocabulary matrix sees one row of the hidden states, chosen in this way."""

    class Model(decoder):
        def __init__(self, how, index=-1):
            self.how, self.index = how, index
            super().__init__()

        def _build(self, mask, repeat):
            super()._build(mask, repeat)
            self.nodes.pop()
            x, index = "residual", self.index
            if self.how == "gather":
                row = self.add("Gather", [x, self.int(index)], "row", axis=1)
                rows = self.add("Unsqueeze", [row, self.ints(1)], "rows")
            elif self.how == "gather vector":
                rows = self.add("Gather", [x, self.ints(index)], "rows", axis=1)
            else:
                end = (1 << 63) - 1 if self.how == "slice" else 1
                rows = self.add("Slice", [x, self.ints(index), self.ints(end), self.ints(1)], "rows")
            product = self.add("MatMul", [rows, "w_logits"], "product")
            bounded = self.add(
                "Tanh", [self.add("Div", [product, self.constant("cap", np.float32(3))], "d")], "bounded"
            )
            self.add("Mul", [bounded, "cap"], "logits")

    return Model


@pytest.mark.parametrize("how", ["gather", "gather vector", "slice"])
def test_every_row_is_computed(build, beside_onnxruntime, tmp_path, how):
    pair = beside_onnxruntime(build(how).save(tmp_path))
    tokens, positions = np.arange(8).reshape(2, 4), np.tile(np.arange(5, 9), (2, 1))
    cache = pair.cache(2, 5)
    ours, theirs = pair.run(tokens, positions, cache)[0], pair.onnx(tokens, positions, cache)[0]
    assert ours.shape == (2, 4, 40)
    assert theirs.shape == (2, 1, 40)
    np.testing.assert_allclose(ours[:, -1:], theirs, rtol=0, atol=1e-5)
    first = pair.run(tokens[:, :1], positions[:, :1], cache)[0]
    np.testing.assert_allclose(ours[:, :1], first, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("how", "index"), [("gather", 0), ("gather vector", 0), ("slice end", 0), ("slice", -2)])
def test_other_rows_are_refused(build, tmp_path, how, index):
    with pytest.raises(FrontendError):
        import_model(build(how, index).save(tmp_path))
