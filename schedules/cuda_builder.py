"""The vocabulary of the CUDA kernels: blocks, phases, shared and local arrays.

Kernels are bulk-synchronous. A block runs phases one after the other; in a phase every thread works on its own items
and writes what no other thread of the phase reads; a barrier ends it. What outlives a phase lies in shared memory. So a
kernel means the same when the items of a phase run one after the other, in any order, and can be tested that way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import Buffer
from tvm.tirx.script.builder import ir as T


def build_kernel(name: str, body: Callable[[], None]) -> tirx.PrimFunc:
    """The private, already scheduled PrimFunc whose parameters and statements `body` emits."""
    with IRBuilder() as builder:
        with T.prim_func(is_private=True, s_tir=True):
            T.func_name(name)
            T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
            body()
    return builder.get()


def argument(name: str, shape: tuple[int | Expr, ...], dtype: str) -> Buffer:
    """The next parameter of the PrimFunc that is being built."""
    return named(name, T.match_buffer(T.arg(name, T.handle()), shape, dtype))


def named(name: str, value):
    IRBuilder.name(name, value)
    return value


def dimension(name: str) -> tirx.Var:
    """A dimension known at run time."""
    return tirx.Var(name, "int64")


@contextmanager
def blocks(
    x: int | Expr, y: int | Expr, z: int | Expr, resident: int | None = None
) -> Iterator[tuple[Expr, Expr, Expr]]:
    """One kernel launch: yields the indices of a thread block in a grid of x × y × z.

    `resident`: blocks that a multiprocessor should hold at least. 1 lets the compiler take as many registers as it
    wants; by itself it may rather spill some to fit more blocks.
    """
    with ExitStack() as frames:
        axes = zip("zyx", (z, y, x), strict=True)
        bz, by, bx = (frames.enter_context(T.thread_binding(0, size, thread=f"blockIdx.{axis}")) for axis, size in axes)
        _enter_scope(frames, "block")
        if resident is not None:
            frames.enter_context(T.attr(tirx.const(0, "int32"), "tirx.launch_bounds_min_blocks_per_sm", resident))
        yield bx, by, bz


@contextmanager
def phase(count: int, threads: int, *, unroll: bool = True) -> Iterator[Expr]:
    """Items 0 … count−1 over the threads of the block, then a barrier. Every thread of the block must get here.

    `unroll`: whether the compiler may do several turns at once, in as many times the registers.
    """
    with ExitStack() as frames:
        item = frames.enter_context(T.thread_binding(0, threads, thread="threadIdx.x"))
        if count > threads:
            turns = T.serial(0, -(-count // threads), unroll=None if unroll else False)
            item = frames.enter_context(turns) * threads + item
        if count % threads:
            frames.enter_context(when(item < count))
        _enter_scope(frames, "phase")
        yield item
    T.evaluate(T.tvm_storage_sync("shared"))


@contextmanager
def threads(count: int) -> Iterator[Expr]:
    """What each of the `count` threads of the block does by itself, barriers of its own included."""
    with ExitStack() as frames:
        thread = frames.enter_context(T.thread_binding(0, count, thread="threadIdx.x"))
        _enter_scope(frames, "thread")
        yield thread


@contextmanager
def when(condition: Expr) -> Iterator[None]:
    """What is emitted inside runs only if `condition` holds. No phase may stand in here: threads differ."""
    with T.If(condition), T.Then():
        yield


def _enter_scope(frames: ExitStack, name: str) -> None:
    frames.enter_context(T.sblock(name))
    T.reads()
    T.writes()


def shared(name: str, *shape: int) -> Buffer:
    """A float32 array that all threads of the block see, from one phase to the next."""
    return named(name, T.sblock_alloc_buffer(shape, "float32", scope="shared"))


def local(name: str, size: int, dtype: str = "float32") -> Buffer:
    """An array of one thread's own registers, within a phase."""
    return named(name, T.sblock_alloc_buffer((size,), dtype, scope="local"))


def store(buffer: Buffer, value: Expr, *indices: Expr | int) -> None:
    T.buffer_store(buffer, to(buffer.dtype, value), list(indices))


def accumulate(buffer: Buffer, value: Expr, *indices: Expr | int) -> None:
    store(buffer, buffer[indices] + value, *indices)


def to(dtype: str, value: Expr) -> Expr:
    """value as `dtype`, rounded to nearest even; what is too large is infinite."""
    found = str(value.ty.dtype)
    if found == dtype:
        return value
    if found == "bfloat16":  # the upper half of a float32: some of TVM's targets cast the bits as a number
        word = tirx.Cast("uint32", tirx.reinterpret("uint16", value))
        return to(dtype, tirx.reinterpret("float32", word << tirx.const(16, "uint32")))
    if str(dtype) == "bfloat16":
        value = T.Bind(f32(value))
        word = tirx.reinterpret("uint32", value)
        even = (word >> tirx.const(16, "uint32")) & tirx.const(1, "uint32")
        rounded = (word + tirx.const(0x7FFF, "uint32") + even) >> tirx.const(16, "uint32")
        lost = (word & tirx.const(0x7FFFFFFF, "uint32")) > tirx.const(0x7F800000, "uint32")
        word = tirx.Select(lost, tirx.const(0x7FC0, "uint32"), rounded)
        return tirx.reinterpret("bfloat16", tirx.Cast("uint16", word))
    return tirx.Cast(str(dtype), value)


def f32(value: Expr | float) -> Expr:
    return to("float32", value) if isinstance(value, Expr) else tirx.const(value, "float32")


def i32(value: Expr | int) -> Expr:
    return to("int32", value) if isinstance(value, Expr) else tirx.const(value, "int32")


def i64(value: Expr) -> Expr:
    return to("int64", value)


def at_least_zero(value: Expr) -> Expr:
    return tirx.max(value, i32(0))


def ceil_div(value: Expr, divisor: int) -> Expr:
    """value / divisor rounded up, for value ≥ 0."""
    return tirx.floordiv(value + (divisor - 1), tirx.const(divisor, value.ty.dtype))


def divide(value: Expr, divisor: int) -> tuple[Expr, Expr]:
    """(value // divisor, value % divisor) of an int32 value ≥ 0."""
    return tirx.floordiv(value, i32(divisor)), tirx.floormod(value, i32(divisor))
