"""`tqc.kv_codes`: vectors in the cache's basis as their codes stand for them; sign sketches are ops of their own."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from tvm import relax, te, tirx

from tqc.codec import short_scale
from tqc.codec.form import Band, Form, form
from tqc.codec.lloyd_max import Codebook
from tqc.codec.polar import LEVEL_BITS, angles

from .registry import cast, define_op, dtype_of, make_call, tensor_type


def _infer(call: relax.Call) -> relax.TensorType:
    z = tensor_type(call.args[0], "z")
    stored = form(str(call.attrs["scheme"]), int(z.shape[-1]))
    if stored.kind == "bands":
        code_band(stored)
    return relax.TensorType(z.shape, dtype_of(z))


def code_band(stored: Form) -> Band | None:
    """The band that codes whole vectors, None for a form of sketches only. ValueError for a form of several bands."""
    codes = [band for band in stored.bands if not band.sketch]
    if len(codes) != 1:
        raise ValueError(f"{stored.scheme} has {len(codes)} bands of codes, one is known here")
    return codes[0] if codes[0].bits else None


def kept(value: tirx.Expr) -> tirx.Expr:
    """A float32 scale as float16 holds it; NaN where that would be infinite."""
    rounded = value.astype("float16").astype("float32")
    finite = tirx.abs(rounded) < tirx.const(float("inf"), "float32")  # false for NaN too
    return tirx.if_then_else(finite, rounded, tirx.const(float("nan"), "float32"))


def kept_short(value: tirx.Expr) -> tirx.Expr:
    """A float32 scale as one byte holds it (`tqc.codec.short_scale`), float32."""
    shift, base, nan = short_scale.FLOAT32_SHIFT, short_scale.FLOAT32_BASE, short_scale.NAN
    i32 = lambda number: tirx.const(number, "int32")  # noqa: E731
    rounded = tirx.shift_right(tirx.reinterpret("int32", value) + i32(1 << (shift - 1)), i32(shift))
    code = tirx.max(tirx.min(rounded, i32(base + nan)), i32(base + 1))
    near = tirx.reinterpret("float32", tirx.shift_left(code, i32(shift)))
    zero, lost = tirx.const(0, "float32"), tirx.const(float("nan"), "float32")
    near = tirx.if_then_else(value < tirx.const(short_scale.LEAST, "float32"), zero, near)
    return tirx.if_then_else(tirx.all(value >= zero, code < i32(base + nan)), near, lost)  # false for NaN too


def keeps(stored: Form) -> Callable[[tirx.Expr], tirx.Expr]:
    """What becomes of a scale of this form."""
    return kept_short if stored.scale_dtype == "uint8" else kept


def _through_bands(bits: int, stored: Form):
    """Builds the te function (z, thresholds, centroids) → scale · centroid, float32."""
    scalar, keep = stored.scalar, keeps(stored)

    def compute(z: te.Tensor, thresholds: te.Tensor, centroids: te.Tensor) -> te.Tensor:
        dim, zero = z.shape[-1], tirx.const(0, "float32")
        vectors, r, s = z.shape[:-1], te.reduce_axis((0, dim), "r"), te.reduce_axis((0, dim), "s")
        squares = te.compute(vectors, lambda *i: te.sum(z[(*i, r)] * z[(*i, r)], axis=r), name="squares")
        norm = te.compute(vectors, lambda *i: te.sqrt(squares[i]), name="norm")

        def unit(*i):
            usable = tirx.all(norm[i[:-1]] > zero, norm[i[:-1]] < tirx.const(float("inf"), "float32"))
            return tirx.if_then_else(usable, z[i] / norm[i[:-1]], zero)

        y = te.compute(z.shape, unit, name="unit")

        def above(found: te.Tensor, step: int) -> te.Tensor:
            """One step of the bisection that counts the thresholds below."""
            return te.compute(
                z.shape,
                lambda *i: tirx.if_then_else(y[i] > thresholds[found[i] + (step - 1)], found[i] + step, found[i]),
                name=f"codes_{step}",
            )

        codes = te.compute(z.shape, lambda *i: tirx.const(0, "int32"), name="codes")
        for bit in reversed(range(bits)):
            codes = above(codes, 1 << bit)
        near = te.compute(z.shape, lambda *i: centroids[codes[i]], name="near")
        overlap = te.compute(vectors, lambda *i: te.sum(y[(*i, s)] * near[(*i, s)], axis=s), name="overlap")
        scales = te.compute(
            vectors,
            lambda *i: tirx.if_then_else(
                norm[i] == zero, zero, keep(norm[i] if scalar == "plain" else norm[i] / overlap[i])
            ),
            name="scales",
        )
        return te.compute(z.shape, lambda *i: near[i] * scales[i[:-1]], name="decoded")

    return compute


def _through_angles(z: te.Tensor, *tables: te.Tensor) -> te.Tensor:
    """z [..., D] float32 as PolarQuant's angles and radii stand for it. tables: cosines and sines of level 1, 2, …

    Angles are compared by products: with the cosine c and the sine s of a threshold in the first quadrant, the angle of
    (a, b) there is larger if b·c > a·s. Codes of level 1 are four to a quadrant, which turns onto the first one.
    """
    lead, dim = list(z.shape[:-1]), int(z.shape[-1])
    sizes, zero = [z], tirx.const(0, "float32")  # of level 1 the coordinates, then the radii of the level before

    def radii(level: int) -> te.Tensor:
        width = 1 << level
        r = te.reduce_axis((0, width), f"r{level}")

        def squares(*i):
            return te.sum(z[(*i[:-1], i[-1] * width + r)] * z[(*i[:-1], i[-1] * width + r)], axis=r)

        shape = [*lead, dim // width]
        total = te.compute(shape, squares, name=f"squares_{level}")
        return te.compute(shape, lambda *i: te.sqrt(total[i]), name=f"radii_{level}")

    def count(a, b, level: int):
        """Thresholds of the first quadrant that lie below the angle of (a, b)."""
        found = tirx.const(0, "int32")
        for threshold in (angles(level)[1][:3]).astype(np.float64):
            cos, sin = (tirx.const(f(threshold), "float32") for f in (math.cos, math.sin))
            found = found + tirx.Select(b * cos > a * sin, tirx.const(1, "int32"), tirx.const(0, "int32"))
        return found

    def code(level: int):
        given = sizes[level - 1]

        def compute(*i):
            a, b = (given[(*i[:-1], i[-1] * 2 + n)] for n in range(2))
            if level > 1:
                return count(a, b, level)
            quadrants = [  # (is it here, the pair turned onto the first quadrant)
                (tirx.all(a <= zero, b > zero), (b, -a)),
                (tirx.all(a < zero, b <= zero), (-a, -b)),
                (tirx.all(a >= zero, b < zero), (-b, a)),
            ]
            first = count(a, b, level)
            for number, (here, turned) in enumerate(quadrants, 1):
                first = tirx.Select(here, count(*turned, level) + tirx.const(4 * number, "int32"), first)
            return first

        return te.compute([*lead, dim >> level], compute, name=f"codes_{level}")

    levels = len(LEVEL_BITS)
    for level in range(1, levels + 1):
        sizes.append(radii(level))
    out = te.compute(sizes[levels].shape, lambda *i: kept(sizes[levels][i]), name="radii")
    for level in range(levels, 0, -1):
        out = _halves(out, code(level), *tables[2 * level - 2 : 2 * level])
    return out


def _to_bfloat16(z: te.Tensor) -> te.Tensor:
    """z rounded to bfloat16, ties to even, as float32. By its bits: TVM drops a cast to bfloat16 and back."""

    def rounded(*i):
        bits = tirx.reinterpret("uint32", z[i])
        half = tirx.const(0x7FFF, "uint32") + tirx.bitwise_and(
            tirx.shift_right(bits, tirx.const(16, "uint32")), tirx.const(1, "uint32")
        )
        upper = tirx.bitwise_and(bits + half, tirx.const(0xFFFF0000, "uint32"))
        finite = tirx.abs(z[i]) < tirx.const(float("inf"), "float32")
        return tirx.Select(finite, tirx.reinterpret("float32", upper), z[i])

    return te.compute(z.shape, rounded, name="rounded")


def _halves(radii: te.Tensor, codes: te.Tensor, cosines: te.Tensor, sines: te.Tensor) -> te.Tensor:
    """Each radius times the cosine and the sine of its angle, side by side."""

    def half(*i):
        at = (*i[:-1], i[-1] // 2)
        return radii[at] * tirx.Select(i[-1] % 2 == 0, cosines[codes[at]], sines[codes[at]])

    return te.compute([*radii.shape[:-1], radii.shape[-1] * 2], half, name="halves")


def _legalize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    (z,), dtype = call.args, dtype_of(call.args[0].ty)
    stored = form(str(call.attrs["scheme"]), int(z.ty.shape[-1]))
    if stored.dtype == "float32":
        return z
    if stored.dtype == "float16":
        return cast(bb, cast(bb, z, "float16"), dtype)
    wide = cast(bb, z, "float32")
    if stored.dtype == "bfloat16":
        return cast(bb, bb.emit_te(_to_bfloat16, wide, primfunc_name_hint="kv_bfloat16"), dtype)
    if stored.kind == "polar":
        centres = [angles(level)[0] for level in range(1, len(LEVEL_BITS) + 1)]
        tables = [relax.const(f(table).astype("float32")) for table in centres for f in (np.cos, np.sin)]
        return cast(bb, bb.emit_te(_through_angles, wide, *tables, primfunc_name_hint="kv_angles"), dtype)
    band = code_band(stored)
    if band is None:
        return bb.emit(relax.op.zeros_like(z))
    book: Codebook = stored.table(band)
    tables = [relax.const(table.astype("float32")) for table in (book.thresholds, book.centroids)]
    return cast(bb, bb.emit_te(_through_bands(band.bits, stored), wide, *tables, primfunc_name_hint="kv_codes"), dtype)


OP = define_op("kv_codes", "Vectors as their codes stand for them, without sketches.", ("z",), _infer, _legalize)


def kv_codes(z: relax.Expr, *, scheme: str) -> relax.Call:
    """z [..., D], in the basis of `scheme`, → what the codes and stored scales stand for, in the type of z.

    One band of Lloyd–Max codes with one scale (TurboQuant, arXiv:2504.19874, algorithm 1), angles and radii of
    blocks of 16 (PolarQuant, arXiv:2502.02617), or the rounding of an exact scheme; zeros where only a sketch is
    stored. ValueError for a scheme of several bands, CodecError for an unknown one.
    """
    return make_call(OP, [z], scheme=scheme)
