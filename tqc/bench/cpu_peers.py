"""Full-precision attention elsewhere, on the CPU: onnxruntime's GroupQueryAttention and torch, in float32."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from .problem import Problem
from .timing import Candidate, Maker, copies

TOLERANCE = 1e-4


def peers() -> dict[str, Callable[[Problem, int], Maker]]:
    """What is installed, by name; made for a problem and a number of threads."""
    found = {"onnxruntime": onnxruntime_peer}
    return found | {"torch": torch_peer} if importlib.util.find_spec("torch") else found


def onnxruntime_peer(problem: Problem, threads: int) -> Maker:
    """com.microsoft GroupQueryAttention. Past and present are one buffer, so that nothing is copied; its append of one
    token is part of the call."""
    memory = _size(problem) * copies(_size(problem))
    return Maker("onnxruntime", "peer", memory, lambda: _onnxruntime(problem, threads), exact=True)


def torch_peer(problem: Problem, threads: int) -> Maker:
    """scaled_dot_product_attention with a GQA group as query rows, which reads K and V once: faster than enable_gqa."""
    memory = _size(problem) * copies(_size(problem))
    return Maker("torch", "peer", memory, lambda: _torch(problem, threads), exact=True)


def _size(problem: Problem) -> int:
    return problem.values * 4


def _batched(problem: Problem, side: str) -> np.ndarray:
    """float32 [batch, kv_heads, context, dim], in new memory."""
    return np.repeat(problem.all_of(side)[None], problem.batch, axis=0)


def _onnxruntime(problem: Problem, threads: int) -> Candidate:
    import onnxruntime as ort

    p, last = problem, problem.context - 1
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    model = attention_model(problem)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fixed = {
        "query": p.q.reshape(p.batch, 1, -1),
        "key": _new_token(p, "k"),
        "value": _new_token(p, "v"),
        "seqlens_k": np.full(p.batch, last, np.int32),
        "total": np.array(p.context, np.int32),
    }
    output = ort.OrtValue.ortvalue_from_numpy(np.full((p.batch, 1, p.q[0].size), np.nan, np.float32))
    calls: list[Callable[[], Any]] = []
    for _ in range(copies(_size(p))):
        binding = session.io_binding()
        for name, array in fixed.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for side in ("key", "value"):
            shared = ort.OrtValue.ortvalue_from_numpy(_batched(p, side[0]))
            binding.bind_ortvalue_input(f"past_{side}", shared)
            binding.bind_ortvalue_output(f"present_{side}", shared)
        binding.bind_ortvalue_output("output", output)
        calls.append(lambda binding=binding: session.run_with_iobinding(binding))
    return Candidate(calls, _size(p), lambda: output.numpy().reshape(p.q.shape), p.exact, TOLERANCE)


def _new_token(problem: Problem, side: str) -> np.ndarray:
    """The last token again, as it lies in the cache: [batch, 1, kv_heads·dim]."""
    vectors = getattr(problem, side)
    token = vectors[:, (problem.context - 1) % vectors.shape[1]].reshape(1, 1, -1)
    return np.repeat(token, problem.batch, axis=0)


def attention_model(problem: Problem) -> Any:
    """An ONNX model of one GroupQueryAttention node, checked."""
    import onnx
    from onnx import TensorProto, helper

    p, g = problem, problem.geometry
    names = ["query", "key", "value", "past_key", "past_value", "seqlens_k", "total"]
    node = helper.make_node(
        "GroupQueryAttention",
        names,
        ["output", "present_key", "present_value"],
        domain="com.microsoft",
        num_heads=g.heads,
        kv_num_heads=g.kv_heads,
        scale=p.scale,
    )
    cache, token = [p.batch, g.kv_heads, p.context, g.dim], [p.batch, 1, g.kv_heads * g.dim]
    shapes = {"query": [p.batch, 1, g.heads * g.dim], "key": token, "value": token}
    shapes |= {"past_key": cache, "past_value": cache}
    floats = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    counts = (("seqlens_k", [p.batch]), ("total", []))
    integers = [helper.make_tensor_value_info(name, TensorProto.INT32, shape) for name, shape in counts]
    outputs = [("output", shapes["query"]), ("present_key", cache), ("present_value", cache)]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs]
    graph = helper.make_graph([node], "attention", floats + integers, outputs)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    return model


def _torch(problem: Problem, threads: int) -> Candidate:
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    p = problem
    torch.set_num_threads(threads)
    q = torch.from_numpy(p.q.reshape(p.batch, p.geometry.kv_heads, -1, p.geometry.dim))
    result: list[Any] = [None]

    def call(k: Any, v: Any) -> None:
        with torch.inference_mode():
            result[0] = scaled_dot_product_attention(q, k, v, scale=p.scale)

    pairs = [[torch.from_numpy(_batched(p, side)) for side in "kv"] for _ in range(copies(_size(p)))]
    calls = [lambda k=k, v=v: call(k, v) for k, v in pairs]
    return Candidate(calls, _size(p), lambda: result[0].numpy().reshape(p.q.shape), p.exact, TOLERANCE)
