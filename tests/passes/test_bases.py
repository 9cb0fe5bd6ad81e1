"""Bases fit their layer, and what leaves the cache undoes what entered it."""

import numpy as np
import pytest

from tqc.errors import PassError
from tqc.passes.bases import Bases, basis_arrays, basis_name

RNG = np.random.default_rng(0)


def matrices(kv_heads=2, dim=16):
    """A well-conditioned matrix for each head and its inverse."""
    made = (np.eye(dim) + 0.1 * RNG.standard_normal((kv_heads, dim, dim))).astype("float32")
    return made, np.linalg.inv(made).astype("float32")


def test_a_query_basis_is_the_inverse_transpose_an_output_basis_the_inverse():
    made, inverse = matrices()
    bases = Bases(made, inverse.swapaxes(1, 2), made, inverse)
    for side in "kv":
        assert bases.has(side)
        bases.check(side, 2, 16)


@pytest.mark.parametrize(
    ("side", "change", "message"),
    [
        ("k", {"query": None}, "query basis does not fit"),
        ("v", {"value": np.zeros((2, 16, 16))}, "float64"),
        ("v", {"value": np.zeros((1, 16, 16), "float32")}, "value basis does not fit"),
        ("v", {"output": np.zeros((2, 16, 16), "float32")}, "wrong output basis"),
        ("v", {"output": np.full((2, 16, 16), np.nan, "float32")}, "wrong output basis"),
    ],
)
def test_rejects_what_does_not_undo(side, change, message):
    made, inverse = matrices()
    given = {"key": made, "query": inverse.swapaxes(1, 2), "value": made, "output": inverse} | change
    with pytest.raises(PassError, match=message):
        Bases(**given).check(side, 2, 16, where="layer 3")


def test_one_array_is_one_parameter():
    q, _ = np.linalg.qr(RNG.standard_normal((2, 16, 16)))
    q = q.astype("float32")
    bases = {3: Bases(key=q, query=q)}
    assert basis_name(bases[3], 3, "query") == "layer3.key_basis"
    assert list(basis_arrays(bases)) == ["layer3.key_basis"]
    made, inverse = matrices()
    assert list(basis_arrays({0: Bases(value=made, output=inverse)})) == ["layer0.value_basis", "layer0.output_basis"]


def test_left_factors_of_the_codec_become_right_factors():
    made, _ = matrices()
    k, q, v = (RNG.standard_normal((2, 16)) for _ in range(3))
    bases = Bases.of(made, made)
    for head in range(2):
        np.testing.assert_allclose(k[head] @ bases.key[head], made[head] @ k[head], atol=1e-5)
        np.testing.assert_allclose(v[head] @ bases.value[head] @ bases.output[head], v[head], atol=1e-5)
        np.testing.assert_allclose((k @ bases.key[head]) @ (q @ bases.query[head]).T, k @ q.T, atol=1e-4)
    bases.check("k", 2, 16)
    bases.check("v", 2, 16)
    assert not Bases.of(made).has("v")


def test_an_orthogonal_key_matrix_serves_queries():
    bases = Bases.of(np.stack([np.linalg.qr(RNG.standard_normal((16, 16)))[0]] * 2))
    assert bases.query is bases.key
    bases.check("k", 2, 16)
