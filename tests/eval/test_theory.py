from __future__ import annotations

import numpy as np
import pytest

from tqc.codec import sketch
from tqc.codec.banded import Banded
from tqc.codec.form import form
from tqc.codec.polar import Polar
from tqc.codec.turboquant import TurboQuant
from tqc.eval.theory import code_loss, distortion

PLAIN_128 = {1: 0.3612, 2: 0.1166, 3: 0.0341, 4: 0.0093}
"""1 − E[Q²]·d of the Beta law at d = 128, two digits beyond what arXiv:2504.19874 prints."""


@pytest.mark.parametrize("bits", PLAIN_128)
def test_plain_distortion_is_that_of_the_paper(bits):
    loss = code_loss(((128, bits),))
    assert loss / (1 + loss) == pytest.approx(PLAIN_128[bits], rel=0.02)


@pytest.mark.parametrize("dim", [64, 96, 128])
@pytest.mark.parametrize("bits", [1, 2, 4, 6])
def test_codes_of_gaussian_vectors_lose_what_the_theory_says(bits, dim):
    x = np.random.default_rng(bits).standard_normal((4000, dim)).astype(np.float32)
    codec = TurboQuant(bits, dim)
    lost = np.square(codec.decode(codec.encode(x)) - x).sum() / np.square(x).sum()
    assert distortion(form(f"tq{bits}", dim)) == pytest.approx(lost, rel=0.02)


@pytest.mark.parametrize("scheme", ["qjl1", "qjl3"])
def test_a_sketch_alone_loses_what_the_theory_says(scheme):
    dim = 64
    wanted = form(scheme, dim)
    x = np.random.default_rng(0).standard_normal((3000, dim))
    rows, band = sketch.matrix(wanted), wanted.coded_bands[0]
    signs = wanted.table(band).centroids[(x @ rows.T > 0).astype(int)]
    estimate = signs @ rows * np.linalg.norm(x, axis=1, keepdims=True)
    lost = np.square(estimate - x).sum() / np.square(x).sum()
    assert distortion(wanted) == pytest.approx(lost, rel=0.03)


def test_more_is_stored_less_is_lost():
    order = ["tq1", "tq2", "tq2.5", "tq3", "tq3.5", "tq4", "tq8", "fp32"]
    losses = [distortion(form(scheme, 128)) for scheme in order]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == 0.0


def test_dims_that_are_not_stored_are_lost():
    assert distortion(form("32@8+32@0", 64)) == pytest.approx(0.5, abs=1e-3)


def test_exact_schemes_lose_their_rounding():
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    lost = np.square(values.astype(np.float16).astype(np.float64) - values).sum() / np.square(values).sum()
    assert distortion(form("fp16", 64)) == pytest.approx(lost, rel=0.1)
    assert distortion(form("fp16", 64), "float16") == 0.0


def test_polar_loses_what_the_theory_says():
    x = np.random.default_rng(0).standard_normal((4000, 64)).astype(np.float32)
    codec = Polar("polar", 64)
    lost = np.square(codec.decode(codec.encode(x)) - x).sum() / np.square(x).sum()
    assert distortion(form("polar", 64)) == pytest.approx(lost, rel=0.01)
    assert distortion(form("polar", 64)) == pytest.approx(0.0321, rel=0.02)


@pytest.mark.parametrize("scheme", ["tqp3", "tq2.5", "16@5+16@3+32@2", "qjl2o"])
def test_bands_and_sketches_lose_what_the_theory_says(scheme):
    x = np.random.default_rng(0).standard_normal((3000, 64)).astype(np.float32)
    codec = Banded(scheme, 64)
    lost = np.square(codec.decode(codec.encode(x)) - x).sum() / np.square(x).sum()
    assert distortion(form(scheme, 64)) == pytest.approx(lost, rel=0.02)
