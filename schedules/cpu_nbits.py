"""Matrix product with a block-quantized weight: the packed integers are unpacked in registers, next to the product.

The weight is kept as [N/columns, words, 4·columns] bytes: a word of 32 bits holds 8 or 4 numbers of one column that
follow each other along K, and a vector of words holds them for one column a lane. One shift then gives a vector of
numbers for the next k. Numbers are stored as two's complements around the middle of their range, so that a weight
without zero points needs no subtraction; their scale is applied once a block, to a block's sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

import numpy as np
from tvm import tirx
from tvm.ir import Expr
from tvm.target import Target
from tvm.tirx.script.builder import ir as T

from tqc.codec import nbits
from tqc.errors import PassError

from .cpu_rows import at, let, load, scratch, splat, total, vector_type
from .cpu_tiles import BLOCK as COLUMNS
from .cpu_tiles import MatmulConfig, Product, RowTiles, make_products

WORD_BITS = 32
FEW = 4
"""Rows up to which zero points are taken from a block's sum, times the sum of x, and not from each number."""

CHAINS = 8  # independent sums: a fused multiply-add takes 4 cycles, and two start in each


def nbits_config(target: Target) -> MatmulConfig:
    """The tile for a target's vector unit; a cell takes two registers, the sum of its block and that of all blocks."""
    lanes = MatmulConfig.for_target(target).lanes
    cells = 8 if lanes == 16 else 6
    return MatmulConfig(lanes, registers=cells, rows=cells, tiles=96 // cells)


def pack_words(packed: np.ndarray, bits: int, columns: int = COLUMNS) -> np.ndarray:
    """uint8 [N, blocks, block·bits/8] → [⌈N/columns⌉, words, 4·columns]; columns beyond N are zeros."""
    rows = packed.shape[0]
    flipped = packed.reshape(rows, -1, 4) ^ np.uint8(0x88 if bits == 4 else 0x80)
    groups = _pad(flipped, columns).reshape(-1, columns, *flipped.shape[1:])
    return np.ascontiguousarray(groups.transpose(0, 2, 1, 3)).reshape(len(groups), flipped.shape[1], -1)


def pack_blocks(values: np.ndarray, columns: int = COLUMNS) -> np.ndarray:
    """Scales or unpacked zero points [N, blocks] → [⌈N/columns⌉, blocks, columns]; columns beyond N are zeros."""
    groups = _pad(values, columns).reshape(-1, columns, values.shape[1])
    return np.ascontiguousarray(groups.transpose(0, 2, 1))


def _pad(array: np.ndarray, columns: int) -> np.ndarray:
    missing = -array.shape[0] % columns
    return np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1)) if missing else array


def make_matmul_nbits(
    k: int,
    n: int | Sequence[int],
    *,
    bits: int,
    block: int,
    points: str = "",
    x_dtype: str = "float32",
    scale_dtype: str = "float32",
    y_dtype: str = "float32",
    bias: bool | Sequence[bool] = False,
    residual: bool = False,
    leading: int = 1,
    config: MatmulConfig | None = None,
) -> tirx.PrimFunc:
    """The kernel y[M, N] = x[M, K] · Wᵀ (+ bias[N]) (+ residual[M, N]), summed in float32, for any number of rows M.

    W [N, K] has `bits` (4 or 8) a number and a scale for every `block` of K; `points` is the type of its zero points,
    uint8 or a float type, or empty. A sequence `n` and `leading` are as in `cpu_matmul.make_matmul`.

    Parameters in order: x[M, K] x_dtype, every w[⌈N/32⌉, words, 128] uint8 (`pack_words`), every scales[⌈N/32⌉, blocks,
    32] scale_dtype (`pack_blocks`), with points every zero_points of that shape, then biases, residual and y as there.
    Raises PassError for other bits or blocks and for what `make_products` refuses.
    """
    if bits not in nbits.BITS or block not in nbits.BLOCKS:
        raise PassError(
            "Unsupported block quantization.",
            expected=f"{nbits.BITS} bits in blocks of {nbits.BLOCKS}",
            found=f"{bits} bits in blocks of {block}",
        )
    blocks, words = -(-k // block), block * bits // WORD_BITS

    def groups(width: int) -> int:
        return -(-width // COLUMNS)

    parts = {
        "w": lambda width: ((groups(width), blocks * words, 4 * COLUMNS), "uint8"),
        "scales": lambda width: ((groups(width), blocks, COLUMNS), scale_dtype),
    }
    if points:
        parts["zero_points"] = lambda width: ((groups(width), blocks, COLUMNS), points)
    return make_products(
        lambda *arguments: _Kernel(*arguments, bits, block),
        k,
        n,
        COLUMNS,
        parts=parts,
        x_dtype=x_dtype,
        y_dtype=y_dtype,
        bias=bias,
        residual=residual,
        leading=leading,
        config=config or MatmulConfig(registers=8, rows=8),
    )


class _Kernel(RowTiles):
    """Products with block-quantized weights."""

    def __init__(self, k: int, columns: int, config: MatmulConfig, x: tirx.Buffer, bits: int, block: int) -> None:
        super().__init__(k, columns, config, x)
        self.bits, self.size = bits, block
        self.per_word = WORD_BITS // bits

    def micro_kernel(self, out: Product, j, first, rows: int, left: int, width: int) -> None:
        lanes = self.config.lanes
        cells = [(i, c) for i in range(rows) for c in range(0, width, lanes)]
        chains = max(1, min(self.per_word, CHAINS // len(cells)))
        acc = {cell: scratch(lanes) for cell in cells}
        part = {(*cell, chain): scratch(lanes) for cell in cells for chain in range(chains)}
        every = at(0, lanes)
        for cell in cells:
            T.buffer_store(acc[cell], splat(0.0, lanes), [every])

        def one_block(b: Expr | int, depth: int) -> None:
            """Adds the first `depth` elements of block b."""
            for buffer in part.values():
                T.buffer_store(buffer, splat(0.0, lanes), [every])
            scales = {c: let(f"scale{c}", load(out.w[1], [j, b, left + c], lanes)) for c in range(0, width, lanes)}
            zeros = {c: let(f"zero{c}", self._zero(out.w[2], [j, b, left + c])) for c in scales if len(out.w) > 2}
            early, late = ({}, zeros) if rows <= FEW else (zeros, {})
            whole = depth // self.per_word
            with T.serial(T.int64(0), T.int64(whole)) as g:
                self._word(out, part, early, j, first, b, g, self.per_word, left, chains)
            if rest := depth % self.per_word:
                self._word(out, part, early, j, first, b, whole, rest, left, chains)
            sums = {i: splat(self._sum(first + i, b, depth), lanes) for i in range(rows) if late}
            for i, c in cells:
                product = part[i, c, 0][every]
                for chain in range(1, chains):
                    product = product + part[i, c, chain][every]
                if late:
                    product = product - late[c] * sums[i]
                T.buffer_store(acc[i, c], acc[i, c][every] + product * scales[c], [every])

        with T.serial(T.int64(0), T.int64(self.k // self.size)) as b:
            one_block(b, self.size)
        if rest := self.k % self.size:
            one_block(T.int64(self.k // self.size), rest)
        for i, c in cells:
            self.store(out, acc[i, c], j, first + i, left + c)

    def _word(
        self, out: Product, part: dict, zeros: dict, j, first, b, g, numbers: int, left: int, chains: int
    ) -> None:
        """Adds what word g of block b holds, `numbers` of them, to the chains of the block's sum."""
        lanes, every = self.config.lanes, at(0, self.config.lanes)
        column = sorted({c for _, c, _ in part})
        row = let("row", b * (self.size // self.per_word) + g)
        bytes_of = {c: out.w[0][j, row, at((left + c) * 4, 4 * lanes)] for c in column}
        words = {c: let(f"words{c}", T.reinterpret(vector_type("int32", lanes), bytes_of[c])) for c in column}
        for number in range(numbers):
            k = row * self.per_word + number
            values = {}
            for c in column:
                value = self._unpack(words[c], number)
                values[c] = let(f"w{c}", value - zeros[c] if zeros else value)
            for i, c, chain in part:
                if chain == number % chains:
                    x = splat(load(self.x, [first + i, k], 1), lanes)
                    T.buffer_store(part[i, c, chain], part[i, c, chain][every] + x * values[c], [every])

    def _sum(self, row, b, depth: int) -> Expr:
        """The sum of the first `depth` elements of a block of x."""
        lanes, start = self.config.lanes, b * self.size
        vectors = [load(self.x, [row, start + offset], lanes) for offset in range(0, depth - lanes + 1, lanes)]
        found = None
        if vectors:
            vector = scratch(lanes)
            T.buffer_store(vector, reduce(add, vectors), [at(0, lanes)])
            found = total(vector, lanes)
        rest = [load(self.x, [row, start + offset], 1) for offset in range(depth // lanes * lanes, depth)]
        return let("sum", reduce(add, [*([] if found is None else [found]), *rest]))

    def _unpack(self, words: Expr, number: int) -> Expr:
        """Number `number` of every word, as float32 around zero."""
        lanes = self.config.lanes
        if lanes == 16 and self.bits == 4:
            # vpermps looks at the low four bits of an index only: a shift and a look-up make a float of a number.
            shifted = T.shift_right(words, splat(4 * number, lanes, "int32")) if number else words
            table = tirx.Shuffle([tirx.const(float(v - 16 * (v > 7)), "float32") for v in range(16)], list(range(16)))
            return T.call_llvm_pure_intrin("float32x16", "llvm.x86.avx512.permvar.sf.512", table, shifted)
        up = WORD_BITS - self.bits * (number + 1)
        if up:
            words = T.shift_left(words, splat(up, lanes, "int32"))
        signed = T.shift_right(words, splat(WORD_BITS - self.bits, lanes, "int32"))
        return T.Cast(vector_type("float32", lanes), signed)

    def _zero(self, points: tirx.Buffer, index: list) -> Expr:
        """Zero points relative to the middle of the numbers' range."""
        lanes = self.config.lanes
        return load(points, index, lanes) - splat(float(nbits.centre(self.bits)), lanes)
