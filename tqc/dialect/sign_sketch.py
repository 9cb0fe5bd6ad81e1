"""`tqc.sign_sketch` and `tqc.sign_values`: vectors as the signs of their projections and their norms, and back.

The sketch of QJL (arXiv:2406.03482, definition 3.1) and of the second stage of TurboQuant-prod (arXiv:2504.19874,
algorithm 2): of x only sign(S·x) and ‖x‖ are kept. c·‖x‖·sign(S·x), which `sign_values` gives, is what a query meets
with S·q, and Sᵀ times it estimates x.
"""

from __future__ import annotations

import numpy as np
from tvm import relax, te, tirx

from tqc.codec import sketch as codec
from tqc.codec.form import Band, Form, form

from .kv_codes import keeps
from .registry import cast, define_op, make_call, tensor_type

_UNIT = 16


def _form(call: relax.Call) -> Form:
    return form(str(call.attrs["scheme"]), int(call.attrs["head_dim"]))


def _bands(stored: Form) -> list[Band]:
    return [band for band in stored.bands if band.sketch]


def _infer_signs(call: relax.Call) -> relax.TupleType:
    x, stored = tensor_type(call.args[0], "x"), _form(call)
    if int(x.shape[-1]) != stored.head_dim:
        raise TypeError(f"x must have {stored.head_dim} numbers in its last axis, found shape {x.shape}")
    lead = list(x.shape)[:-1]
    return relax.TupleType(
        [
            relax.TensorType((*lead, stored.sketch_rows // _UNIT), "uint16"),
            relax.TensorType((*lead, len(_bands(stored))), "float16"),
        ]
    )


def _legalize_signs(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    stored, wide = _form(call), cast(bb, call.args[0], "float32")
    bands = _bands(stored)
    rows = relax.const(np.ascontiguousarray(codec.matrix(stored, int(call.attrs["seed"])), np.float32))

    def project(x: te.Tensor, s: te.Tensor) -> te.Tensor:
        r = te.reduce_axis((0, stored.head_dim), "r")
        # The rows of S as they are: a vector loop over both, where a product with Sᵀ would gather.
        return te.compute(
            (*x.shape[:-1], stored.sketch_rows),
            lambda *i: te.sum(x[(*i[:-1], r)] * s[i[-1], r], axis=r),
            name="product",
        )

    def lengths(x: te.Tensor) -> te.Tensor:
        def length(band: Band) -> te.Tensor:
            first, count = band.source
            r = te.reduce_axis((0, count), "r")
            return te.compute(
                x.shape[:-1],
                lambda *i: te.sum(x[(*i, r + first)] * x[(*i, r + first)], axis=r),
                name="squares",
            )

        squares, keep = [length(band) for band in bands], keeps(stored)

        def norm(*i):
            values = [keep(te.sqrt(total[i[:-1]])) for total in squares]
            return _choose(i[-1], range(1, len(values)), values)

        return te.compute((*x.shape[:-1], len(bands)), norm, name="norms")

    def signs(p: te.Tensor, norms: te.Tensor) -> te.Tensor:
        r = te.reduce_axis((0, _UNIT), "r")
        starts = [band.start - stored.head_dim for band in bands]

        def bit(*i):
            row = i[-1] * _UNIT + r
            norm = _choose(row, starts[1:], [norms[(*i[:-1], n)] for n in range(len(bands))])
            is_kept = norm < tirx.const(float("inf"), "float32")  # not norm == norm, which TVM takes for true
            positive = tirx.all(p[(*i[:-1], row)] > tirx.const(0, "float32"), is_kept)
            one = tirx.shift_left(tirx.const(1, "int32"), r.var.astype("int32"))
            return te.sum(tirx.Select(positive, one, tirx.const(0, "int32")), axis=r)

        units = te.compute((*p.shape[:-1], stored.sketch_rows // _UNIT), bit, name="bits")
        return te.compute(units.shape, lambda *i: units[i].astype("uint16"), name="units")

    projected = bb.emit_te(project, wide, rows, primfunc_name_hint="sketch_product")
    norms = bb.emit_te(lengths, wide, primfunc_name_hint="sketch_norms")
    packed = bb.emit_te(signs, projected, norms, primfunc_name_hint="sketch_signs")
    return relax.Tuple([packed, bb.emit(relax.op.astype(norms, "float16"))])


def _infer_values(call: relax.Call) -> relax.TensorType:
    signs, stored = tensor_type(call.args[0], "signs"), _form(call)
    return relax.TensorType((*list(signs.shape)[:-1], stored.sketch_rows), "float32")


def _legalize_values(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    stored = _form(call)
    bands = _bands(stored)
    sizes = [tirx.const(float(stored.table(band).centroids[1]), "float32") for band in bands]
    starts = [band.start - stored.head_dim for band in bands]

    def values(signs: te.Tensor, norms: te.Tensor) -> te.Tensor:
        def value(*i):
            row, lead = i[-1], i[:-1]
            scaled = [norms[(*lead, n)].astype("float32") * size for n, size in enumerate(sizes)]
            size = _choose(row, starts[1:], scaled)
            unit = signs[(*lead, row // _UNIT)].astype("int32")
            bit = tirx.bitwise_and(tirx.shift_right(unit, (row % _UNIT).astype("int32")), tirx.const(1, "int32"))
            return tirx.Select(bit > 0, size, tirx.const(0, "float32") - size)

        return te.compute((*signs.shape[:-1], stored.sketch_rows), value, name="values")

    return bb.call_te(values, *call.args, primfunc_name_hint="sketch_values")


def _choose(number, starts, values: list):
    """values[n] for the last n whose start is not above `number`; the first one starts at 0."""
    chosen = values[0]
    for start, value in zip(starts, values[1:], strict=True):
        chosen = tirx.Select(number >= start, value, chosen)
    return chosen


SIGNS = define_op("sign_sketch", "Signs of projections, and norms.", ("x",), _infer_signs, _legalize_signs)
VALUES = define_op(
    "sign_values", "Signs times norms and the codec's constant.", ("signs", "norms"), _infer_values, _legalize_values
)


def sign_sketch(x: relax.Expr, *, scheme: str, head_dim: int, seed: int = 0) -> relax.Call:
    """x [..., D] → (signs of S·x, uint16 [..., m/16]; norms of the sketched parts of x, float16 [..., sketch bands]).

    Row r of S is bit r mod 16 of unit r // 16, set for projections above 0. Norms that float16 cannot hold are NaN, and
    the signs below them 0. S [m, D] is the sketch matrix of `scheme` (`tqc.codec.sketch`). Raises ValueError for a
    scheme without a sketch.
    """
    _check(scheme, head_dim)
    return make_call(SIGNS, [x], scheme=scheme, head_dim=int(head_dim), seed=int(seed))


def sign_values(signs: relax.Expr, norms: relax.Expr, *, scheme: str, head_dim: int) -> relax.Call:
    """signs uint16 [..., m/16], norms float16 [..., bands] → ±c·norm, float32 [..., m]; see `Form.table` for c.

    Sᵀ times it is the sketched vector, unbiased (QJL, lemma 3.2). Raises ValueError for a scheme without a sketch.
    """
    _check(scheme, head_dim)
    return make_call(VALUES, [signs, norms], scheme=scheme, head_dim=int(head_dim))


def _check(scheme: str, head_dim: int) -> None:
    if not form(scheme, int(head_dim)).sketch_rows:
        raise ValueError(f"{scheme} has no sketch")
