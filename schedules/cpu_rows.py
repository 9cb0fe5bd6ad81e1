"""What row-wise CPU kernels share: vectors of 16 float32 (LLVM splits them on narrower machines) and row loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import add

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import Buffer
from tvm.tirx.script.builder import ir as T

LANES = 16
PARALLEL_ELEMENTS = 32 * 1024
"""Elements from which on waking the other threads (3 µs) costs less than it saves."""


def vector_type(dtype: str, lanes: int) -> str:
    """`float32x16`, or the scalar type for one lane."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def at(start: Expr | int, lanes: int) -> Expr | int:
    """The index of `lanes` neighbours from `start` on."""
    return start if lanes == 1 else T.ramp(start, 1, lanes)


def splat(value: Expr | float, lanes: int, dtype: str = "float32") -> Expr:
    """`value` in every lane."""
    value = value if isinstance(value, Expr) else tirx.const(value, dtype)
    return value if lanes == 1 else T.broadcast(value, lanes)


def load(buffer: Buffer, index: Sequence[Expr | int], lanes: int) -> Expr:
    """float32 values at `index` and to its right."""
    value = buffer[(*index[:-1], at(index[-1], lanes))]
    if str(buffer.dtype) == "bfloat16":  # the upper half of a float32; TVM's cast would take the bits for a number
        bits = T.Cast(vector_type("uint32", lanes), tirx.reinterpret(vector_type("uint16", lanes), value))
        return tirx.reinterpret(vector_type("float32", lanes), bits << splat(16, lanes, "uint32"))
    return value if str(buffer.dtype) == "float32" else T.Cast(vector_type("float32", lanes), value)


def store(buffer: Buffer, value: Expr, index: Sequence[Expr | int], lanes: int) -> None:
    """Writes float32 values, rounded to the buffer's type."""
    dtype = str(buffer.dtype)
    value = value if dtype == "float32" else T.Cast(vector_type(dtype, lanes), value)
    T.buffer_store(buffer, value, [*index[:-1], at(index[-1], lanes)])


def let(name: str, value: Expr) -> Expr:
    """Names a value that is computed once."""
    return IRBuilder.name(name, T.Bind(value))


def scratch(lanes: int, dtype: str = "float32") -> Buffer:
    """A register or, above a vector's size, a stack slot (below 1 KiB; more would come from the heap)."""
    return T.alloc_buffer((lanes,), dtype, layout=None)


def total(vector: Buffer, lanes: int, combine: Callable[[Expr, Expr], Expr] = add) -> Expr:
    """`lanes` elements of a scratch buffer, combined pairwise."""
    dtype = str(vector.dtype)
    while lanes > 1:
        lanes //= 2
        halves = combine(vector[at(0, lanes)], vector[at(lanes, lanes)])
        vector = scratch(lanes, dtype)
        T.buffer_store(vector, halves, [at(0, lanes)])
    return vector[0]


def for_rows(rows: Expr, width: int, body: Callable[[Expr], None]) -> None:
    """`body(row)` for every row of `width` elements: on all threads if there is enough to do, else on this one."""
    with T.If(rows * width >= PARALLEL_ELEMENTS):
        with T.Then(), T.parallel(T.int64(0), rows) as row:
            body(row)
        with T.Else(), T.serial(T.int64(0), rows) as row:
            body(row)
