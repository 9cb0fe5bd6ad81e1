"""Rows of a block-quantized weight that is stored as the CPU matmul reads it."""

from __future__ import annotations

from tvm import relax, te, tirx

from tqc.codec import nbits
from tqc.dialect import nbits as dialect
from tqc.schedules.cpu_nbits import COLUMNS, WORD_BITS


def gather_packed(bb: relax.BlockBuilder, call: relax.Call, laid_out: dict[relax.Var, relax.Var]) -> relax.Expr:
    """`tqc.gather_nbits` over operands of which those in `laid_out` have taken the kernel's layout (`cpu_nbits`)."""
    bits, block, rows, width = (int(call.attrs[name]) for name in ("bits", "block", "rows", "width"))
    packed, indices, *rest = call.args
    is_new = {name: arg in laid_out for name, arg in zip(("packed", "scales", "points"), [packed, *rest], strict=False)}

    def gather_nbits(packed: te.Tensor, indices: te.Tensor, scales: te.Tensor, points: te.Tensor | None = None):
        def block_value(table: te.Tensor, new: bool, row, column):
            at = (row // COLUMNS, column // block, row % COLUMNS) if new else (row, column // block)
            return dialect.widen(table, *at)

        def value(*at):
            row, column = te.max(te.min(indices[at[:-1]], rows - 1), 0), at[-1]
            number = (
                _number(packed, row, column, bits) if is_new["packed"] else dialect.number(packed, row, column, bits)
            )
            zero = tirx.const(nbits.centre(bits), "float32")
            if points is not None and (is_new["points"] or str(points.dtype) != "uint8"):
                zero = block_value(points, is_new["points"], row, column)
            elif points is not None:
                zero = dialect.number(points, row, column // block, bits).astype("float32")
            scale = block_value(scales, is_new["scales"], row, column)
            return ((number.astype("float32") - zero) * scale).astype(call.ty.dtype)

        return te.compute((*indices.shape, width), value, name="rows")

    operands = [laid_out.get(arg, arg) for arg in (packed, indices, *rest)]
    return bb.call_te(gather_nbits, *operands, primfunc_name_hint="tied_rows")


def _number(words: te.Tensor, row, column, bits: int):
    """Number `column` of weight row `row`, which is a column of the kernel's words; with its sign bit turned back."""
    per_byte, per_word = 8 // bits, WORD_BITS // bits
    byte = words[row // COLUMNS, column // per_word, row % COLUMNS * 4 + column % per_word // per_byte]
    if bits == 8:
        return tirx.bitwise_xor(byte, tirx.const(0x80, "uint8"))
    flipped = tirx.bitwise_xor(byte, tirx.const(0x88, "uint8"))
    return tirx.bitwise_and(tirx.shift_right(flipped, (column % 2 * 4).astype("uint8")), tirx.const(15, "uint8"))
