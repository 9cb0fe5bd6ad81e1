"""Bases that are measured: outliers and important directions come first."""

from __future__ import annotations

import numpy as np
import pytest

from tqc.codec.form import form
from tqc.compiler.basis import bases_of, output_moments
from tqc.compiler.moments import Moments
from tqc.errors import PassError

RNG = np.random.default_rng(0)


def moments(loud: np.ndarray) -> Moments:
    """Two KV heads whose channels `loud` [2, n] have 100 times the energy of the others."""
    energy = np.ones((2, 64))
    np.put_along_axis(energy, loud, 100.0, axis=1)
    matrices = energy[:, :, None] * np.eye(64)
    return Moments(
        keys=matrices, values=matrices, mean=np.zeros((2, 64)), queries=np.broadcast_to(np.eye(64), (2, 64, 64))
    )


LOUD = np.stack([RNG.choice(64, 16, replace=False) for _ in range(2)])


@pytest.mark.parametrize("name", ["tq2.5", "tq3.5", "qjl2o", "16@4+48@2", "16@4/48@2"])
def test_loud_channels_come_first(name: str) -> None:
    v = "tq2.5" if name.startswith("qjl") else name
    bases = bases_of({3: (name, v)}, {3: 64}, {3: moments(LOUD)}, {3}, {})[3]
    bases.check("k", 2, 64)
    bases.check("v", 2, 64)
    for head in range(2):
        x = np.zeros((16, 64), np.float32)
        x[np.arange(16), LOUD[head]] = 1
        for into in (bases.key, bases.value):
            turned = x @ into[head]
            assert np.abs(turned[:, 16:]).max() < 1e-6
            assert np.abs(turned[:, :16]).max(axis=1).min() > 1e-3


def test_an_error_that_costs_more_comes_first() -> None:
    """Equal energy everywhere: what the queries, or the output weights, read decides."""
    quiet = Moments(
        np.eye(64)[None], np.eye(64)[None], np.zeros((1, 64)), queries=np.diag([*[1.0] * 60, *[50.0] * 4])[None]
    )
    outputs = {0: np.diag([*[50.0] * 4, *[1.0] * 60])[None]}
    bases = bases_of({0: ("16@4+48@2", "16@4+48@2")}, {0: 64}, {0: quiet}, {0}, outputs)[0]
    assert np.abs(np.eye(64)[60:] @ bases.key[0])[:, 16:].max() < 1e-6
    assert np.abs(np.eye(64)[:4] @ bases.value[0])[:, 16:].max() < 1e-6


def test_a_mean_that_stays_in_the_keys_counts() -> None:
    mean = 10.0 * np.eye(64)[40:41]
    shifted = Moments(np.eye(64)[None] + mean[:, :, None] * mean[:, None], np.eye(64)[None], mean)
    for centred in ({0}, set()):
        key = bases_of({0: ("tq2.5", "tq4")}, {0: 64}, {0: shifted}, centred, {})[0].key[0]
        is_outlier = np.abs(key[40, 16:]).max() < 1e-6
        assert is_outlier == (not centred)
    assert np.trace(shifted.centred_keys[0]) == pytest.approx(64)


def test_only_sides_that_need_one_have_one() -> None:
    made = bases_of({0: ("tq4", "tq4"), 1: ("tq4", "tq2.5")}, {0: 64, 1: 64}, {1: moments(LOUD)}, {1}, {})
    assert list(made) == [1]
    assert (made[1].has("k"), made[1].has("v")) == (False, True)


def test_without_a_measurement_it_says_what_is_missing() -> None:
    with pytest.raises(PassError, match="measured over a text") as caught:
        bases_of({0: ("tq4", "tq2.5")}, {0: 64}, {}, set(), {})
    assert "tokenizer.json" in str(caught.value)
    assert form("tq2.5", 64).basis == "matrix"


def test_output_moments_sum_over_the_group() -> None:
    weight = RNG.standard_normal((4 * 16, 10))
    found = output_moments(weight, kv_heads=2, head_dim=16)
    heads = weight.reshape(4, 16, 10)
    np.testing.assert_allclose(found[1], heads[2] @ heads[2].T + heads[3] @ heads[3].T)
