"""exp, sigmoid and tanh as float32 arithmetic: LLVM turns TIR's own into one libm call for each element."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.ir import Expr

_LOG2E = 1.44269504088896341
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_ROUND = 12582912.0  # 1.5·2²³: adding it leaves the nearest integer in the low bits
_ROUND_BITS = 0x4B400000
# Series of Cephes (S. Moshier, expf.c and tanhf.c), highest power first, relative error below 2e-7
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_TANH = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)
_TANH_SERIES_BELOW = 0.625


def exp(x: Expr) -> Expr:
    """e**x of a float32 scalar: 0 and infinity past the range, subnormals in it, NaN for NaN."""
    low, high = tirx.const(-104.0, "float32"), tirx.const(89.0, "float32")
    return _bind(x, lambda v: _exp_in_range(tirx.Select(v < low, low, tirx.Select(v > high, high, v))))


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e**-x)."""
    return _f32(1) / (_f32(1) + exp(_f32(0) - x))


def tanh(x: Expr) -> Expr:
    """tanh, with full relative precision near 0."""

    def of(v: Expr) -> Expr:
        size = tirx.Select(v < _f32(0), _f32(0) - v, v)
        far = _bind(exp(size * _f32(-2)), lambda e: (_f32(1) - e) / (_f32(1) + e))
        near = _bind(v * v, lambda square: v + v * square * _polynomial(_TANH, square))
        signed = _bind(far, lambda t: tirx.Select(v < _f32(0), _f32(0) - t, t))
        return tirx.Select(size < _f32(_TANH_SERIES_BELOW), near, signed)

    return _bind(x, of)


def _exp_in_range(x: Expr) -> Expr:
    def power(v: Expr) -> Expr:
        # Rounded by an addition: a conversion of NaN to an integer would be undefined.
        return _bind(v * _f32(_LOG2E) + _f32(_ROUND), lambda rounded: scaled(v, rounded))

    def scaled(v: Expr, rounded: Expr) -> Expr:
        n = rounded - _f32(_ROUND)
        rest = v - n * _f32(_LN2_HIGH) - n * _f32(_LN2_LOW)
        series = _bind(rest, lambda r: _polynomial(_EXP, r) * r * r + r + _f32(1))
        count = tirx.reinterpret("int32", rounded) - tirx.const(_ROUND_BITS, "int32")

        # Two factors, because 2**-150 and 2**128 are no normal numbers.
        def factors(c: Expr) -> Expr:
            half = c >> tirx.const(1, "int32")
            return series * _power_of_two(half) * _power_of_two(c - half)

        return _bind(count, factors)

    return _bind(x, power)


def _power_of_two(n: Expr) -> Expr:
    return tirx.reinterpret("float32", (n + tirx.const(127, "int32")) << tirx.const(23, "int32"))


def _polynomial(coefficients: Sequence[float], x: Expr) -> Expr:
    value = _f32(coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + _f32(coefficient)
    return value


def _bind(value: Expr, body) -> Expr:
    var = tirx.Var("t", value.ty)
    return tirx.Let(var, value, body(var))


def _f32(value: float) -> Expr:
    return tirx.const(float(value), "float32")


VECTORISED = {"exp": exp, "sigmoid": sigmoid, "tanh": tanh}
"""Name of a `tirx` intrinsic → the arithmetic that replaces it."""
