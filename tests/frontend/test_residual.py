"""The residual stream behind an attention."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from tqc.frontend import import_model


@pytest.mark.parametrize("arch", ["llama", "qwen2", "mistral"])
def test_it_is_what_the_next_norm_reads(tiny_onnx, arch: str) -> None:
    path = tiny_onnx(arch=arch)
    proto = onnx.load(path)
    names = [layer.residual for layer in import_model(path).layers]
    assert len(set(names)) == len(names)
    for name in names:
        node = next(n for n in proto.graph.node if name in n.output)
        assert node.op_type == "Add"
        readers = [n.op_type for n in proto.graph.node if name in n.input]
        assert set(readers) <= {"Add", "Cast", "Pow", "Mul"}  # the second half's sum, and its norm
        proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"input_ids": np.ones((1, 5), np.int64), "attention_mask": np.ones((1, 5), np.int64)}
    for item in session.get_inputs():
        if item.name.startswith("past"):
            feeds[item.name] = np.zeros((1, item.shape[1], 0, item.shape[3]), np.float32)
        elif item.name == "position_ids":
            feeds[item.name] = np.arange(5)[None]
    for value in session.run(names, feeds):
        assert value.shape[:2] == (1, 5)
