"""`tqc.kv_codes` in the cache's basis against the codec in NumPy."""

import numpy as np
import pytest
from run_op import run_op
from tvm import relax

from tqc.codec.banded import Banded
from tqc.codec.exact import Exact
from tqc.codec.polar import Polar
from tqc.dialect import kv_codes

RNG = np.random.default_rng(0)


def test_codes_without_their_sketch():
    z = RNG.standard_normal((9, 64)).astype("float32")
    codec = Banded("tqp4", 64)
    expected = codec.dequantize(*codec.quantize(z))[..., :64]
    np.testing.assert_allclose(run_op(lambda z: kv_codes(z, scheme="tqp4"), z=z), expected, atol=1e-5)
    np.testing.assert_array_equal(run_op(lambda z: kv_codes(z, scheme="qjl1"), z=z), np.zeros_like(z))


def test_angles_on_the_axes_and_of_zeros():
    """Coordinates that are zero put angles on the borders of quadrants: any neighbouring code is right."""
    z = np.zeros((6, 16), "float32")
    z[0, 0], z[1, 1], z[2, 2], z[3, 3] = 1, 1, -1, -1
    z[4] = RNG.choice([-1, 1], 16)
    codec = Polar("polar-plain", 16)
    expected = codec.dequantize(*codec.quantize(z))
    found = run_op(lambda z: kv_codes(z, scheme="polar-plain"), z=z)
    np.testing.assert_array_equal(found[5], 0)
    for row in range(5):
        error, reference = (np.square(x[row] - z[row]).sum() for x in (found, expected))
        np.testing.assert_allclose(error, reference, atol=1e-5)


def test_blocks_that_float16_cannot_hold_are_lost():
    z = np.full((1, 32), 3.0, "float32")
    z[0, :16] = 3e4
    found = run_op(lambda z: kv_codes(z, scheme="polar-plain"), z=z)
    assert np.isnan(found[0, :16]).all()
    assert np.isfinite(found[0, 16:]).all()


def test_rejects_several_bands():
    z = relax.Var("z", relax.TensorType((2, 64), "float32"))
    with pytest.raises(ValueError, match="2 bands"):
        relax.BlockBuilder().normalize(kv_codes(z, scheme="tq2.5"))


def test_bfloat16_is_rounded_although_it_is_never_stored():
    z = np.concatenate([RNG.standard_normal(59), [0, np.inf, -np.inf, np.nan, 3.4e38]]).astype("float32")
    z[:2] = np.array([0x3F808000, 0x3F818000], "uint32").view("float32")  # ties
    wanted = Exact("bf16", 64)
    found = run_op(lambda z: kv_codes(z, scheme="bf16"), z=z[None])
    np.testing.assert_array_equal(found[0], wanted.decode(wanted.encode(z)))
