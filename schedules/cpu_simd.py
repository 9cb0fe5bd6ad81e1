"""Vector code for TIR PrimFuncs: registers, loads, shuffles and the elementary functions that TIR leaves to libm.

Everything here emits into the IRBuilder frame that is open. A buffer below 1 KiB in scope "global" becomes a stack
slot that LLVM keeps in registers; scope "local" would become a heap allocation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T
from tvm.tirx import Buffer

from tqc.codec import short_scale
from tqc.schedules.cpu_config import CpuConfig

# 2**f on [-1/2, 1/2], Chebyshev fit: relative error 2e-7
_EXP2 = (1.00000008, 0.69314721, 0.24022107, 0.05550327, 0.00967604, 0.00134004)
_ROUND = 12582912.0  # 1.5 * 2**23: adding it rounds to an integer in the low bits
_LOWEST = -126.0


def i64(value: int) -> Expr:
    """An int64 constant, the type of every index."""
    return tirx.const(value, "int64")


def f32(value: float) -> Expr:
    """A float32 constant."""
    return tirx.const(float(value), "float32")


def minimum(a: Expr, b: Expr) -> Expr:
    """The smaller of two integers."""
    return tirx.min(a, b)


def maximum(a: Expr, b: Expr) -> Expr:
    """The larger one; for floats, which must be variables, `b` if either is NaN."""
    return tirx.max(a, b) if str(a.ty) == "int64" else tirx.Select(a > b, a, b)


def scratch(shape: Sequence[int | Expr], dtype: str = "float32") -> Buffer:
    """Memory of the enclosing scope."""
    return T.alloc_buffer(tuple(shape), dtype, layout=None)


class Variable:
    """A mutable scalar or vector that lives in a register."""

    def __init__(self, lanes: int, value: Expr, dtype: str = "float32") -> None:
        self._buffer = scratch((lanes,), dtype)
        self._at = tirx.Ramp(0, 1, lanes) if lanes > 1 else 0
        self.set(value)

    @property
    def value(self) -> Expr:
        return self._buffer[self._at]

    def set(self, value: Expr) -> None:
        T.buffer_store(self._buffer, value, [self._at])


def let(value: Expr) -> Expr:
    """Evaluates `value` once.

    Not a binding: TVM's simplifier substitutes bindings into what uses them, so chains of them take exponential time.
    It cannot see through a stack slot, which LLVM turns back into a register.
    """
    if str(value.ty) == "bool" or "boolx" in str(value.ty):
        raise TypeError("a comparison has no memory type")
    dtype, _, lanes = str(value.ty).partition("x")
    return Variable(int(lanes or 1), value, dtype).value


def parallel_if(worth: Expr, extent: Expr, body: Callable[[Expr], None]) -> None:
    """Runs `body(i)` for i below `extent`, on all threads only if `worth`: waking them takes some microseconds."""
    with T.If(worth):
        with T.Then(), T.parallel(extent) as i:
            body(i)
        with T.Else(), T.serial(extent) as i:
            body(i)


class Simd:
    """Vectors of `config.lanes` float32 values for the variant `config.isa`."""

    def __init__(self, config: CpuConfig) -> None:
        self.isa = config.isa
        self.lanes = config.lanes

    def type(self, dtype: str) -> str:
        return f"{dtype}x{self.lanes}"

    def splat(self, value: float | Expr, dtype: str = "float32") -> Expr:
        """`value` in every lane."""
        return tirx.Broadcast(value if isinstance(value, Expr) else tirx.const(value, dtype), self.lanes)

    def constants(self, values: np.ndarray) -> Expr:
        """A vector of float32 constants, one for each lane."""
        return tirx.Shuffle([f32(value) for value in values], list(range(self.lanes)))

    def lane_numbers(self, start: Expr) -> Expr:
        """start, start + 1, …"""
        return tirx.Ramp(start, tirx.const(1, "int64"), self.lanes)

    def variable(self, value: float | Expr) -> Variable:
        """A mutable vector."""
        return Variable(self.lanes, value if isinstance(value, Expr) else self.splat(value))

    def bits(self, value: Expr, dtype: str = "uint32") -> Expr:
        return tirx.reinterpret(self.type(dtype), value)

    def units(self, buffer: Buffer, *index: Expr | int) -> Expr:
        """uint16 units widened to uint32; the last index is that of the first lane."""
        return tirx.Cast(self.type("uint32"), buffer[(*index[:-1], self._ramp(index[-1]))])

    def load(self, buffer: Buffer, *index: Expr | int) -> Expr:
        """float32 values from a float32, float16 or bfloat16 buffer, or from a uint8 one of short scales."""
        value = buffer[(*index[:-1], self._ramp(index[-1]))]
        if buffer.dtype == "uint8":
            return self._from_short(value)
        if buffer.dtype == "float32":
            return value
        if buffer.dtype == "bfloat16":  # the upper half of a float32; TVM's cast would take the bits for a number
            word = tirx.Cast(self.type("uint32"), tirx.reinterpret(self.type("uint16"), value))
            return self.bits(word << self.splat(16, "uint32"), "float32")
        if self.isa != "portable":
            return tirx.Cast(self.type("float32"), value)
        half = let(tirx.Cast(self.type("uint32"), tirx.reinterpret(self.type("uint16"), value)))
        magnitude = let((half & self.splat(0x7FFF, "uint32")) << self.splat(13, "uint32"))
        finite = self.bits(self.bits(magnitude, "float32") * self.splat(2.0**112))
        special = tirx.Select(
            magnitude >= self.splat(0x7C00 << 13, "uint32"),
            self.splat(0x7F800000, "uint32"),
            self.splat(0, "uint32"),
        )
        sign = (half & self.splat(0x8000, "uint32")) << self.splat(16, "uint32")
        return self.bits(finite | special | sign, "float32")

    def store(self, buffer: Buffer, value: Expr, *index: Expr | int) -> None:
        """float32 values into a float32, float16 or bfloat16 buffer, rounded to nearest even, too large to infinity; or
        into a uint8 one of short scales."""
        if buffer.dtype == "uint8":
            value = self._to_short(value)
        elif buffer.dtype == "float16":
            value = self._to_half(value)
        elif buffer.dtype == "bfloat16":
            value = self._to_bfloat(value)
        T.buffer_store(buffer, value, [*index[:-1], self._ramp(index[-1])])

    def prefetch(self, buffer: Buffer, *index: Expr) -> None:
        """Asks for the cache line of an element that is needed soon; it may lie outside the buffer."""
        i32 = [tirx.const(value, "int32") for value in (0, 3, 1)]  # read, keep in all caches, data
        address = tirx.address_of(buffer[index])
        T.evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch.p0", address, *i32))

    def finite(self, value: Expr) -> Expr:
        """Which lanes are neither infinite nor NaN; from the bits, because TVM simplifies x − x and x = x."""
        exponent = self.splat(0x7F800000, "uint32")
        return (self.bits(value) & exponent) != exponent

    def exp2(self, x: Expr) -> Expr:
        """2**x for x ≤ 0, at least 2**-126; NaN stays NaN."""
        x = let(tirx.Select(x < self.splat(_LOWEST), self.splat(_LOWEST), x))
        rounded = let(x + self.splat(_ROUND))
        fraction = let(x - (rounded - self.splat(_ROUND)))
        series = self.splat(_EXP2[-1])
        for coefficient in reversed(_EXP2[:-1]):
            series = series * fraction + self.splat(coefficient)
        exponent = (self.bits(rounded, "int32") << self.splat(23, "int32")) + self.splat(0x3F800000, "int32")
        return let(series * self.bits(exponent, "float32"))

    def soft_cap(self, x: Expr, cap: float) -> Expr:
        """cap·tanh(y) of x = 2·log2(e)·y."""
        size = let(tirx.Select(x < self.splat(0.0), x, self.splat(0.0) - x))  # exp2 takes what is not positive
        small = self.exp2(size)
        ratio = let((self.splat(1.0) - small) / (self.splat(1.0) + small))
        return let(tirx.Select(x < self.splat(0.0), self.splat(-cap), self.splat(cap)) * ratio)

    def largest(self, vector: Expr) -> Expr:
        """The largest lane, if none is NaN."""
        return self._reduce(vector, maximum)

    def total(self, vector: Expr) -> Expr:
        """The sum of the lanes."""
        return self._reduce(vector, lambda a, b: a + b)

    def _ramp(self, start: Expr | int) -> Expr:
        return (
            tirx.Ramp(start, i64(1), self.lanes)
            if isinstance(start, Expr)
            else tirx.Ramp(i64(start), i64(1), self.lanes)
        )

    def _reduce(self, vector: Expr, combine: Callable[[Expr, Expr], Expr]) -> Expr:
        width = self.lanes
        while width > 1:
            width //= 2
            low = tirx.Shuffle([vector], list(range(width)))
            high = tirx.Shuffle([vector], list(range(width, 2 * width)))
            vector = let(combine(let(low), let(high)))
        return vector

    def _to_bfloat(self, value: Expr) -> Expr:
        u = lambda number: self.splat(number, "uint32")  # noqa: E731
        word = let(self.bits(let(value)))
        rounded = (word + u(0x7FFF) + ((word >> u(16)) & u(1))) >> u(16)
        nan = (word & u(0x7FFFFFFF)) > u(0x7F800000)
        upper = tirx.Select(nan, u(0x7FC0), rounded)
        return tirx.reinterpret(self.type("bfloat16"), tirx.Cast(self.type("uint16"), upper))

    def _from_short(self, code: Expr) -> Expr:
        """`tqc.codec.short_scale`: codes 0 and 255 are zero and NaN."""
        u = lambda number: self.splat(number, "uint32")  # noqa: E731
        code = let(tirx.Cast(self.type("uint32"), code))
        value = self.bits((code + u(short_scale.FLOAT32_BASE)) << u(short_scale.FLOAT32_SHIFT), "float32")
        value = tirx.Select(code == u(0), self.splat(0.0), value)
        return tirx.Select(code == u(short_scale.NAN), self.splat(float("nan")), value)

    def _to_short(self, value: Expr) -> Expr:
        """The inverse, rounded to the nearest code. Halves are rounded up."""
        u = lambda number: self.splat(number, "uint32")  # noqa: E731
        value = let(value)
        shift = u(short_scale.FLOAT32_SHIFT)
        rounded = let((self.bits(value) + u(1 << (short_scale.FLOAT32_SHIFT - 1))) >> shift)
        base, last = short_scale.FLOAT32_BASE, short_scale.FLOAT32_BASE + short_scale.NAN
        code = tirx.Select(
            rounded <= u(base), u(1), tirx.Select(rounded >= u(last), u(short_scale.NAN), rounded - u(base))
        )
        code = tirx.Select(value < self.splat(short_scale.LEAST), u(0), code)
        code = tirx.Select(value >= self.splat(0.0), code, u(short_scale.NAN))  # false for NaN too
        return tirx.Cast(self.type("uint8"), code)

    def _to_half(self, value: Expr) -> Expr:
        if self.isa != "portable":
            return tirx.Cast(self.type("float16"), value)
        u = lambda number: self.splat(number, "uint32")  # noqa: E731
        word = let(self.bits(let(value)))
        magnitude = let(word & u(0x7FFFFFFF))
        # Adding 1/2 lets the adder round a subnormal half; integer arithmetic rounds a normal one.
        tiny = self.bits(self.bits(magnitude, "float32") + self.splat(0.5)) - u(0x3F000000)
        normal = (magnitude + u(0xC8000FFF) + ((magnitude >> u(13)) & u(1))) >> u(13)
        huge = tirx.Select(magnitude > u(0x7F800000), u(0x7E00), u(0x7C00))
        finite = tirx.Select(magnitude < u(0x38800000), tiny, normal)
        half = tirx.Select(magnitude >= u(0x477FF000), huge, finite)
        half = half | ((word >> u(16)) & u(0x8000))
        return tirx.reinterpret(self.type("float16"), tirx.Cast(self.type("uint16"), half))
