"""The rotation on the device: bit for bit that of the codec."""

from __future__ import annotations

import numpy as np
import pytest
from ptx_compile import needs_nvcc
from ptx_kernel import interpreted

from tqc.codec import rotation
from tqc.schedules.cuda_rotate import can_rotate, make_rotate

DIMS = (32, 64, 128, 256, 512)
CASES = [(dim, inverse, 1 + (dim == 64)) for dim in DIMS for inverse in (False, True)]


@pytest.fixture(scope="module")
def kernels():
    needs_nvcc()
    return {
        arch: interpreted(
            {
                f"rotate_{dim}_{int(inverse)}": make_rotate(3, dim, dtype, seed=3, rounds=rounds, inverse=inverse)
                for dim, inverse, rounds in CASES
            },
            arch,
        )
        for arch, dtype in (("sm_80", "float32"), ("sm_90", "float16"))
    }


@pytest.mark.parametrize(("dim", "inverse", "rounds"), CASES)
def test_float32_is_that_of_the_codec(kernels, dim: int, inverse: bool, rounds: int) -> None:
    x = np.random.default_rng(dim).standard_normal((2, 3, 5, dim)).astype(np.float32)
    y = np.zeros_like(x)
    kernels["sm_80"][f"rotate_{dim}_{int(inverse)}"](x, y)
    np.testing.assert_array_equal(y, (rotation.unrotate if inverse else rotation.rotate)(x, 3, rounds))


def test_float16_is_rounded_once(kernels) -> None:
    x = np.random.default_rng(0).standard_normal((1, 2, 3, 128)).astype(np.float16)
    y = np.zeros_like(x)
    kernels["sm_90"]["rotate_128_0"](x, y)
    np.testing.assert_array_equal(y, rotation.rotate(x.astype(np.float32), 3).astype(np.float16))


def test_head_dims() -> None:
    assert [dim for dim in range(16, 529, 16) if can_rotate(dim)] == list(DIMS)
    with pytest.raises(ValueError, match="powers of two"):
        make_rotate(2, 80, "float32")
