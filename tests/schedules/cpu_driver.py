"""Compiles the CPU kernels and drives them through sequences of calls that the NumPy model follows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from cache_model import attention, check_state, coded_pages, empty_state, place, read
from levels import needs_level
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.target import Target

from tqc.codec.layout import CacheLayout
from tqc.schedules.cpu_append import make_append
from tqc.schedules.cpu_cache import argument
from tqc.schedules.cpu_config import CpuConfig, config_for, cpu_config
from tqc.schedules.cpu_decode import make_decode
from tqc.schedules.cpu_prefill import make_prefill
from tqc.schedules.cpu_simd import Simd

MCPU = {"avx512": "x86-64-v4", "avx2": "x86-64-v3", "portable": "x86-64-v2"}


def compile_kernels(layout: CacheLayout, isa: str, names=("append", "decode"), *, options=None, **attributes):
    """A module with the kernels `names` for `isa`; `attributes` are the options of the makers."""
    target = Target({"kind": "llvm", "mcpu": needs_level(MCPU[isa])})
    config: CpuConfig = config_for(target, **(options or {}))
    assert config.isa == isa
    makers = {
        "append": lambda: make_append(layout, config),
        "decode": lambda: make_decode(layout, config=config, **attributes),
        "prefill": lambda: make_prefill(layout, config=config, **attributes),
    }
    functions = {name: makers[name]().with_attr("global_symbol", name) for name in names}
    return tvm.compile(tvm.IRModule(functions), target=target)


def run_vectors(isa: str, emit: Callable[..., None], *arrays: np.ndarray) -> None:
    """Builds and runs `emit(simd, *buffers)` on `arrays`, which it may change."""
    with IRBuilder() as builder, T.prim_func(is_private=True, s_tir=True):
        T.func_name("probe")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        buffers = [argument(f"a{i}", array.shape, str(array.dtype)) for i, array in enumerate(arrays)]
        emit(Simd(cpu_config(isa)), *buffers)
    function = builder.get().with_attr("global_symbol", "probe")
    built = tvm.compile(
        tvm.IRModule({"probe": function}), target=Target({"kind": "llvm", "mcpu": needs_level(MCPU[isa])})
    )
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    built["probe"](*tensors)
    for array, tensor in zip(arrays, tensors, strict=True):
        array[...] = tensor.numpy()


class Sequences:
    """A batch of sequences in a cache whose pool pages are dealt out in random order.

    `attributes` are those of the model's `attention`; of them, sink logits are an argument of the kernels.
    """

    tolerance = 2e-3
    """Largest relative error of an output."""

    def __init__(self, layout: CacheLayout, kernels, *, batch: int, capacity: int, seed: int = 0, **attributes) -> None:
        self.layout, self.kernels, self.attributes = layout, kernels, attributes
        self.rng = np.random.default_rng(seed)
        per_sequence = -(-capacity // layout.page)
        pool = batch * per_sequence + 3
        self.table = self.rng.permutation(pool)[: batch * per_sequence].reshape(batch, -1).astype(np.int32)
        self.state = empty_state(layout, batch, pool)
        self.length = np.zeros(batch, np.int32)
        self.history = [np.zeros((2, layout.kv_heads, 0, layout.head_dim), np.float32) for _ in range(batch)]

    def vectors(self, heads: int, tokens: int, rows: int = 0) -> np.ndarray:
        """Random vectors of various norms [batch, heads, tokens, rows], by default head_dim rows."""
        shape = (len(self.length), heads, tokens, rows or self.layout.head_dim)
        return (self.rng.standard_normal(shape) * self.rng.uniform(0.3, 3, (*shape[:3], 1))).astype(np.float32)

    def step(
        self, new_len: list[int], kernel: str, k: np.ndarray | None = None, v: np.ndarray | None = None
    ) -> np.ndarray:
        """One call of the model: prefill then append, or append then decode. Returns and checks the outputs."""
        layout = self.layout
        tokens = max(*new_len, 1) + (kernel == "prefill")  # a row of padding
        if kernel == "decode":
            tokens = 1
        k = self.vectors(layout.kv_heads, tokens) if k is None else k
        v = self.vectors(layout.kv_heads, tokens) if v is None else v
        q = self.vectors(layout.query_heads, tokens, layout.form("k").rows)
        new = np.array(new_len, np.int32)
        y = np.full((*q.shape[:3], layout.form("v").rows), 55.0, np.float32)
        logits = [self.attributes["sink_logits"]] if "sink_logits" in self.attributes else []
        control = [*logits, self.length, new, self.table]
        before = [
            [read(layout, self.state, self.table[b], b, int(n), side) for side in "kv"]
            for b, n in enumerate(self.length)
        ]
        if kernel == "prefill":
            self.run("prefill", [q, k, v, *control], y)
        self.append(k, v, new)
        if kernel == "decode":
            self.run("decode", [q, *control], y)
        for b, count in enumerate(new_len):
            total = int(self.length[b]) + count
            if kernel == "decode":
                held = [read(layout, self.state, self.table[b], b, total, side) for side in "kv"]
            else:
                held = [
                    np.concatenate([old, widened(x[b, :, :count], old)], 1)
                    for old, x in zip(before[b], (k, v), strict=True)
                ]
            if count:
                wanted = attention(q[b, :, :count], *held, start=total - count, **self.attributes)
                close(y[b, :, :count], wanted, self.tolerance)
            assert (y[b, :, count:] == 0).all()
            self.length[b] = total
        return y

    def extend(self, new_len: list[int], k: np.ndarray | None = None, v: np.ndarray | None = None) -> None:
        """Appends random tokens without asking for their attention."""
        new = np.array(new_len, np.int32)
        heads = self.layout.kv_heads
        k = self.vectors(heads, max(*new_len, 1)) if k is None else k
        v = self.vectors(heads, max(*new_len, 1)) if v is None else v
        self.append(k, v, new)
        self.length += new

    def append(self, k: np.ndarray, v: np.ndarray, new: np.ndarray) -> None:
        """Runs append alone; `length` stays."""
        self.run("append", [k, v, self.length, new, self.table], None)
        for b, count in enumerate(new):
            fresh = np.stack([k[b, :, :count], v[b, :, :count]])
            self.history[b] = np.concatenate([self.history[b], fresh], axis=2)

    def check(self) -> None:
        """The state holds the history, and nothing else was written."""
        used = set()
        for b, total in enumerate(self.length):
            for i, side in enumerate("kv"):
                check_state(self.layout, self.state, self.table[b], b, self.history[b][i], side)
            pages = coded_pages(self.layout, self.state, int(total))
            used |= {place(self.layout, self.state, self.table[b], b, page) for page in pages}
        fresh = empty_state(self.layout, len(self.length), len(self.state["k_codes"]))
        places = np.ndindex(self.state["k_codes"].shape[: 2 if self.layout.ring else 1])
        free = [at for at in places if at not in used]
        for name, array in self.state.items():
            if name.endswith(("codes", "scale")):
                for at in free:
                    np.testing.assert_array_equal(array[at], fresh[name][at])

    def run(self, name: str, inputs: list[np.ndarray], y: np.ndarray | None) -> None:
        arrays = [*inputs, *self.state.values(), *([] if y is None else [y])]
        tensors = [tvm.runtime.tensor(array) for array in arrays]
        self.kernels[name](*tensors)
        for array, tensor in zip(arrays[len(inputs) :], tensors[len(inputs) :], strict=True):
            array[...] = tensor.numpy()


def widened(x: np.ndarray, like: np.ndarray) -> np.ndarray:
    """x [.., head_dim] with zeros in the rows of a sketch, to as many rows as `like` has."""
    return np.pad(x, [(0, 0), (0, 0), (0, like.shape[-1] - x.shape[-1])])


def close(found: np.ndarray, wanted: np.ndarray, tolerance: float = 2e-3) -> None:
    """Asserts a relative error of at most `tolerance` in each vector, and NaN in the same places."""
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    error = np.linalg.norm(np.nan_to_num(found - wanted), axis=-1)
    assert (error <= tolerance * np.linalg.norm(np.nan_to_num(wanted), axis=-1) + 1e-6).all(), error.max()


def follow_all_kernels(isa: str, layout: CacheLayout, **attributes) -> Sequences:
    """Chunks and single tokens of three sequences through prefill, append and decode, everything checked."""
    scale, names = layout.head_dim**-0.5, ("append", "decode", "prefill")
    kernels = compile_kernels(layout, isa, names, softmax_scale=scale, options={"prefill_rows": 32}, **attributes)
    run = Sequences(layout, kernels, batch=3, capacity=500, scale=scale, **attributes)
    for new in ([5, 0, 130], [150, 3, 0], [70, 150, 1]):
        run.step(new, "prefill")
        run.step([1, 1, int(new[2] > 0)], "decode")
    run.check()
    return run
