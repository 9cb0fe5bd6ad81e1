"""Every builder against onnxruntime on the same node."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from tqc.errors import FrontendError
from tqc.frontend.graph import Node
from tqc.frontend.operators import BUILDERS, Operands

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((2, 3, 8), np.float32)
Y = RANDOM.standard_normal((2, 3, 8), np.float32)
M = RANDOM.standard_normal((8, 5), np.float32)
V = RANDOM.standard_normal(8, np.float32)
S = RANDOM.standard_normal(5, np.float32)


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


class _Context:
    """Just enough of a function under construction for one node."""

    def __init__(self, builder: relax.BlockBuilder, types: dict[str, str]) -> None:
        self.emit, self.types = builder.emit, types


def _ours(op: str, data: list, constants: list, attrs: dict, outputs: list[str], types: dict) -> list[np.ndarray]:
    """`data` are arguments, `constants` operands behind them (None: left out)."""
    names = [f"x{n}" for n in range(len(data))] + [f"c{n}" if c is not None else "" for n, c in enumerate(constants)]
    node = Node(op, names, outputs, attrs, "node")
    builder = relax.BlockBuilder()
    params = [relax.Var(f"x{n}", relax.TensorType(a.shape, str(a.dtype))) for n, a in enumerate(data)]
    with builder.function("main", params):
        with builder.dataflow():
            exprs = [*params, *(None if c is None else relax.const(c, str(c.dtype)) for c in constants)]
            operands = Operands(node, exprs, [None] * len(data) + constants, _Context(builder, types))
            result = builder.emit_output(builder.emit(BUILDERS[op](operands, node)))
        builder.emit_func_output(result)
    machine = relax.VirtualMachine(relax.build(builder.get(), tvm.target.Target("llvm")), tvm.cpu())
    found = machine["main"](*map(tvm.runtime.tensor, data))
    return [found.numpy()] if len(outputs) == 1 else [part.numpy() for part in found]


def _theirs(op: str, data: list, constants: list, attrs: dict, outputs: list[str], opset: int) -> list[np.ndarray]:
    names = [f"x{n}" for n in range(len(data))] + [f"c{n}" if c is not None else "" for n, c in enumerate(constants)]
    node = helper.make_node(op, names, outputs, **attrs)
    inputs = [
        helper.make_tensor_value_info(f"x{n}", helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in enumerate(data)
    ]
    stored = [numpy_helper.from_array(c, f"c{n}") for n, c in enumerate(constants) if c is not None]
    infos = [helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = helper.make_graph([node], "g", inputs, infos, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {f"x{n}": a for n, a in enumerate(data)})


CASES = {
    "Abs": ([X], [], {}),
    "Add": ([X, V], [], {}),
    "And": ([X > 0, Y > 0], [], {}),
    "Cast": ([X], [], {"to": TensorProto.FLOAT16}),
    "Clip": ([X], [np.float32(-0.5), np.float32(0.5)], {}),
    "Clip-above": ([X], [None, np.float32(0.5)], {}),
    "Clip-crossed": ([X], [np.float32(0.5), np.float32(-0.5)], {}),
    "Concat": ([X, Y], [], {"axis": -1}),
    "Cos": ([X], [], {}),
    "Div": ([X, V], [], {}),
    "Equal": ([X, np.where(Y > 0, X, Y)], [], {}),
    "Erf": ([X], [], {}),
    "Exp": ([X], [], {}),
    "Gather": ([X, _ints(2, 0)], [], {"axis": 1}),
    "Gather-scalar": ([X, np.int64(1)], [], {"axis": 2}),
    "Gather-last": ([X], [np.int64(-1)], {"axis": 2}),
    "Gather-from-the-end": ([X], [_ints(-1, 0, -3)], {"axis": 1}),
    "Gather-computed-from-the-end": ([X, _ints(-1, 0, -3, 2)], [], {"axis": 1}),
    "Gemm": ([X[0], M, S], [], {"alpha": 0.5, "beta": 2.0}),
    "Gemm-transposed": ([X[0].T.copy(), M.T.copy()], [], {"transA": 1, "transB": 1}),
    "Greater": ([X, Y], [], {}),
    "GreaterOrEqual": ([X, np.where(Y > 0, X, Y)], [], {}),
    "LayerNormalization": ([X, V, V], [], {"epsilon": 1e-3}),
    "LayerNormalization-plain": ([X, V], [], {}),
    "Less": ([X, Y], [], {}),
    "LessOrEqual": ([X, np.where(Y > 0, X, Y)], [], {}),
    "Log": ([np.abs(X) + 1], [], {}),
    "MatMul": ([X, M], [], {}),
    "MatMul-float16": ([X.astype(np.float16), M.astype(np.float16)], [], {}),
    "Max": ([X, Y, V], [], {}),
    "Min": ([X, V], [], {}),
    "Mul": ([X, V], [], {}),
    "Neg": ([X], [], {}),
    "Not": ([X > 0], [], {}),
    "Or": ([X > 0, Y > 0], [], {}),
    "Pow": ([np.abs(X), Y], [], {}),
    "Pow-integer": ([X], [np.array([2], np.int32)], {}),
    "Reciprocal": ([X + 4], [], {}),
    "ReduceMax": ([X], [], {"axes": [-1]}),
    "ReduceMax-all": ([np.arange(6).reshape(2, 3)], [], {"keepdims": 0}),
    "ReduceMean": ([X], [], {"axes": [1], "keepdims": 0}),
    "ReduceMin": ([X], [], {"axes": [1], "keepdims": 0}),
    "ReduceSum": ([X], [_ints(-1)], {}),
    "ReduceSum-none": ([X], [], {"noop_with_empty_axes": 1}),
    "ReduceSum-all": ([X], [_ints()], {}),
    "Relu": ([X], [], {}),
    "Sigmoid": ([X], [], {}),
    "Sin": ([X], [], {}),
    "Slice": ([X], [_ints(1), _ints(1 << 62), _ints(1)], {}),
    "Slice-last-axis": ([X], [_ints(1), _ints(3), _ints(-1)], {}),
    "Slice-steps": ([X], [_ints(-1), _ints(-9), _ints(2), _ints(-2)], {}),
    "Slice-first-axes": ([X], [_ints(0, 1), _ints(1, 3)], {}),
    "Softmax": ([X], [], {"axis": 1}),
    "Split": ([X], [_ints(2, 6)], {"axis": 2}),
    "Split-even": ([X], [], {"axis": 2, "num_outputs": 2}),
    "Sqrt": ([np.abs(X)], [], {}),
    "Squeeze": ([X[:, :1]], [_ints(1)], {}),
    "Squeeze-all": ([X[:, :1]], [], {}),
    "Sub": ([X, V], [], {}),
    "Tanh": ([X], [], {}),
    "Transpose": ([X], [], {"perm": [2, 0, 1]}),
    "Transpose-reverse": ([X], [], {}),
    "Unsqueeze": ([X], [_ints(0, -1)], {}),
    "Where": ([X > 0, X, Y], [], {}),
}

ELSEWHERE = {
    "Expand",
    "Reshape",
    "Gelu",
    "tqc::GatherNBits",
    "tqc::MatMulNBits",
    "tqc::Attention",
    "tqc::RMSNorm",
    "tqc::Rope",
}
"""Built from sizes or by the dialect, and tested with whole models; Gelu is newer than the opsets that are read."""


def test_every_builder_has_a_case():
    assert {name.split("-")[0] for name in CASES} | ELSEWHERE == set(BUILDERS)


@pytest.mark.parametrize("name", CASES)
def test_equals_onnxruntime(name):
    op = name.split("-")[0]
    data, constants, attrs = CASES[name]
    data = [np.asarray(array) for array in data]
    constants = [None if c is None else np.asarray(c) for c in constants]
    outputs = ["y", "z"] if op == "Split" else ["y"]
    opset = 18 if "num_outputs" in attrs else 17
    expected = _theirs(op, data, constants, attrs, outputs, opset)
    found = _ours(op, data, constants, attrs, outputs, {"y": "float16"})
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-3 if ours.dtype == np.float16 else 2e-6)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(approximate):
    (found,) = _ours("Gelu", [X], [], {"approximate": approximate}, ["y"], {})
    (expected,) = _theirs("Gelu", [X], [], {"approximate": approximate}, ["y"], 20)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_operands_that_must_be_constant():
    with pytest.raises(FrontendError, match="must be constant"):
        _ours("Unsqueeze", [X, _ints(0)], [], {}, ["y"], {})


def test_token_ids_outside_the_vocabulary_read_the_edge():
    table = RANDOM.standard_normal((5, 4), np.float32)
    (found,) = _ours("Gather", [table, _ints(4, 5, 1 << 40)], [], {}, ["y"], {})
    np.testing.assert_array_equal(found, table[[4, 4, 4]])


def test_float16_sums_are_kept_in_float32():
    """2048 + 1 is 2048 in float16: a sum in float16 would lose every one of the ones."""
    row = np.ones((1, 1025), np.float16)
    row[0, 0] = 2048
    (found,) = _ours("MatMul", [row, np.ones((1025, 1), np.float16)], [], {}, ["y"], {})
    assert found.item() == 3072
