"""What only graphs without a cache keep, against onnxruntime, and what is refused because it means something else."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from tqc.errors import FrontendError
from tqc.frontend.forward import import_forward
from tqc.frontend.load import load

X = np.random.default_rng(0).standard_normal((2, 3, 16), np.float32)


def _save(folder, op, constants=(), rank=3, opset=17, operands=("x",), **attrs):
    constants = {f"c{n}": np.asarray(value) for n, value in enumerate(constants)}
    node = helper.make_node(op, [*operands, *constants], ["y"], "node", **attrs)
    shapes = {"x": ["batch", "seq", 16], "y": [f"n{axis}" for axis in range(rank)]}
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph([node], "g", [x], [y], stored)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), folder / "m.onnx"
    )
    return folder / "m.onnx"


CASES = {
    "Flatten-all": ([], {"axis": 3, "rank": 2}),
    "Flatten-rows": ([], {"axis": -1, "rank": 2}),
    "Flatten-none": ([], {"axis": 0, "rank": 2}),
    "CumSum": ([np.int64(-1)], {}),
    "GatherElements": ([np.zeros((2, 3, 1), np.int64) + 7], {"axis": 2}),
    "GatherND": ([np.array([[0, 1], [1, 2]])], {"rank": 2}),
    "Mod": ([np.float32(0.7)], {"fmod": 1}),
    "Tile": ([np.array([1, 2, 1])], {}),
    "Trilu": ([np.int64(0)], {"upper": 0}),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_onnxruntime(tmp_path, name):
    constants, options = CASES[name]
    path = _save(tmp_path, name.split("-")[0], constants, **options)
    machine = relax.VirtualMachine(relax.build(import_forward(load(path)).mod, tvm.target.Target("llvm")), tvm.cpu())
    (expected,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": X})
    found = machine["forward"](tvm.runtime.tensor(X))[0].numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("op", "constants", "attrs"),
    [("GatherElements", [np.array([[[-1]]])], {}), ("GatherND", [np.array([[0, -1]])], {"rank": 2})],
)
def test_indices_from_the_end_are_refused(tmp_path, op, constants, attrs):
    with pytest.raises(FrontendError, match="counts from the end") as error:
        import_forward(load(_save(tmp_path, op, constants, **attrs)))
    assert "node" in error.value.where


@pytest.mark.parametrize("side", ["left", "right"])
def test_attention_with_a_window_is_refused(tmp_path, side):
    attrs = {"q_num_heads": 2, "kv_num_heads": 2, f"{side}_window_size": 1}
    with pytest.raises(FrontendError, match="a window"):
        import_forward(load(_save(tmp_path, "Attention", operands=("x", "x", "x"), opset=25, **attrs)))
