"""A token whose keys and values are NaN spoils its own sequence, says so, and touches nothing else."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from references import random_ids

import tqc
from tqc.errors import SessionError

POISON = 260  # an id that random_ids never gives


@pytest.fixture(scope="module")
def poisoned(tiny_llama_onnx, tmp_path_factory):
    """The tiny Llama with NaN in the embedding of one token."""
    folder = tmp_path_factory.mktemp("poisoned")
    shutil.copytree(tiny_llama_onnx.parent, folder, dirs_exist_ok=True)
    model = onnx.load(folder / "model.onnx")
    table = next(t for t in model.graph.initializer if "embed" in t.name)
    values = numpy_helper.to_array(table).copy()
    values[POISON] = np.nan
    table.CopyFrom(numpy_helper.from_array(values, table.name))
    for path in folder.glob("model.onnx*"):
        path.unlink()
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize("where", [2, 100, 250])
def test_the_other_sequence_does_not_notice(poisoned, compiled, where):
    path = compiled(poisoned, kv="tq4", max_context=512, centre=False)
    clean, bad = random_ids(300, seed=1), random_ids(300, seed=2)
    bad[where] = POISON
    alone = tqc.load(path, batch=1)
    alone.prefill(clean)
    session = tqc.load(path, batch=2)
    with pytest.raises(SessionError, match="sequence 1"):
        session.prefill([clean, bad])
    expected = alone.decode([clean[0]])
    got = session.advance([clean[0], 0], [True, False])
    np.testing.assert_allclose(got[0], expected[0], atol=1e-4)


def test_a_poisoned_sequence_stays_refused_until_reset(poisoned, compiled):
    session = tqc.load(compiled(poisoned, kv="tq4", max_context=512, centre=False))
    ids = random_ids(300)
    ids[50] = POISON
    with pytest.raises(SessionError):
        session.prefill(ids)
    with pytest.raises(SessionError):  # the NaN lies in a compressed page by now, and every later token reads it
        session.decode([ids[0]])
    session.reset()
    assert np.isfinite(session.prefill(random_ids(300))).all()
