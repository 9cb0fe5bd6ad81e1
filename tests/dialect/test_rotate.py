"""`tqc.rotate` is the codec's rotation."""

import numpy as np
import pytest
from run_op import run_op
from tvm import relax

from tqc.codec import rotation
from tqc.dialect import rotate

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("head_dim", "rounds"), [(64, 1), (80, 1), (64, 2)])
def test_rotate_and_its_inverse(head_dim, rounds):
    x = RNG.standard_normal((2, 1, 3, head_dim)).astype("float32")
    rotated = run_op(lambda x: rotate(x, rounds=rounds), x=x)
    np.testing.assert_allclose(rotated, x @ rotation.matrix(head_dim, 0, rounds).T, atol=1e-5)
    np.testing.assert_allclose(run_op(lambda x: rotate(x, rounds=rounds, inverse=True), x=rotated), x, atol=1e-5)


def test_reject_other_rounds():
    with pytest.raises(ValueError, match="rounds"):
        rotate(relax.Var("x", relax.TensorType((2, 16), "float32")), rounds=3)
