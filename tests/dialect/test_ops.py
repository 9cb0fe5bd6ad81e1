"""Type rules and lowering of the smaller ops."""

import numpy as np
import pytest
import tvm
from tvm import relax

from tqc.codec import rotation
from tqc.dialect import attention, last_token, positions, rms_norm, rope, rotate


def run_op(build, **arrays):
    """Legalizes and runs `build(*vars)` on the arrays."""
    params = [relax.Var(name, relax.TensorType(a.shape, str(a.dtype))) for name, a in arrays.items()]
    bb = relax.BlockBuilder()
    with bb.function("main", params):
        with bb.dataflow():
            out = bb.emit_output(bb.emit(build(*params)))
        bb.emit_func_output(out)
    module = relax.transform.LegalizeOps()(bb.get())
    vm = relax.VirtualMachine(relax.build(module, tvm.target.Target("llvm")), tvm.cpu())
    return vm["main"](*(tvm.runtime.tensor(a) for a in arrays.values())).numpy()


RNG = np.random.default_rng(0)


def test_rms_norm():
    x, weight = RNG.standard_normal((2, 3, 8)).astype("float32"), RNG.standard_normal(8).astype("float32")
    truth = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weight
    np.testing.assert_allclose(run_op(lambda x, w: rms_norm(x, w, epsilon=1e-5), x=x, w=weight), truth, rtol=1e-5)


def test_rope_turns_pairs_half_a_head_apart():
    x = RNG.standard_normal((1, 2, 3, 8)).astype("float32")
    at, inv_freq = np.array([[5, 6, 100]]), (10.0 ** -np.arange(4)).astype("float32")
    angle = np.concatenate([at[..., None] * inv_freq] * 2, -1)[:, None]
    half = np.concatenate([-x[..., 4:], x[..., :4]], -1)
    truth = x * np.cos(angle) + half * np.sin(angle)
    got = run_op(lambda x, p, f: rope(x, p, f), x=x, p=at, f=inv_freq)
    np.testing.assert_allclose(got, truth, atol=2e-5)


@pytest.mark.parametrize("head_dim", [64, 80])
def test_rotate_and_its_inverse(head_dim):
    x = RNG.standard_normal((2, 1, 3, head_dim)).astype("float32")
    rotated = run_op(lambda x: rotate(x), x=x)
    np.testing.assert_allclose(rotated, x @ rotation.matrix(head_dim).T, atol=1e-5)
    np.testing.assert_allclose(run_op(lambda x: rotate(x, inverse=True), x=rotated), x, atol=1e-5)


def test_positions_and_last_token():
    length, ids = np.array([3, 0], "int32"), np.zeros((2, 4), "int64")
    assert run_op(positions, length=length, ids=ids).tolist() == [[3, 4, 5, 6], [0, 1, 2, 3]]
    hidden = np.arange(2 * 4 * 3, dtype="float32").reshape(2, 4, 3)
    got = run_op(last_token, hidden=hidden, new_len=np.array([2, 0], "int32"))
    np.testing.assert_array_equal(got, [hidden[0, 1:2], hidden[1, 0:1]])


def test_reject_wrong_ranks():
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    with pytest.raises(TypeError, match="rank 4"):
        relax.BlockBuilder().normalize(attention(x, x, x, x, x, scale=1.0))
