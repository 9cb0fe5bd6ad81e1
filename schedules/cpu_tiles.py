"""Row and column tiles of a product with a packed weight: what all CPU matmuls share around their inner loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import mul

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.target import Target, codegen
from tvm.tirx.script.builder import ir as T

from tqc.errors import PassError

from .cpu_rows import at, let, load, scratch, store

BLOCK = 32
SERIAL_LIMIT = 96 * 1024  # weight elements below which waking a second thread costs more than it saves


@dataclass(frozen=True)
class MatmulConfig:
    """Register tile of the kernel. lanes: float32 per vector register; registers: accumulators in flight;
    rows: rows of the largest tile; tiles: row tiles of one parallel task."""

    lanes: int = 16
    registers: int = 24
    rows: int = 12
    tiles: int = 8

    @classmethod
    def for_target(cls, target: Target) -> MatmulConfig:
        """The tile for a target's vector unit: 512, 256 or 128 bits with 32 or 16 registers."""
        if codegen.target_has_features("avx512f", target):
            return cls()
        if codegen.target_has_features("avx2", target):
            return cls(lanes=8, registers=12, rows=6, tiles=16)
        return cls(lanes=4, registers=12, rows=3, tiles=32)

    def columns(self, rows: int, block: int) -> int:
        """Columns that a tile of `rows` rows takes at once: the widest part of the block that stays in registers."""
        width = block
        while rows * (width // self.lanes) > self.registers and width % (2 * self.lanes) == 0:
            width //= 2
        return width


@dataclass(frozen=True)
class Product:
    """One product: its columns, their blocks and its buffers; `w` is what the inner loop reads."""

    n: int
    blocks: int
    w: tuple[tirx.Buffer, ...]
    y: tirx.Buffer
    bias: tirx.Buffer | None
    residual: tirx.Buffer | None


def make_products(
    kernel: Callable[[int, int, MatmulConfig, tirx.Buffer], RowTiles],
    k: int,
    n: int | Sequence[int],
    block: int,
    *,
    parts: Mapping[str, Callable[[int], tuple[tuple[int, ...], str]]],
    x_dtype: str,
    y_dtype: str,
    bias: bool | Sequence[bool],
    residual: bool,
    leading: int,
    config: MatmulConfig,
) -> tirx.PrimFunc:
    """The kernel y = x · w (+ bias) (+ residual) of weights that are stored in `parts`, see `cpu_matmul.make_matmul`.

    A part is a name and what says its shape and type for a weight of so many columns; the parameters are x, every
    weight's first part, every weight's second part, …, every bias, the residual, and every y.
    Raises PassError if `block` is not a multiple of the vector width, or if a residual is asked for with several
    weights.
    """
    widths = [n] if isinstance(n, int) else list(n)
    biases = [bias] * len(widths) if isinstance(bias, bool) else list(bias)
    if block % config.lanes:
        raise PassError(
            "A weight block must be whole vectors.", expected=f"a multiple of {config.lanes}", found=str(block)
        )
    if residual and len(widths) > 1:
        raise PassError("Only a single product can take a residual.", found=f"{len(widths)} weights")
    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True, "op_pattern": 8})
        axes = [IRBuilder.name(f"m{i}", T.int64()) for i in range(leading)]
        rows = reduce(mul, axes)
        shapes = {"x": ((*axes, k), x_dtype)}
        shapes |= {f"{part}{i}": of(width) for part, of in parts.items() for i, width in enumerate(widths)}
        shapes |= {f"bias{i}": ((width,), y_dtype) for i, width in enumerate(widths) if biases[i]}
        shapes |= {"residual0": ((*axes, widths[0]), y_dtype)} if residual else {}
        shapes |= {f"y{i}": ((*axes, width), y_dtype) for i, width in enumerate(widths)}
        handles = {name: T.arg(f"{name}_handle", T.handle()) for name in shapes}
        buffers = {}
        for name, (shape, dtype) in shapes.items():
            buffers[name] = IRBuilder.name(name, T.match_buffer(handles[name], shape, dtype))
        flat = [name for name in buffers if name.rstrip("0123456789") in ("x", "residual", "y")] if leading > 1 else []
        for name in flat:
            view = T.decl_buffer((rows, buffers[name].shape[-1]), shapes[name][1], data=buffers[name].data, layout=None)
            buffers[name] = IRBuilder.name(f"{name}_rows", view)
        outputs = [
            Product(
                width,
                -(-width // block),
                tuple(buffers[f"{part}{i}"] for part in parts),
                *(buffers.get(f"{part}{i}") for part in ("y", "bias", "residual")),
            )
            for i, width in enumerate(widths)
        ]
        kernel(k, block, config, buffers["x"]).emit(rows, outputs)
    return builder.get()


class RowTiles(ABC):
    """Emits the loops of the products of one x; a subclass says what happens in a tile."""

    def __init__(self, k: int, block: int, config: MatmulConfig, x: tirx.Buffer) -> None:
        self.k, self.block, self.config, self.x = k, block, config, x

    def emit(self, m: Expr, outputs: list[Product]) -> None:
        """All tasks: (column block, chunk of row tiles), the chunks of one block next to each other."""
        chunk = self.config.rows * self.config.tiles
        chunks = T.ceildiv(m, T.int64(chunk))
        small = self.k * sum(out.n for out in outputs) <= SERIAL_LIMIT
        with (T.serial if small else T.parallel)(T.int64(0), sum(out.blocks for out in outputs) * chunks) as task:
            IRBuilder.name("task", task)
            j = let("j", task // chunks)
            start = let("start", task % chunks * chunk)
            stop = let("stop", T.min(start + chunk, m))
            self._choose(outputs, j, start, stop)

    def _choose(self, outputs: list[Product], j, start, stop) -> None:
        """The product that column block j belongs to."""
        out, *others = outputs
        if not others:
            self._rows(out, j, start, stop)
            return
        with T.If(j < out.blocks):
            with T.Then():
                self._rows(out, j, start, stop)
            with T.Else():
                self._choose(others, let("j", j - out.blocks), start, stop)

    def _rows(self, out: Product, j, start, stop) -> None:
        full = T.int64(self.config.rows)
        with T.serial(T.int64(0), (stop - start) // full) as tile:
            self._tile(out, j, let("first", start + tile * full), self.config.rows)
        rest = let("rest", (stop - start) % full)
        self._rest(out, j, stop - rest, rest)

    def _rest(self, out: Product, j, first, rest) -> None:
        """Fewer rows than a full tile, as tiles of 8, 4, 2 and 1 rows: the bits of their number."""
        size = 1 << (self.config.rows - 1).bit_length() >> 1
        while size:
            with T.If(T.bitwise_and(rest, T.int64(size)) != 0):
                with T.Then():
                    before = T.bitwise_and(rest, T.int64(-2 * size))
                    self._tile(out, j, let("first", first + before), size)
            size //= 2

    def _tile(self, out: Product, j, first, rows: int) -> None:
        width = self.config.columns(rows, self.block)
        for left in range(0, self.block, width):
            self.micro_kernel(out, j, first, rows, left, width)

    @abstractmethod
    def micro_kernel(self, out: Product, j: Expr, first: Expr, rows: int, left: int, width: int) -> None:
        """Rows from `first` on times the columns `left` to `left + width` of column block j."""

    def store(self, out: Product, acc, j, row, offset: int) -> None:
        """Writes one vector; the vectors of the last block that reach beyond column N element by element."""
        lanes, column = self.config.lanes, j * self.block + offset
        every = at(0, lanes)
        valid = out.n - (out.blocks - 1) * self.block - offset
        if valid >= lanes:
            self._write(out, acc[every], row, column, lanes)
            return
        with T.If(j < out.blocks - 1):
            with T.Then():
                self._write(out, acc[every], row, column, lanes)
            with T.Else():
                if valid <= 0:
                    T.evaluate(0)
                    return
                # An element picked by a run-time lane would force the accumulator out of its register.
                spill = scratch(lanes)
                T.buffer_store(spill, acc[every], [every])
                with T.serial(T.int64(0), T.int64(valid)) as lane:
                    self._write(out, spill[lane], row, column + lane, 1)

    def _write(self, out: Product, value, row, column, lanes: int) -> None:
        if out.bias is not None:
            value = value + load(out.bias, [column], lanes)
        if out.residual is not None:
            value = value + load(out.residual, [row, column], lanes)
        store(out.y, value, [row, column], lanes)
