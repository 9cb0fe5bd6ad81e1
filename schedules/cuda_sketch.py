"""Sign sketches on CUDA: the signs of S·r and the norm of r, for some tokens of a page at a time.

S is chunks of signed Hadamard rotations of two rounds (`tqc.codec.sketch`), applied in shared memory: a thread takes up
to 16 values of a vector through four stages of the butterfly in registers, then a barrier. Only signs are kept, so the
factors that would make the transform orthonormal are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script.builder import ir as T

from tqc.codec import rotation, sketch
from tqc.codec.form import Band, Form
from tqc.codec.fragments import ROWS, STRIP, STRIPS, WARP
from tqc.codec.layout import LANES
from tqc.schedules.cuda_builder import accumulate, divide, f32, i32, local, phase, shared, store, to
from tqc.schedules.cuda_codes import pick
from tqc.schedules.cuda_encode import BandWriter
from tqc.schedules.cuda_fragments import value_place
from tqc.schedules.cuda_pack import pack_lane, store_lane

_VALUES = 2048  # floats of each of the two arrays that a transform goes back and forth between
_STAGES = 4  # of the butterfly in registers: 16 values
_WORD = 32
_BITS = tuple(f"bits_{strip}" for strip in range(STRIPS))


def _tokens(dim: int) -> int:
    """Tokens that are transformed together: a divisor of 16."""
    return next(count for count in (16, 8, 4) if count * dim <= _VALUES or count == 4)


def sketch_floats(forms: tuple[Form, ...]) -> int:
    """Shared memory of the sketches of a block, in floats."""
    dims = [band.source[1] for form in forms for band in form.bands if band.sketch]
    return sum(_sizes(dims).values()) if dims else 0


def _sizes(dims: list[int]) -> dict[str, int]:
    odd = max(dim // (dim & -dim) for dim in dims)
    values = max(_tokens(dim) * dim for dim in dims)
    return {
        "ping": values,
        "pong": values,
        "flips": sketch.ROUNDS * max(dims),
        "mixing": odd * odd,
        **{name: max(dims) for name in _BITS},
    }


@dataclass(frozen=True)
class SketchScratch:
    """Shared memory of the transforms: vectors as [dim, token] twice, the signs of both rounds, the odd factor of one,
    and the signs of a page, for each strip of 16 tokens a number a row.

    Each strip has an array of its own: TVM sees that threads do not meet where they use the same index everywhere."""

    ping: Buffer
    pong: Buffer
    flips: Buffer
    mixing: Buffer
    bits: tuple[Buffer, ...]

    @classmethod
    def declare(cls, forms: tuple[Form, ...]) -> SketchScratch | None:
        """None if no form has a sketch."""
        dims = [band.source[1] for form in forms for band in form.bands if band.sketch]
        if not dims:
            return None
        arrays = {name: shared(name, size) for name, size in _sizes(dims).items()}
        return cls(**{k: x for k, x in arrays.items() if k not in _BITS}, bits=tuple(arrays[name] for name in _BITS))


@dataclass(frozen=True)
class SketchWriter:
    """Writes the sketches of the page whose codes `bands` has written."""

    bands: BandWriter
    scratch: SketchScratch
    seed: int

    def write(self) -> None:
        for band in self.bands.form.bands:
            if band.sketch:
                for chunk, seed in enumerate(sketch.chunk_seeds(self.bands.form, band, self.seed)):
                    self._write_chunk(band, chunk, rotation.factors(band.source[1], seed, sketch.ROUNDS))

    def _phase(self, count: int):
        return phase(count, self.bands.threads)

    def _write_chunk(self, band: Band, chunk: int, rounds: tuple[tuple[np.ndarray, np.ndarray], ...]) -> None:
        dim, page = band.source[1], self.bands.page
        tokens = _tokens(dim)
        self._load_flips(np.concatenate([signs for signs, _ in rounds]) < 0)
        with self._phase(dim) as d:
            for bits in self.scratch.bits:
                store(bits, f32(0.0), d)
        with T.serial(0, page // tokens) as batch:
            first = T.Bind(batch * tokens)
            for part in self._residual(band):
                self._load_residual(band, part, first, tokens)
            if chunk == 0:
                self._store_norm(band, first, tokens)
            transform = _Transform(self.scratch, self.bands.threads, dim, tokens)
            for number, (_, factor) in enumerate(rounds):
                transform.flip(number)
                transform.mix(factor)
                transform.butterfly()
            self._keep(dim, first, tokens, transform.source)
        self._store(band, chunk * dim)

    def _load_flips(self, negative: np.ndarray) -> None:
        """The signs of all rounds, one after the other."""
        padded = np.pad(negative, (0, -len(negative) % _WORD)).reshape(-1, _WORD)
        words = [tirx.const(int(sum(int(bit) << i for i, bit in enumerate(row))), "uint32") for row in padded]
        with self._phase(len(negative)) as item:
            word, bit = divide(item, _WORD)
            flipped = (pick(words, word) >> to("uint32", bit)) & tirx.const(1, "uint32")
            store(self.scratch.flips, f32(1.0) - f32(2.0) * f32(flipped), item)

    def _residual(self, band: Band) -> Iterator[tuple[Band, int, int]]:
        """(code band, first dim, dims) of the parts of the source."""
        first, stop = band.source[0], sum(band.source)
        for code in self.bands.form.bands:
            start, end = max(code.start, first), min(code.stop, stop)
            if not code.sketch and start < end:
                yield code, start, end - start

    def _load_residual(self, band: Band, part: tuple[Band, int, int], first: Expr, tokens: int) -> None:
        """What the codes, with the scales that were stored, leave of the vectors."""
        code, start, count = part
        writer, scratch = self.bands, self.bands.scratch
        with self._phase(count * tokens) as item:
            row, t = divide(item, tokens)
            token = T.Bind(first + t)
            value = local("left", 1)
            store(value, writer.value(token, start + row), 0)
            if code.bits:
                found = writer.encoder(code)(writer.unit(value[0], code, token))
                kept = writer.centroids.of(writer.form, code)[found] * scratch.scales[code.scale][token]
                store(value, value[0] - kept, 0)
            store(self.scratch.ping, value[0], (start - band.source[0] + row) * tokens + t)

    def _store_norm(self, band: Band, first: Expr, tokens: int) -> None:
        parts, groups = self.bands.scratch.parts, band.source[1] // LANES
        with self._phase(groups * tokens) as item:
            group, t = divide(item, tokens)
            total = local("square_sum", 1)
            store(total, f32(0.0), 0)
            with T.unroll(0, LANES) as j:
                x = self.scratch.ping[(group * LANES + j) * tokens + t]
                accumulate(total, x * x, 0)
            store(parts, total[0], group, t)
        with self._phase(tokens) as t:
            norm = T.Bind(tirx.sqrt(sum((parts[group, t] for group in range(1, groups)), parts[0, t])))
            self.bands.store_scale(band.scale, norm, norm, first + t)

    def _keep(self, dim: int, first: Expr, tokens: int, rotated: Buffer) -> None:
        """The signs of these tokens into the words of their rows."""
        strip, slot = divide(first, STRIP)
        with self._phase(dim) as d:
            signs, word = local("signs", 1, "uint32"), local("word", 1, "uint32")
            store(signs, tirx.const(0, "uint32"), 0)
            for t in range(tokens):
                store(signs, signs[0] | (_sign(rotated[d * tokens + t], t) << to("uint32", slot)), 0)
            for n, bits in enumerate(self.scratch.bits):
                store(word, to("uint32", bits[d]), 0)
                added = tirx.Select(tirx.EQ(strip, i32(n)), signs[0], tirx.const(0, "uint32"))
                store(bits, f32(word[0] | added), d)

    def _store(self, band: Band, first_row: int) -> None:
        """The page's signs of some rows of the band, in the order of the page."""
        writer, rows = self.bands, band.source[1]
        start = (writer.form.offset(band, writer.page) // 2) + first_row // ROWS * WARP
        with self._phase(rows // ROWS * WARP) as item:
            column, lane = divide(item, WARP)

            def code(strip: int, j: int) -> Expr:
                token, row = value_place(writer.side, lane, strip, j)
                word = to("uint32", self.scratch.bits[strip][column * ROWS + row])
                return to("int32", (word >> to("uint32", token - STRIP * strip)) & tirx.const(1, "uint32"))

            def put(element: Expr | int, word: Expr) -> None:
                store(writer.units, word, *writer.at, start + element)

            store_lane(pack_lane(code, 1), 1, put, column, lane)


def _sign(x: Expr, bit: int) -> Expr:
    return tirx.Select(x > f32(0.0), tirx.const(1 << bit, "uint32"), tirx.const(0, "uint32"))


class _Transform:
    """Turns vectors [dim, token] in shared memory; `source` is the array that holds them. dim = 2^k·m with m odd."""

    def __init__(self, scratch: SketchScratch, threads: int, dim: int, tokens: int) -> None:
        self.scratch, self.threads, self.dim, self.tokens = scratch, threads, dim, tokens
        self.source, self._target = scratch.ping, scratch.pong
        self._factor: Callable[[Expr], Expr] | None = None

    def flip(self, number: int) -> None:
        """Multiplies by the signs of a round, when the values are read next."""
        self._factor = lambda d: self.scratch.flips[number * self.dim + d]

    def mix(self, factor: np.ndarray) -> None:
        """Multiplies runs of m values by an m × m matrix."""
        odd = len(factor)
        if odd == 1:
            return
        constants = [f32(float(np.float32(x))) for x in factor.reshape(-1)]
        with phase(odd * odd, self.threads) as item:
            store(self.scratch.mixing, pick(constants, item), item)
        with phase(self.dim * self.tokens, self.threads) as item:
            d, t = divide(item, self.tokens)
            run, row = divide(d, odd)
            total = local("mixed", 1)
            store(total, f32(0.0), 0)
            with T.serial(0, odd) as j:
                accumulate(total, self.scratch.mixing[row * odd + j] * self._read(run * odd + j, t), 0)
            store(self._target, total[0], item)
        self._swap()

    def butterfly(self) -> None:
        """The Walsh–Hadamard transform, without its factor, of the 2^k runs of m values."""
        odd = self.dim // (self.dim & -self.dim)
        stages, width = (self.dim // odd).bit_length() - 1, odd
        steps = -(-stages // _STAGES)
        for step in range(steps):
            radix = 1 << (stages // steps + (step < stages % steps))
            self._step(radix, width)
            width *= radix

    def _step(self, radix: int, width: int) -> None:
        with phase(self.dim // radix * self.tokens, self.threads) as item:
            index, t = divide(item, self.tokens)
            high, low = divide(index, width)
            first = T.Bind(high * (radix * width) + low)
            values, other = local("values", radix), local("other", radix)
            for i in range(radix):
                store(values, self._read(first + i * width, t), i)
            stride = 1
            while stride < radix:
                for i in range(radix):
                    if not i & stride:
                        store(other, values[i] + values[i + stride], i)
                        store(other, values[i] - values[i + stride], i + stride)
                values, other, stride = other, values, 2 * stride
            for i in range(radix):
                store(self._target, values[i], (first + i * width) * self.tokens + t)
        self._swap()

    def _read(self, d: Expr, t: Expr) -> Expr:
        value = self.source[d * self.tokens + t]
        return value if self._factor is None else value * self._factor(d)

    def _swap(self) -> None:
        self.source, self._target, self._factor = self._target, self.source, None
