"""`tqc.sign_sketch` and `tqc.sign_values` against the codec in NumPy."""

import numpy as np
import pytest
from run_op import run_op
from tvm import relax

from tqc.codec import sketch
from tqc.codec.form import form
from tqc.dialect import sign_sketch, sign_values

RNG = np.random.default_rng(0)


def parts(x, scheme, **options):
    """The two results of the op."""

    def result(index):
        def build(x):
            call = relax.BlockBuilder().normalize(
                sign_sketch(x, scheme=scheme, head_dim=int(x.ty.shape[-1]), **options)
            )
            return relax.TupleGetItem(call, index)

        return build

    return [run_op(result(index), x=x) for index in range(2)]


@pytest.mark.parametrize(("scheme", "seed"), [("qjl2", 0), ("tqp3", 5), ("qjl1o", 0)])
def test_signs_and_norms(scheme, seed):
    x = RNG.standard_normal((2, 5, 80)).astype("float32")
    stored = form(scheme, 80)
    signs, norms = parts(x, scheme, seed=seed)
    bits = np.unpackbits(signs.astype("<u2").view(np.uint8), axis=-1, bitorder="little")
    np.testing.assert_array_equal(bits, sketch.project(x, stored, seed) > 0)
    wanted = [
        np.linalg.norm(x[..., b.source[0] : sum(b.source)], axis=-1).astype("float16") for b in stored.bands if b.sketch
    ]
    np.testing.assert_allclose(norms, np.stack(wanted, axis=-1), rtol=1e-3)


@pytest.mark.parametrize("scheme", ["qjl2", "qjl1o"])
def test_values_estimate_products_without_bias(scheme):
    """⟨Sq, c·‖x‖·sign(Sx)⟩, averaged over seeds, is ⟨q, x⟩."""
    dim, stored = 64, form(scheme, 64)
    q, x = RNG.standard_normal((2, dim)).astype("float32")
    estimates, exact = [], q @ x
    for seed in range(200):
        projected = sketch.project(x, stored, seed)
        bits = projected > 0
        signs = np.packbits(bits, bitorder="little").view("<u2")[None]
        norms = [np.linalg.norm(x[b.source[0] : sum(b.source)]) for b in stored.bands if b.sketch]
        norms = np.array([norms], "float16")
        if seed == 0:
            values = run_op(lambda s, n: sign_values(s, n, scheme=scheme, head_dim=dim), s=signs, n=norms)[0]
            sizes = np.abs(values)
            np.testing.assert_array_equal(values > 0, bits)
        estimates.append(sketch.project(q, stored, seed) @ np.where(bits, sizes, -sizes))
    assert abs(np.mean(estimates) - exact) < 4 * np.std(estimates) / len(estimates) ** 0.5


def test_norms_that_float16_cannot_hold_are_nan():
    x = RNG.standard_normal((3, 16)).astype("float32")
    x[0, 0], x[1, 0] = np.inf, np.nan
    x[2] = 0
    signs, norms = parts(x, "qjl1")
    assert np.isnan(norms[:2]).all()
    assert norms[2] == 0
    assert not signs.any()


def test_rejects_a_scheme_without_sketch():
    x = relax.Var("x", relax.TensorType((2, 64), "float32"))
    with pytest.raises(ValueError, match="no sketch"):
        sign_sketch(x, scheme="tq4", head_dim=64)
