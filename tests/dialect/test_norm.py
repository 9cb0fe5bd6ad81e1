"""`tqc.rms_norm` against its formula."""

import numpy as np
from run_op import run_op

from tqc.dialect import rms_norm

RNG = np.random.default_rng(0)


def test_rms_norm():
    x, weight = RNG.standard_normal((2, 3, 8)).astype("float32"), RNG.standard_normal(8).astype("float32")
    truth = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weight
    np.testing.assert_allclose(run_op(lambda x, w: rms_norm(x, w, epsilon=1e-5), x=x, w=weight), truth, rtol=1e-5)
