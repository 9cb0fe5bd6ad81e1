"""The packed CPU matmul beside onnxruntime's MatMul and torch.mm on the shapes of a small decoder.

    python benchmarks/matmul.py --rows 1 16 512 --shapes 576x1536 576x49152

onnxruntime and tqc lay the weight out once and ahead; torch gets it as it is. The engines take turns in rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from engines import limit_threads
from report import RESULTS, table, write

PAUSE_SECONDS = 0.05
METHOD = """\
float32, {threads} threads for each engine, one process. In each of {rounds} rounds every engine takes a turn: a pause
(idle threads of the engine before stop spinning), two calls that are not timed, then calls for about {turn} s, of which
the round keeps the median. The weight stays in the caches where it fits. A cell is the median of the rounds."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shapes = ["576x576", "576x1536", "1536x576", "576x49152", "4096x4096"]
    parser.add_argument("--shapes", nargs="+", default=shapes, help="KxN")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 16, 128, 512])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turn", type=float, default=0.05, help="seconds of one turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--mcpu", default="x86-64-v4", help="LLVM processor to compile for")
    parser.add_argument("--output", type=Path, default=RESULTS / "matmul", help="without ending")
    options = parser.parse_args(arguments)
    limit_threads(options.threads)

    results = []
    for shape in options.shapes:
        k, n = (int(part) for part in shape.split("x"))
        weight = np.random.default_rng(0).standard_normal((k, n), np.float32)
        engines = prepare(weight, options)
        for rows in options.rows:
            x = np.random.default_rng(1).standard_normal((rows, k), np.float32)
            calls = {name: bind(x) for name, bind in engines.items()}
            check(calls, x, weight)
            results.append({"k": k, "n": n, "rows": rows, "seconds": take_turns(calls, options)})
            print(row(results[-1]), flush=True)

    header = ["K", "N", "rows", *(f"{name}, µs" for name in engines), "onnxruntime / tqc", "GFLOP/s of tqc"]
    load = os.getloadavg()
    method = METHOD.format(**vars(options)).replace("\n", " ")
    method += f" Load average at the end: {load[0]:.1f}; above {options.threads} others used the processor as well."
    write(
        options.output,
        "Matmul with a constant weight",
        method,
        {"load_average": load, "results": results},
        table(header, [*map(row, results)]),
    )


def prepare(weight: np.ndarray, options: argparse.Namespace) -> dict[str, Callable]:
    """Engine → function that binds activations and returns a call without arguments that returns the product."""
    return {
        "tqc": _tqc(weight, options),
        "onnxruntime": _onnxruntime(weight, options),
        "torch": _torch(weight, options),
    }


def take_turns(calls: dict[str, Callable], options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of one call, a median for each round, by engine."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(options.rounds):
        for name, call in calls.items():
            time.sleep(PAUSE_SECONDS)
            call()
            call()
            samples, end = [], time.perf_counter() + options.turn
            while not samples or time.perf_counter() < end:
                start = time.perf_counter()
                call()
                samples.append(time.perf_counter() - start)
            seconds[name].append(statistics.median(samples))
    return seconds


def check(calls: dict[str, Callable], x: np.ndarray, weight: np.ndarray) -> None:
    """Raises AssertionError if an engine computes something else."""
    expected = x[:2] @ weight
    for call in calls.values():
        found = call()
        found = found.numpy() if hasattr(found, "numpy") else np.asarray(found)
        np.testing.assert_allclose(found[:2], expected, rtol=1e-3, atol=1e-2)


def row(result: dict) -> list[str]:
    """A line of the table."""
    median = {name: statistics.median(values) for name, values in result["seconds"].items()}
    work = 2 * result["k"] * result["n"] * result["rows"]
    times = [f"{seconds * 1e6:.1f}" for seconds in median.values()]
    ratio = median["onnxruntime"] / median["tqc"]
    return [
        str(result["k"]),
        str(result["n"]),
        str(result["rows"]),
        *times,
        f"{ratio:.2f}",
        f"{work / median['tqc'] / 1e9:.0f}",
    ]


def _tqc(weight: np.ndarray, options: argparse.Namespace) -> Callable:
    import tvm

    from tqc.schedules.cpu_matmul import MatmulConfig, make_matmul, pack_columns

    target = tvm.target.Target({"kind": "llvm", "mcpu": options.mcpu})
    k, n = weight.shape
    func = make_matmul(k, n, config=MatmulConfig.for_target(target)).with_attr("global_symbol", "main")
    kernel = tvm.compile(tvm.IRModule({"main": func}), target=target)["main"]
    packed = tvm.runtime.tensor(pack_columns(weight))

    def bind(x: np.ndarray) -> Callable:
        source, result = tvm.runtime.tensor(x), tvm.runtime.tensor(np.empty((len(x), n), np.float32))

        def call() -> np.ndarray:
            kernel(source, packed, result)
            return np.from_dlpack(result)

        return call

    return bind


def _onnxruntime(weight: np.ndarray, options: argparse.Namespace) -> Callable:
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    k, n = weight.shape
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "matmul",
        [value("x", TensorProto.FLOAT, ["rows", k])],
        [value("y", TensorProto.FLOAT, ["rows", n])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])

    def bind(x: np.ndarray) -> Callable:
        binding = session.io_binding()
        result = ort.OrtValue.ortvalue_from_shape_and_type((len(x), n), np.float32, "cpu", 0)
        binding.bind_cpu_input("x", x)
        binding.bind_ortvalue_output("y", result)

        def call() -> np.ndarray:
            session.run_with_iobinding(binding)
            return result

        return call

    return bind


def _torch(weight: np.ndarray, options: argparse.Namespace) -> Callable:
    import torch

    torch.set_num_threads(options.threads)
    matrix = torch.from_numpy(weight)

    def bind(x: np.ndarray) -> Callable:
        source, result = torch.from_numpy(x), torch.empty((len(x), matrix.shape[1]))

        def call() -> torch.Tensor:
            return torch.mm(source, matrix, out=result)

        return call

    return bind


if __name__ == "__main__":
    main()
