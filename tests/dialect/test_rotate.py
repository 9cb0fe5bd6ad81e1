"""`tqc.rotate` is the codec's rotation."""

import numpy as np
import pytest
from run_op import run_op

from tqc.codec import rotation
from tqc.dialect import rotate

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("head_dim", [64, 80])
def test_rotate_and_its_inverse(head_dim):
    x = RNG.standard_normal((2, 1, 3, head_dim)).astype("float32")
    rotated = run_op(lambda x: rotate(x), x=x)
    np.testing.assert_allclose(rotated, x @ rotation.matrix(head_dim).T, atol=1e-5)
    np.testing.assert_allclose(run_op(lambda x: rotate(x, inverse=True), x=rotated), x, atol=1e-5)
