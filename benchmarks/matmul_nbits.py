"""The CPU product with a 4 or 8 bit weight beside onnxruntime's MatMulNBits.

    python benchmarks/matmul_nbits.py --rows 1 128 --shapes 576x1536 4096x4096

onnxruntime computes with accuracy level 0 (float32, what tqc does) and 4 (activations rounded to 8 bits). The engines
take turns in rounds; a weight that the processor's caches hold stays in them.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
from engines import limit_threads
from matmul import take_turns
from report import RESULTS, table, write

METHOD = """\
Weights of {bits} bits in blocks of {block} with float32 scales and no zero points, float32 activations, {threads}
threads for each engine, one process. In each of {rounds} rounds every engine takes a turn: a pause, two calls that are
not timed, then calls for about {turn} s, of which the round keeps the median. A cell is the median of the rounds; the
error is the largest difference from a float64 product, over the largest result."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["576x1536", "2048x8192", "4096x4096"], help="KxN")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 128])
    parser.add_argument("--bits", type=int, default=4, choices=(4, 8))
    parser.add_argument("--block", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--turn", type=float, default=0.1, help="seconds of one turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--mcpu", default="x86-64-v4", help="LLVM processor to compile for")
    parser.add_argument("--output", type=Path, default=RESULTS / "matmul_nbits", help="without ending")
    options = parser.parse_args(arguments)
    limit_threads(options.threads)

    results = []
    for shape in options.shapes:
        k, n = (int(part) for part in shape.split("x"))
        weight = Weight(k, n, options)
        engines = {
            "tqc": _tqc(weight, options),
            "onnxruntime, level 0": _onnxruntime(weight, options, 0),
            "onnxruntime, level 4": _onnxruntime(weight, options, 4),
        }
        for rows in options.rows:
            x = np.random.default_rng(1).standard_normal((rows, k), np.float32)
            calls = {name: bind(x) for name, bind in engines.items()}
            errors = {name: weight.error(call, x) for name, call in calls.items()}
            seconds = take_turns(calls, options)
            results.append({"k": k, "n": n, "rows": rows, "bytes": weight.nbytes, "errors": errors, "seconds": seconds})
            print(row(results[-1]), flush=True)

    names = list(results[0]["seconds"])
    header = ["K", "N", "rows", *(f"{name}, µs" for name in names), *(f"{n} / tqc" for n in names[1:]), "GB/s of tqc"]
    header += [f"error of {name}" for name in names]
    load = os.getloadavg()
    method = METHOD.format(**vars(options)).replace("\n", " ")
    method += f" Load average at the end: {load[0]:.1f}; above {options.threads} others used the processor as well."
    write(
        options.output,
        f"Matmul with a weight of {options.bits} bits",
        method,
        {"load_average": load, "results": results},
        table(header, [row(result) for result in results]),
    )


class Weight:
    """A random weight [N, K] as onnxruntime takes it."""

    def __init__(self, k: int, n: int, options: argparse.Namespace) -> None:
        from tqc.codec import nbits

        rng, blocks = np.random.default_rng(0), -(-k // options.block)
        self.k, self.n = k, n
        self.packed = rng.integers(0, 256, (n, blocks, options.block * options.bits // 8), np.uint8)
        self.scales = rng.uniform(0.5, 2, (n, blocks)).astype(np.float32) / 2**options.bits
        self.nbytes = self.packed.nbytes + self.scales.nbytes
        self._dense = nbits.dequantize(self.packed, self.scales, bits=options.bits, width=k)

    def error(self, call: Callable, x: np.ndarray) -> float:
        """The largest error of the first rows, over the largest result. Raises AssertionError above 5 %."""
        expected = x[:2].astype(np.float64) @ self._dense.T
        found = call()
        found = found.numpy() if hasattr(found, "numpy") else np.asarray(found)
        error = float(np.abs(found[:2] - expected).max() / np.abs(expected).max())
        assert error < 0.05, error
        return error


def row(result: dict) -> list[str]:
    """A line of the table."""
    median = {name: statistics.median(values) for name, values in result["seconds"].items()}
    ours, *others = median.values()
    return [
        *(str(result[name]) for name in ("k", "n", "rows")),
        *(f"{seconds * 1e6:.1f}" for seconds in median.values()),
        *(f"{seconds / ours:.2f}" for seconds in others),
        f"{result['bytes'] / ours / 1e9:.1f}",
        *(f"{error:.1e}" for error in result["errors"].values()),
    ]


def _tqc(weight: Weight, options: argparse.Namespace) -> Callable:
    import tvm

    from tqc.schedules.cpu_nbits import make_matmul_nbits, nbits_config, pack_blocks, pack_words

    target = tvm.target.Target({"kind": "llvm", "mcpu": options.mcpu})
    config = nbits_config(target)
    func = make_matmul_nbits(weight.k, weight.n, bits=options.bits, block=options.block, config=config)
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    kernel = tvm.compile(module, target=target)["main"]
    parts = [
        tvm.runtime.tensor(array) for array in (pack_words(weight.packed, options.bits), pack_blocks(weight.scales))
    ]

    def bind(x: np.ndarray) -> Callable:
        source, result = tvm.runtime.tensor(x), tvm.runtime.tensor(np.empty((len(x), weight.n), np.float32))

        def call() -> np.ndarray:
            kernel(source, *parts, result)
            return np.from_dlpack(result)

        return call

    return bind


def _onnxruntime(weight: Weight, options: argparse.Namespace, level: int) -> Callable:
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    value = helper.make_tensor_value_info
    attributes = {"K": weight.k, "N": weight.n, "bits": options.bits, "block_size": options.block}
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", accuracy_level=level, **attributes
    )
    graph = helper.make_graph(
        [node],
        "matmul",
        [value("x", TensorProto.FLOAT, ["rows", weight.k])],
        [value("y", TensorProto.FLOAT, ["rows", weight.n])],
        [numpy_helper.from_array(weight.packed, "w"), numpy_helper.from_array(weight.scales, "s")],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])

    def bind(x: np.ndarray) -> Callable:
        binding = session.io_binding()
        result = ort.OrtValue.ortvalue_from_shape_and_type((len(x), weight.n), np.float32, "cpu", 0)
        binding.bind_cpu_input("x", x)
        binding.bind_ortvalue_output("y", result)

        def call() -> np.ndarray:
            session.run_with_iobinding(binding)
            return result

        return call

    return bind


if __name__ == "__main__":
    main()
