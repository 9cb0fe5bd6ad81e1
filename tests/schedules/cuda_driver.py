"""Drives the CUDA kernels through the calls that the NumPy model of the cache follows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from cache_model import random_state, read
from cpu_driver import Sequences
from emulate import emulate

from tqc.codec.layout import CacheLayout
from tqc.schedules.cuda_append import make_append
from tqc.schedules.cuda_append_token import make_append_token
from tqc.schedules.cuda_builder import argument, build_kernel
from tqc.schedules.cuda_decode import make_decode
from tqc.schedules.cuda_prefill import make_prefill


def cuda_layout(*args, **options) -> CacheLayout:
    """A layout that CUDA kernels take."""
    return CacheLayout(*args, **({"exact_dtype": "float16", "order": "fragments"} | options))


def cuda_kernels(
    layout: CacheLayout,
    *,
    dtype: str = "float16",
    arch: str = "sm_80",
    configs: dict | None = None,
    names: tuple[str, ...] = ("append", "append_token", "decode", "prefill"),
    **attributes,
) -> dict[str, tvm.tirx.PrimFunc]:
    """Kernels of a layout; `attributes`: softmax_scale, softcap, window, sink_logits; `configs`: of each schedule."""
    common, configs = {"dtype": dtype, "arch": arch}, configs or {}
    makers = {
        "append": lambda: make_append(layout, config=configs.get("append"), **common),
        "append_token": lambda: make_append_token(layout, config=configs.get("append"), **common),
        "decode": lambda: make_decode(layout, config=configs.get("decode"), **common, **attributes),
        "prefill": lambda: make_prefill(layout, config=configs.get("prefill"), **common, **attributes),
    }
    return {name: makers[name]() for name in names}


def emulated(kernels: dict[str, tvm.tirx.PrimFunc], *, reverse: bool = False) -> dict[str, Callable]:
    return {name: emulate(kernel, reverse=reverse) for name, kernel in kernels.items()}


def run_probe(emit: Callable[..., None], *arrays: np.ndarray, reverse: bool = False) -> None:
    """Builds the kernel that `emit(*buffers)` emits and runs it, emulated, on `arrays`, which it may change."""
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    emulate(probe(emit, *arrays), reverse=reverse)(*tensors)
    for array, tensor in zip(arrays, tensors, strict=True):
        array[...] = tensor.numpy()


def probe(emit: Callable[..., None], *arrays: np.ndarray) -> tvm.tirx.PrimFunc:
    """The kernel that `emit(*buffers)` emits, for arguments like `arrays`."""

    def body() -> None:
        # int64, as the dimensions of all kernels
        shapes = [[tvm.tirx.const(size, "int64") for size in array.shape] for array in arrays]
        emit(*(argument(f"a{i}", shapes[i], str(array.dtype)) for i, array in enumerate(arrays)))

    return build_kernel("probe", body)


class CudaSequences(Sequences):
    """Sequences whose activations have the dtype of the kernels, on the device where those run.

    A single new token goes through `append_token` where there is one.
    """

    tolerance = 6e-3  # queries, probabilities and centroids are float16

    def __init__(self, *args, dtype: str = "float16", device: tvm.runtime.Device | None = None, **options) -> None:
        super().__init__(*args, **options)
        self.dtype, self.device = dtype, device or tvm.cpu()

    def vectors(self, heads: int, tokens: int, *rows: int) -> np.ndarray:
        return super().vectors(heads, tokens, *rows).astype(self.dtype).astype(np.float32)

    def run(self, name: str, inputs: list[np.ndarray], y: np.ndarray | None) -> None:
        fresh = "float16" if name == "prefill" else self.dtype
        dtypes = {"append": (fresh, fresh), "decode": (self.dtype,), "prefill": (self.dtype, fresh, fresh)}[name]
        inputs = [x.astype(dtypes[i]) if i < len(dtypes) else x for i, x in enumerate(inputs)]
        outputs = [] if y is None else [y.astype(self.dtype)]
        arrays = [*inputs, *self.state.values(), *outputs]
        tensors = [tvm.runtime.tensor(array, self.device) for array in arrays]
        single = name == "append" and inputs[0].shape[2] == 1 and "append_token" in self.kernels
        self.kernels["append_token" if single else name](*tensors)
        for array, tensor in zip([*self.state.values()], tensors[len(inputs) :], strict=False):
            array[...] = tensor.numpy()
        if y is not None:
            y[...] = tensors[-1].numpy()

    def fill(self, *lengths: int) -> None:
        """Puts sequences of these lengths into the cache, with any codes and vectors, without running append."""
        self.length[:] = lengths
        self.state = random_state(self.layout, len(lengths), len(self.state["k_codes"]), self.rng)

    def held(self, b: int, total: int) -> list[np.ndarray]:
        """The first `total` keys and values that the cache holds for sequence `b`."""
        return [read(self.layout, self.state, self.table[b], b, total, side) for side in "kv"]
