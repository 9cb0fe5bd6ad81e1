"""`tqc.matmul_nbits` and `tqc.gather_nbits`: products with, and rows of, a weight that stays in 4 or 8 bits.

The format is that of `tqc.codec.nbits`. Both are defined by the same dequantized element, which schedules compute where
it is used: in registers or in the tiles of a product, never as a float weight in memory.
"""

from __future__ import annotations

from tvm import relax, te, tirx

from tqc.codec import nbits

from .registry import define_op, dtype_of, make_call, tensor_type

_FLOATS = ("float32", "float16")
_STORED_FLOATS = (*_FLOATS, "bfloat16")


def _check_weight(args: list[relax.Expr], bits: int, block: int, rows: int, width: int) -> None:
    """TypeError unless packed, scales and zero points (if given) have the shapes and types of the format."""
    blocks = -(-width // block)
    packed, scales = tensor_type(args[0], "packed", 3), tensor_type(args[1], "scales", 2)
    wanted = [(packed, ("uint8",), (rows, blocks, block * bits // 8)), (scales, _STORED_FLOATS, (rows, blocks))]
    if len(args) > 2:
        points = tensor_type(args[2], "zero_points", 2)
        columns = blocks if dtype_of(points) != "uint8" else -(-blocks * bits // 8)
        wanted.append((points, ("uint8", *_STORED_FLOATS), (rows, columns)))
    for ty, dtypes, shape in wanted:
        found = tuple(int(extent) if isinstance(extent, tirx.IntImm) else None for extent in ty.shape)
        if found != shape or dtype_of(ty) not in dtypes:
            raise TypeError(f"a weight of {rows} rows of {width} needs {dtypes} {shape}, found {ty}")


def _options(call: relax.Call, *names: str) -> list[int]:
    return [int(call.attrs[name]) for name in ("bits", "block", *names)]


def _infer_matmul(call: relax.Call) -> relax.TensorType:
    x, (bits, block, k, n) = tensor_type(call.args[0], "x"), _options(call, "k", "n")
    width = x.shape[-1] if len(x.shape) > 1 else None
    if not isinstance(width, tirx.IntImm) or int(width) != k or dtype_of(x) not in _FLOATS:
        raise TypeError(f"x must be float [..., rows, {k}], found {x}")
    _check_weight(call.args[1:], bits, block, n, k)
    return relax.TensorType([*list(x.shape)[:-1], n], dtype_of(x))


def _infer_gather(call: relax.Call) -> relax.TensorType:
    bits, block, rows, width = _options(call, "rows", "width")
    indices = tensor_type(call.args[1], "indices")
    _check_weight([call.args[0], *call.args[2:]], bits, block, rows, width)
    return relax.TensorType([*indices.shape, width], _computed(dtype_of(call.args[2].ty)))


def _computed(dtype: str) -> str:
    """The type of what is computed from scales of `dtype`; bfloat16 is a type of weights only."""
    return "float32" if dtype == "bfloat16" else dtype


def widen(table: te.Tensor, *index):
    """A stored float as float32. The bits of bfloat16 are moved: TVM's cast of its vectors takes them for a number."""
    if str(table.dtype) != "bfloat16":
        return table[index].astype("float32")
    bits = tirx.reinterpret("uint16", table[index]).astype("uint32")
    return tirx.reinterpret("float32", tirx.shift_left(bits, tirx.const(16, "uint32")))


def number(packed: te.Tensor, row, column, bits: int):
    """Number `column` of a row of blocks, or of a matrix of packed zero points."""
    per_byte = 8 // bits
    if len(packed.shape) == 3:
        block = int(packed.shape[2]) * per_byte
        byte = packed[row, column // block, column % block // per_byte]
    else:
        byte = packed[row, column // per_byte]
    if bits == 8:
        return byte
    shift = (column % 2 * 4).astype("uint8")
    return tirx.bitwise_and(tirx.shift_right(byte, shift), tirx.const(15, "uint8"))


def element(packed: te.Tensor, scales: te.Tensor, zero_points: te.Tensor | None, row, column, bits: int, block: int):
    """The float32 element [row, column] of a weight."""
    if zero_points is None:
        zero = tirx.const(nbits.centre(bits), "float32")
    elif str(zero_points.dtype) == "uint8":
        zero = number(zero_points, row, column // block, bits).astype("float32")
    else:
        zero = widen(zero_points, row, column // block)
    value = number(packed, row, column, bits).astype("float32")
    return (value - zero) * widen(scales, row, column // block)


def _legalize_matmul(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    bits, block, depth, columns = _options(call, "k", "n")

    def matmul_nbits(x: te.Tensor, packed: te.Tensor, scales: te.Tensor, zero_points: te.Tensor | None = None):
        # A stage of its own: schedules of a matmul on GPUs inline it into their loads of the weight's tiles.
        weight = te.compute(
            (columns, depth),
            lambda n, k: element(packed, scales, zero_points, n, k, bits, block).astype(x.dtype),
            name="dequantized",
        )
        k = te.reduce_axis((0, depth), "k")

        def product(*at):
            return te.sum(x[(*at[:-1], k)].astype("float32") * weight[at[-1], k].astype("float32"), axis=k)

        y = te.compute((*x.shape[:-1], columns), product, name="product")
        if str(x.dtype) == "float32":
            return y
        return te.compute(y.shape, lambda *at: y[at].astype(x.dtype), name="rounded")

    return bb.call_te(matmul_nbits, *call.args, primfunc_name_hint="matmul_nbits")


def _legalize_gather(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    bits, block, rows, width = _options(call, "rows", "width")

    def gather_nbits(packed: te.Tensor, indices: te.Tensor, scales: te.Tensor, zero_points: te.Tensor | None = None):
        def value(*at):
            row = te.max(te.min(indices[at[:-1]], rows - 1), 0)  # a foreign token id must not read foreign memory
            return element(packed, scales, zero_points, row, at[-1], bits, block).astype(_computed(str(scales.dtype)))

        return te.compute((*indices.shape, width), value, name="rows")

    return bb.call_te(gather_nbits, *call.args, primfunc_name_hint="gather_nbits")


MATMUL = define_op(
    "matmul_nbits",
    "x times the transpose of a block-quantized weight.",
    ("x", "packed", "scales", "zero_points"),
    _infer_matmul,
    _legalize_matmul,
)
GATHER = define_op(
    "gather_nbits",
    "Rows of a block-quantized weight.",
    ("packed", "indices", "scales", "zero_points"),
    _infer_gather,
    _legalize_gather,
)


def matmul_nbits(
    x: relax.Expr,
    packed: relax.Expr,
    scales: relax.Expr,
    zero_points: relax.Expr | None = None,
    *,
    bits: int,
    block: int,
    k: int,
    n: int,
) -> relax.Call:
    """x [..., K] · Wᵀ → [..., N] in x's type, summed in float32; W [N, K] is `nbits.dequantize` of the others.

    packed [N, ⌈K/block⌉, block·bits/8] uint8, scales [N, ⌈K/block⌉] float, zero_points likewise float or packed uint8.
    Raises TypeError when shapes or types do not fit together.
    """
    operands = [x, packed, scales, *([zero_points] if zero_points is not None else [])]
    return make_call(MATMUL, operands, bits=int(bits), block=int(block), k=int(k), n=int(n))


def gather_nbits(
    packed: relax.Expr,
    indices: relax.Expr,
    scales: relax.Expr,
    zero_points: relax.Expr | None = None,
    *,
    bits: int,
    block: int,
    rows: int,
    width: int,
) -> relax.Call:
    """Rows `indices` [...] of W [rows, width] → [..., width] in the type of scales, or float32 if that is bfloat16.

    Indices outside are clipped. The weight is given as in `matmul_nbits`. Raises TypeError when shapes or types do not
    fit together.
    """
    operands = [packed, indices, scales, *([zero_points] if zero_points is not None else [])]
    return make_call(GATHER, operands, bits=int(bits), block=int(block), rows=int(rows), width=int(width))
