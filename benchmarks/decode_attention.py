"""Times the decode attention of one layer: tqc's CPU kernel on a coded cache against float32 attention elsewhere.

python benchmarks/decode_attention.py --contexts 2048,8192,32768 --geometries 32:8:128,9:3:64 --schemes tq4
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import report
import typer

Call = Callable[[], Any]
METHOD = """\
One decode step of one layer's attention, batch 1, the cache full up to the given context. Every engine has as many
copies of its cache as fill 128 MiB and goes through them in turn, as a model goes through its layers, so that nothing
is in the processor's caches only because the benchmark repeats itself. Engines take turns: a pause in which idle
threads fall asleep, one call that is not counted, four that are; the tables give medians.
onnxruntime: com.microsoft GroupQueryAttention in float32 with past and present bound to the same buffer (nothing is
copied), including its append of one token. torch: scaled_dot_product_attention in float32 with the GQA group as query
rows, which reads K and V once (faster than enable_gqa). numpy: two batched matmuls and a softmax, the same way.
tqc: the decode kernel alone; its append of one token writes 2·KV heads·head_dim floats and is timed as its own row.
KV values/s counts K and V values once per KV head. GB/s counts the bytes of the cache each engine reads."""


class Problem:
    """The vectors every engine starts from: q [H, D], k and v [Hk, context, D], float32."""

    def __init__(self, heads: int, kv_heads: int, dim: int, context: int) -> None:
        self.heads, self.kv_heads, self.dim, self.context = heads, kv_heads, dim, context
        rng = np.random.default_rng(0)
        self.q = rng.standard_normal((heads, dim), np.float32)
        self.k, self.v = rng.standard_normal((2, kv_heads, context, dim), np.float32)
        self.scale = dim**-0.5
        self.values = 2 * kv_heads * context * dim

    def copies(self, byte_count: int) -> range:
        return range(max(1, -(-(128 << 20) // byte_count)))


def onnxruntime_calls(problem: Problem, threads: int) -> tuple[list[Call], Call, int]:
    """Calls, what reads the last output, and the bytes of the cache."""
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper

    p = problem
    names = ["query", "key", "value", "past_key", "past_value", "seqlens_k", "total"]
    node = helper.make_node(
        "GroupQueryAttention",
        names,
        ["output", "present_key", "present_value"],
        domain="com.microsoft",
        num_heads=p.heads,
        kv_num_heads=p.kv_heads,
        scale=p.scale,
    )
    cache = [1, p.kv_heads, p.context, p.dim]
    shapes = {"query": [1, 1, p.heads * p.dim], "key": [1, 1, p.kv_heads * p.dim], "value": [1, 1, p.kv_heads * p.dim]}
    shapes |= {"past_key": cache, "past_value": cache}
    floats = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    integers = [helper.make_tensor_value_info(n, TensorProto.INT32, s) for n, s in (("seqlens_k", [1]), ("total", []))]
    outputs = [("output", shapes["query"]), ("present_key", cache), ("present_value", cache)]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs]
    graph = helper.make_graph([node], "attention", floats + integers, outputs)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    last = p.context - 1
    fixed = {
        "query": p.q.reshape(shapes["query"]),
        "key": p.k[:, last].reshape(shapes["key"]),
        "value": p.v[:, last].reshape(shapes["value"]),
        "seqlens_k": np.array([last], np.int32),
        "total": np.array(p.context, np.int32),
    }
    output = ort.OrtValue.ortvalue_from_numpy(np.zeros(shapes["query"], np.float32))
    calls: list[Call] = []
    for _ in p.copies(p.values * 4):
        binding = session.io_binding()
        for name, array in fixed.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for side, array in (("key", p.k), ("value", p.v)):
            shared = ort.OrtValue.ortvalue_from_numpy(array[None].copy())
            binding.bind_ortvalue_input(f"past_{side}", shared)
            binding.bind_ortvalue_output(f"present_{side}", shared)
        binding.bind_ortvalue_output("output", output)
        calls.append(lambda binding=binding: session.run_with_iobinding(binding))
    return calls, lambda: output.numpy().reshape(p.heads, p.dim), p.values * 4


def torch_calls(problem: Problem, threads: int) -> tuple[list[Call], Call, int]:
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    p = problem
    torch.set_num_threads(threads)
    q = torch.from_numpy(p.q.reshape(1, p.kv_heads, -1, p.dim))
    result: list[Any] = [None]

    def call(k, v) -> None:
        with torch.inference_mode():
            result[0] = scaled_dot_product_attention(q, k, v, scale=p.scale)

    copies = [(torch.from_numpy(p.k[None].copy()), torch.from_numpy(p.v[None].copy())) for _ in p.copies(p.values * 4)]
    calls = [lambda k=k, v=v: call(k, v) for k, v in copies]
    return calls, lambda: result[0].numpy().reshape(p.heads, p.dim), p.values * 4


def numpy_calls(problem: Problem, threads: int) -> tuple[list[Call], Call, int]:
    p = problem
    q = p.q.reshape(p.kv_heads, -1, p.dim) * np.float32(p.scale)
    result: list[Any] = [None]

    def call(k: np.ndarray, v: np.ndarray) -> None:
        scores = q @ k.swapaxes(1, 2)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        result[0] = (weights / weights.sum(axis=-1, keepdims=True)) @ v

    copies = [(p.k.copy(), p.v.copy()) for _ in p.copies(p.values * 4)]
    calls = [lambda k=k, v=v: call(k, v) for k, v in copies]
    return calls, lambda: result[0].reshape(p.heads, p.dim), p.values * 4


def tqc_calls(problem: Problem, scheme: str, splits: int) -> tuple[dict[str, list[Call]], Call, int]:
    """Calls of decode and of append; the cache is filled by append itself."""
    import ml_dtypes  # noqa: F401 (numpy learns bfloat16)
    import tvm

    from tqc.codec import sketch
    from tqc.codec.layout import CacheLayout
    from tqc.codec.scheme import parse
    from tqc.codegen.target import Target
    from tqc.cpu_levels import best_level, machine_flags
    from tqc.schedules.cpu_append import make_append
    from tqc.schedules.cpu_config import cpu_config
    from tqc.schedules.cpu_decode import make_decode

    p = problem
    target = Target("cpu", best_level(machine_flags()))
    config = cpu_config(target.isa, splits=splits)
    layout = CacheLayout(p.heads, p.kv_heads, p.dim, *parse(scheme))
    functions = {
        "append": make_append(layout, config),
        "decode": make_decode(layout, softmax_scale=p.scale, config=config),
    }
    module = tvm.IRModule({name: f.with_attr("global_symbol", name) for name, f in functions.items()})
    kernels = tvm.compile(module, target=target.tvm_target())
    pages = -(-p.context // layout.page)
    symbols = {"batch": 1, "pages": pages}
    empty = [np.zeros([symbols.get(d, d) for d in spec.shape], spec.dtype) for spec in layout.tensors()]

    def tensors(*arrays: np.ndarray) -> list[Any]:
        return [tvm.runtime.tensor(array) for array in arrays]

    def control(length: int, new: int) -> list[Any]:
        return tensors(np.array([length], np.int32), np.array([new], np.int32), np.arange(pages, dtype=np.int32)[None])

    fresh, last = tensors(p.k[None], p.v[None]), tensors(p.k[None, :, -1:].copy(), p.v[None, :, -1:].copy())
    k_form, v_form = layout.form("k"), layout.form("v")
    query = np.concatenate([p.q, sketch.project(p.q, k_form)], axis=-1)[None, :, None]
    (q, y), step = tensors(query, np.zeros((1, p.heads, 1, v_form.rows), np.float32)), control(p.context - 1, 1)
    first = tensors(*empty)
    kernels["append"](*fresh, *control(0, p.context), *first)
    filled = [tensor.numpy() for tensor in first]
    coded = layout.coded(p.context)
    scales = sum(a.nbytes for a, spec in zip(filled, layout.tensors(), strict=True) if spec.name.endswith("scale"))
    codes = sum(a.nbytes for a, spec in zip(filled, layout.tensors(), strict=True) if spec.name.endswith("codes"))
    size = (scales + codes) * coded // (pages * layout.page) + (p.context - coded) * 2 * p.kv_heads * p.dim * 4
    calls: dict[str, list[Call]] = {"decode": [], "append": []}
    for _ in p.copies(size):
        state = tensors(*filled)
        calls["decode"].append(lambda state=state: kernels["decode"](q, *step, *state, y))
        calls["append"].append(lambda state=state: kernels["append"](*last, *step, *state))

    def read() -> np.ndarray:
        out = y.numpy().reshape(p.heads, v_form.rows)
        return out[:, : p.dim] + sketch.fold(out[:, p.dim :], v_form)

    return calls, read, size


def measure(engines: dict[str, Iterator[Call]], rounds: int) -> dict[str, list[float]]:
    """Seconds of `4 * rounds` calls of each engine."""
    samples: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, calls in engines.items():
            time.sleep(0.2)
            next(calls)()
            for _ in range(4):
                call = next(calls)
                begin = time.perf_counter()
                call()
                samples[name].append(time.perf_counter() - begin)
    return samples


def run(problem: Problem, schemes: list[str], threads: int, rounds: int, splits: int) -> list[dict[str, Any]]:
    """One row per engine: seconds, bytes read, relative error against numpy's float32 result."""
    engines: dict[str, list[Call]] = {}
    sizes: dict[str, int] = {}
    readers: dict[str, Call] = {}
    float32 = {"onnxruntime": onnxruntime_calls, "torch": torch_calls, "numpy": numpy_calls}
    for name, make in float32.items():
        engines[name], readers[name], sizes[name] = make(problem, threads)
    for scheme in schemes:
        calls, reader, size = tqc_calls(problem, scheme, splits)
        engines[f"tqc {scheme}"], readers[f"tqc {scheme}"], sizes[f"tqc {scheme}"] = calls["decode"], reader, size
        engines[f"tqc {scheme} append"] = calls["append"]
    samples = measure({name: cycle(calls) for name, calls in engines.items()}, rounds)
    exact = readers["numpy"]()
    return [
        {
            "engine": name,
            "heads": f"{problem.heads}:{problem.kv_heads}",
            "head_dim": problem.dim,
            "context": problem.context,
            "seconds": seconds,
            "bytes": sizes.get(name),
            "kv_values": problem.values if name in sizes else None,
            "error": float(np.linalg.norm(readers[name]() - exact) / np.linalg.norm(exact))
            if name in readers
            else None,
        }
        for name, seconds in samples.items()
    ]


def tables(rows: list[dict[str, Any]]) -> str:
    """The Markdown table; speed is relative to onnxruntime in the same problem."""
    base = {(r["heads"], r["context"]): median(r["seconds"]) for r in rows if r["engine"] == "onnxruntime"}
    lines = []
    for r in rows:
        seconds = median(r["seconds"])
        line = [r["heads"], str(r["head_dim"]), str(r["context"]), r["engine"], f"{seconds * 1e3:.3f}"]
        line.append(f"{min(r['seconds']) * 1e3:.3f}")
        if r["bytes"]:
            line += [f"{r['bytes'] / seconds / 1e9:.1f}", f"{r['kv_values'] / seconds / 1e9:.2f}"]
            line += [f"{base[r['heads'], r['context']] / seconds:.2f}", f"{r['error']:.1e}"]
        else:
            line += [""] * 4
        lines.append(line)
    header = ["heads", "head_dim", "context", "engine", "ms (median)", "ms (min)", "GB/s", "G KV values/s"]
    return report.table([*header, "× onnxruntime", "error"], lines)


def main(
    contexts: Annotated[str, typer.Option(help="Tokens in the cache, comma-separated.")] = "2048,8192,32768",
    geometries: Annotated[str, typer.Option(help="query heads:KV heads:head_dim.")] = "32:8:128,9:3:64",
    schemes: Annotated[str, typer.Option(help="Cache schemes, comma-separated: tq4, k4v3, k:qjl2,v:tq3.")] = "tq4",
    threads: Annotated[int, typer.Option(help="Threads of every engine; 0: one per core.")] = 0,
    rounds: Annotated[int, typer.Option(help="Turns of each engine, four timed calls each.")] = 8,
    splits: Annotated[int, typer.Option(help="Tasks per KV head.")] = 4,
    output: Annotated[Path, typer.Option(help="Where the .json and the .md go.")] = report.RESULTS / "decode_attention",
) -> None:
    threads = threads or len(os.sched_getaffinity(0))
    os.environ["TVM_NUM_THREADS"] = str(threads)
    rows = []
    for geometry in geometries.split(","):
        heads, kv_heads, dim = map(int, geometry.split(":"))
        for context in map(int, contexts.split(",")):
            rows += run(Problem(heads, kv_heads, dim, context), re.split(r",(?!v:)", schemes), threads, rounds, splits)
    text = tables(rows)
    load = os.getloadavg()[0]
    method = f"{METHOD}\n{threads} threads each; load average at the end {load:.1f}."
    report.write(output, "Decode attention of one layer on the CPU", method, {"rows": rows}, text)
    print(text)


if __name__ == "__main__":
    typer.run(main)
