"""Matrix product with a weight stored in column blocks: one CPU kernel for one row (decode) and for many (prefill).

The weight is kept as [N/block, K, block]: a kernel that owns a block of columns reads it once, front to back, with one
column a lane. Rows go through in register tiles; a tile's accumulators stay in vector registers over the whole of K
(the micro-kernel of Goto & van de Geijn 2008, without their copying of A and B: B is stored packed, A is small).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from .cpu_rows import at, let, load, scratch, splat
from .cpu_tiles import BLOCK, MatmulConfig, Product, RowTiles, make_products


def pack_columns(weight: np.ndarray, block: int = BLOCK) -> np.ndarray:
    """weight [K, N] -> [ceil(N / block), K, block]; columns beyond N are zeros."""
    depth, columns = weight.shape
    blocks = -(-columns // block)
    if blocks * block != columns:
        weight = np.pad(weight, ((0, 0), (0, blocks * block - columns)))
    return np.ascontiguousarray(weight.reshape(depth, blocks, block).transpose(1, 0, 2))


def make_matmul(
    k: int,
    n: int | Sequence[int],
    block: int = BLOCK,
    *,
    x_dtype: str = "float32",
    w_dtype: str = "float32",
    y_dtype: str = "float32",
    bias: bool | Sequence[bool] = False,
    residual: bool = False,
    leading: int = 1,
    config: MatmulConfig | None = None,
) -> tirx.PrimFunc:
    """The kernel y[M, N] = x[M, K] · w (+ bias[N]) (+ residual[M, N]), summed in float32, for any number of rows M.

    With `leading` axes instead of one, M stands for their product: x[A, B, K] gives y[A, B, N]. A sequence `n` asks for
    one product of x with each of several weights, in one parallel launch; `bias` then says which have one.

    Parameters in order: x[M, K] x_dtype, every w[ceil(N/block), K, block] w_dtype (`pack_columns`), every bias[N]
    y_dtype, residual[M, N] y_dtype, every y[M, N] y_dtype. Raises PassError if `block` is not a multiple of the vector
    width, or if a residual is asked for with several weights.
    """
    return make_products(
        _Kernel,
        k,
        n,
        block,
        parts={"w": lambda width: ((-(-width // block), k, block), w_dtype)},
        x_dtype=x_dtype,
        y_dtype=y_dtype,
        bias=bias,
        residual=residual,
        leading=leading,
        config=config or MatmulConfig(),
    )


class _Kernel(RowTiles):
    """Products with float weights."""

    def micro_kernel(self, out: Product, j, first, rows: int, left: int, width: int) -> None:
        x, (w,), lanes = self.x, out.w, self.config.lanes
        cells = [(i, c) for i in range(rows) for c in range(0, width, lanes)]
        # A buffer of more than 1 KiB, or of scope "local", would be allocated on the heap: one for each register.
        acc = {cell: scratch(lanes) for cell in cells}
        every = at(0, lanes)
        for cell in cells:
            T.buffer_store(acc[cell], splat(0.0, lanes), [every])
        with T.serial(T.int64(0), T.int64(self.k)) as kk:
            IRBuilder.name("kk", kk)
            weights = {c: let(f"w{c}", load(w, [j, kk, left + c], lanes)) for c in range(0, width, lanes)}
            for i, c in cells:
                value = splat(load(x, [first + i, kk], 1), lanes)
                T.buffer_store(acc[i, c], acc[i, c][every] + value * weights[c], [every])
        for i, c in cells:
            self.store(out, acc[i, c], j, first + i, left + c)
