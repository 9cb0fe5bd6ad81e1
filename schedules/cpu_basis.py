"""Heads times the matrix of their KV head on the CPU: tiles of a few rows whose sums stay in registers."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from .cpu_rows import at, for_rows, let, load, scratch, splat, store
from .cpu_tiles import MatmulConfig

ROWS = 4
_OPS_PER_ELEMENT = 8
"""Multiply-adds that take about the time in which an element-wise kernel moves one element."""


def make_basis(
    heads: int, kv_heads: int, head_dim: int, dtype: str = "float32", *, config: MatmulConfig | None = None
) -> tirx.PrimFunc:
    """The kernel (x[B, heads, S, D] dtype, matrix[kv_heads, D, D] float32, y like x): `tqc.change_basis`.

    The rows of all query heads of a KV head share the reads of its matrix. Sums are taken in float32.
    """
    config = config or MatmulConfig()
    group = heads // kv_heads
    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True, "op_pattern": 8})
        batch, seq = (IRBuilder.name(name, T.int64()) for name in ("batch", "seq"))
        handles = [T.arg(f"{name}_handle", T.handle()) for name in ("x", "matrix", "y")]
        x = IRBuilder.name("x", T.match_buffer(handles[0], (batch, heads, seq, head_dim), dtype))
        matrix = IRBuilder.name("matrix", T.match_buffer(handles[1], (kv_heads, head_dim, head_dim), "float32"))
        y = IRBuilder.name("y", T.match_buffer(handles[2], (batch, heads, seq, head_dim), dtype))
        rows = let("rows", seq * group)
        tiles = let("tiles", tirx.floordiv(rows + (ROWS - 1), ROWS))

        def tile(number) -> None:
            kv = let("kv", number // tiles)
            b, head, first = let("b", kv // kv_heads), let("head", kv % kv_heads), let("first", number % tiles * ROWS)

            def place(row):
                return [b, head * group + row // seq, row % seq]

            with T.If(first + ROWS <= rows):
                with T.Then():
                    _product(x, matrix, y, head, [place(first + i) for i in range(ROWS)], config)
                with T.Else(), T.serial(T.int64(0), rows - first) as i:
                    _product(x, matrix, y, head, [place(first + i)], config)

        for_rows(batch * kv_heads * tiles, ROWS * head_dim * head_dim // _OPS_PER_ELEMENT, tile)
    return builder.get()


def _product(x, matrix, y, head, places: list, config: MatmulConfig) -> None:
    """The rows at `places` times matrix number `head`, as many columns at a time as stay in registers."""
    dim, lanes = int(matrix.shape[1]), config.lanes
    places = [[let("at", index) for index in place] for place in places]
    vectors = max(n for n in range(1, config.registers // ROWS + 1) if dim % (n * lanes) == 0)
    with T.serial(T.int64(0), T.int64(dim // (vectors * lanes))) as chunk:
        columns = [chunk * (vectors * lanes) + n * lanes for n in range(vectors)]
        acc = {(i, n): scratch(lanes) for i in range(len(places)) for n in range(vectors)}
        every = at(0, lanes)
        for register in acc.values():
            T.buffer_store(register, splat(0.0, lanes), [every])
        with T.serial(T.int64(0), T.int64(dim)) as k:
            weights = [let("w", load(matrix, [head, k, column], lanes)) for column in columns]
            for i, place in enumerate(places):
                value = let("value", splat(load(x, [*place, k], 1), lanes))
                for n in range(vectors):
                    T.buffer_store(acc[i, n], acc[i, n][every] + value * weights[n], [every])
        for (i, n), register in acc.items():
            store(y, register[every], [*places[i], columns[n]], lanes)
