"""How ops of the dialect are declared and recognised."""

import pytest
import tvm
from tvm import relax

from tqc.dialect import attention, is_op_call, rotate
from tqc.dialect.registry import cast, dtype_of


def test_an_op_is_known_to_tvm_and_recognised():
    x = relax.Var("x", relax.TensorType((2, 16), "float32"))
    call = rotate(x)
    assert tvm.ir.Op.get("tqc.rotate").same_as(call.op)
    assert is_op_call(call, "rotate")
    assert not is_op_call(call, "rope")
    assert not is_op_call(x, "rotate")


def test_a_cast_to_the_same_type_is_nothing():
    x = relax.Var("x", relax.TensorType((2, 3), "float16"))
    bb = relax.BlockBuilder()
    with bb.function("main", [x]):
        assert cast(bb, x, "float16").same_as(x)
        wide = cast(bb, x, "float32")
        assert dtype_of(wide.ty) == "float32"
        bb.emit_func_output(wide)


def test_reject_wrong_ranks():
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    with pytest.raises(TypeError, match="rank 4"):
        relax.BlockBuilder().normalize(attention(x, x, x, x, x, scale=1.0))
