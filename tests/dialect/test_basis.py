"""`tqc.change_basis` multiplies each head by the matrix of its KV head."""

import numpy as np
import pytest
from run_op import run_op
from tvm import relax

from tqc.dialect import change_basis

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("heads", "new", "dtype"), [(2, 3, "float32"), (6, 1, "float32"), (4, 3, "float16")])
def test_every_head_meets_the_matrix_of_its_kv_head(heads, new, dtype):
    x = RNG.standard_normal((2, heads, new, 16)).astype(dtype)
    matrix = RNG.standard_normal((2, 16, 16)).astype("float32")
    expected = np.stack([x[:, h].astype("float64") @ matrix[h // (heads // 2)] for h in range(heads)], axis=1)
    found = run_op(change_basis, x=x, matrix=matrix)
    assert str(found.dtype) == dtype
    np.testing.assert_allclose(found, expected, rtol=1e-5 if dtype == "float32" else 2e-3, atol=1e-2)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 16, 8), (2, 8, 8)])
def test_rejects_matrices_that_do_not_fit(shape):
    x = relax.Var("x", relax.TensorType((1, 4, 1, 16), "float32"))
    with pytest.raises(TypeError, match="matrix must be"):
        relax.BlockBuilder().normalize(change_basis(x, relax.Var("matrix", relax.TensorType(shape, "float32"))))
