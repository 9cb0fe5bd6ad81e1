"""`tqc.kv_quantize`: vectors through their code and back, for keys and values that no cache holds."""

from __future__ import annotations

from tvm import relax

from tqc.codec.form import Form, form
from tqc.errors import CodecError

from .kv_codes import kv_codes
from .registry import cast, define_op, dtype_of, make_call, tensor_type
from .rotate import rotate
from .sign_sketch import sign_sketch, sign_values
from .sketch import sketch


def _infer(call: relax.Call) -> relax.TensorType:
    x = tensor_type(call.args[0], "x")
    return relax.TensorType(x.shape, dtype_of(x))


def form_without_basis(scheme: str, head_dim: int) -> Form:
    """The form of `scheme`. Raises CodecError if it needs matrices that only a calibration gives."""
    stored = form(scheme, head_dim)
    if stored.basis == "matrix":
        near = {"tq2.5": "tq3", "tq3.5": "tq4"}.get(scheme, scheme.removesuffix("o") if "qjl" in scheme else "tq4")
        raise CodecError(
            f"'{scheme}' needs a basis measured on text, and this model has no cache to measure",
            expected="tq1 to tq8, tqp2 to tqp8, polar, polar-plain, qjl1 to qjl3 for keys, fp16, bf16 or fp32",
            found=scheme,
            hint=f"{near} needs none",
        )
    return stored


def emit_quantized(bb: relax.BlockBuilder, x: relax.Expr, *, scheme: str, seed: int = 0, rounds: int = 1) -> relax.Expr:
    """Emits what `kv_quantize` stands for, op by op: basis, codes, the signs of what they leave, and back."""
    dim = int(x.ty.shape[-1])
    stored, dtype = form_without_basis(scheme, dim), dtype_of(x.ty)
    if stored.exact:
        return bb.emit(kv_codes(x, scheme=scheme))
    z = cast(bb, x, "float32")
    if stored.basis == "rotation":
        z = bb.emit(rotate(z, seed=seed, rounds=rounds))
    decoded = bb.emit(kv_codes(z, scheme=scheme))
    if stored.sketch_rows:
        names = {"scheme": scheme, "head_dim": dim}
        signed = bb.emit(sign_sketch(bb.emit(relax.op.subtract(z, decoded)), **names, seed=seed))
        signs, norms = (bb.emit(relax.TupleGetItem(signed, i)) for i in range(2))
        coded = bb.emit(relax.op.concat([decoded, bb.emit(sign_values(signs, norms, **names))], axis=-1))
        decoded = bb.emit(sketch(coded, **names, seed=seed, inverse=True))
    if stored.basis == "rotation":
        decoded = bb.emit(rotate(decoded, seed=seed, rounds=rounds, inverse=True))
    return cast(bb, decoded, dtype)


def _legalize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    options = {key: int(call.attrs[key]) for key in ("seed", "rounds")}
    return emit_quantized(bb, call.args[0], scheme=str(call.attrs["scheme"]), **options)


OP = define_op("kv_quantize", "Vectors as their codes stand for them.", ("x",), _infer, _legalize)


def kv_quantize(x: relax.Expr, *, scheme: str, seed: int = 0, rounds: int = 1) -> relax.Call:
    """x [..., D] → decode(encode(x)) of the codec `scheme`, in the type of x.

    Every scheme that needs no basis of its own: `tq1` … `tq8`, `tqp2` … `tqp8` (TurboQuant, arXiv:2504.19874), `polar`,
    `polar-plain` (PolarQuant, arXiv:2502.02617), `qjl1` … `qjl3` (QJL, arXiv:2406.03482), `fp16`, `bf16`, `fp32`.
    """
    return make_call(OP, [x], scheme=scheme, seed=int(seed), rounds=int(rounds))
