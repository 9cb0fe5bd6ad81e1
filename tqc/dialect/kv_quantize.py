"""`tqc.kv_quantize`: vectors through their code and back, for keys and values that no cache holds."""

from __future__ import annotations

from tvm import relax, te, tirx

from tqc.codec.layout import code_bits
from tqc.codec.lloyd_max import codebook

from .registry import cast, define_op, dtype_of, make_call, tensor_type
from .rotate import rotate


def _infer(call: relax.Call) -> relax.TensorType:
    x = tensor_type(call.args[0], "x")
    return relax.TensorType(x.shape, dtype_of(x))


def _round_trip(bits: int):
    """Builds the te function (z, thresholds, centroids) → z as its codes stand for it; all rotated, float32."""

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

        def scale(*i):
            kept = (norm[i] / overlap[i]).astype("float16").astype("float32")
            finite = tirx.abs(kept) < tirx.const(float("inf"), "float32")  # false for NaN too
            lost = tirx.const(float("nan"), "float32")
            return tirx.if_then_else(norm[i] == zero, zero, tirx.if_then_else(finite, kept, lost))

        scales = te.compute(vectors, scale, name="scales")
        return te.compute(z.shape, lambda *i: near[i] * scales[i[:-1]], name="decoded")

    return compute


def _legalize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    (x,), scheme, seed = call.args, str(call.attrs["scheme"]), int(call.attrs["seed"])
    dtype, bits = dtype_of(x.ty), code_bits(scheme)
    if not bits:
        exact = {"fp16": "float16", "fp32": "float32"}[scheme]
        return x if exact == "float32" else cast(bb, cast(bb, x, exact), dtype)
    book = codebook(bits, int(x.ty.shape[-1]))
    z = bb.normalize(rotate(cast(bb, x, "float32"), seed=seed))
    z = bb.emit(z)
    tables = [relax.const(table.astype("float32")) for table in (book.thresholds, book.centroids)]
    decoded = bb.emit_te(_round_trip(bits), z, *tables, primfunc_name_hint="kv_round_trip")
    return cast(bb, bb.emit(rotate(decoded, seed=seed, inverse=True)), dtype)


OP = define_op("kv_quantize", "Vectors as their codes stand for them.", ("x",), _infer, _legalize)


def kv_quantize(x: relax.Expr, *, scheme: str, seed: int = 0) -> relax.Call:
    """x [..., D] → decode(encode(x)) of the codec `scheme` (`tq1` … `tq8`, `fp16`, `fp32`), in the type of x.

    Rotates, quantizes every coordinate with the codebook of D dimensions, restores the length by one float16 number a
    vector and rotates back (TurboQuant, arXiv:2504.19874, algorithm 1; see `tqc.codec.turboquant`).
    """
    return make_call(OP, [x], scheme=scheme, seed=int(seed))
