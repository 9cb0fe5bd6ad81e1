"""The vocabulary of warp-level CUDA kernels: the PTX instructions that they use, on registers and shared memory.

Registers are the elements of arrays of one thread (`cuda_builder.local`) with constant indices. Shared memory is one
array of the block, addressed in bytes by uint32 numbers that TVM does not look into: it puts no barriers of its own
between these accesses, so kernels place them. The instructions are those of the PTX ISA 8, for sm_80 and later.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script.builder import ir as T

from tqc.schedules.cuda_builder import named, store, to

WARP = 32
ALL_LANES = 0xFFFFFFFF


def u32(value: int | Expr) -> Expr:
    """A uint32 constant, or an integer expression as uint32."""
    return to("uint32", value) if isinstance(value, Expr) else tirx.const(value, "uint32")


def shared_memory(size: int) -> Expr:
    """Allocates `size` bytes of dynamic shared memory; the address of its first byte."""
    array = named("block_memory", T.sblock_alloc_buffer((-(-size // 4),), "uint32", scope="shared.dyn"))
    # The array as a whole: of one whose elements are named, TVM would keep only those.
    return T.Bind(T.cuda.cvta_generic_to_shared(array.data))


def registers(name: str, size: int, dtype: str = "float32") -> Buffer:
    """`size` registers of a thread, from here to the end of the block of statements.

    They belong to no block of TVM's, whose pass that shrinks buffers would take minutes for unrolled kernels.
    """
    return named(name, T.alloc_buffer((size,), dtype, scope="local"))


def hold(value: Expr) -> Expr:
    """The value in a register, for later uses.

    TVM looks through a bound variable at every access of an array, which takes minutes where there are hundreds.
    """
    held = registers("held", 1, str(value.ty.dtype))
    store(held, value, 0)
    return held[0]


def _emit(instruction: str, *operands: Expr | int) -> None:
    T.evaluate(T.ptx[instruction](*operands))


_VECTOR = {1: "", 2: ".v2", 4: ".v4"}


def load_shared(into: Sequence[Expr], address: Expr) -> None:
    """1, 2 or 4 words, aligned to their size together."""
    _emit(f"ld.shared{_VECTOR[len(into)]}.u32", *into, address)


def store_shared(address: Expr, *words: Expr) -> None:
    """1, 2 or 4 words, aligned to their size together."""
    _emit(f"st.shared{_VECTOR[len(words)]}.u32", address, *words)


def load_shared_float(into: Expr, address: Expr) -> None:
    _emit("ld.shared.f32", into, address)


def store_shared_float(address: Expr, value: Expr) -> None:
    _emit("st.shared.f32", address, value)


def load_shared_half(into: Expr, address: Expr) -> None:
    """16 bits into a uint16."""
    _emit("ld.shared.u16", into, address)


def store_shared_half(address: Expr, value: Expr) -> None:
    """A uint16."""
    _emit("st.shared.u16", address, value)


def load_global(into: Sequence[Expr], array: Buffer, *indices: Expr) -> None:
    """1, 2 or 4 words from the element at `indices` on."""
    _emit(f"ld.global{_VECTOR[len(into)]}.u32", *into, array.ptr_to(list(indices)))


def copy_async(address: Expr, array: Buffer, *indices: Expr) -> None:
    """16 bytes from the element at `indices` on to shared memory, past the L1 cache; see `commit_copies`."""
    _emit("cp.async.cg.shared.global", address, array.ptr_to(list(indices)), 16)


def copy_async_or_zeros(address: Expr, array: Buffer, *indices: Expr, exists: Expr) -> None:
    """`copy_async`, or 16 bytes of zeros where not `exists`; the indices have to be of the array either way."""
    size = tirx.Select(exists, u32(16), u32(0))
    _emit("cp.async.cg.shared.global", address, array.ptr_to(list(indices)), 16, size)


def commit_copies() -> None:
    """Makes one group of all copies that this thread has begun since the last one."""
    _emit("cp.async.commit_group")


def wait_copies(pending: int) -> None:
    """Waits until at most `pending` of this thread's newest groups are on their way."""
    _emit("cp.async.wait_group", pending)


def sync_warp() -> None:
    T.evaluate(T.cuda.warp_sync())


def sync_block() -> None:
    T.evaluate(T.cuda.cta_sync())


def mma(sums: Sequence[Expr], a: Sequence[Expr], b: Sequence[Expr]) -> None:
    """sums[4] += A·B, float32; A 16 × 16 in four registers and B 16 × 8 in two, pairs of float16."""
    _emit("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", *sums, *a, *b, *sums)


def mma_int8(sums: Sequence[Expr], a: Sequence[Expr], b: Sequence[Expr]) -> None:
    """sums[4] += A·B, the bits of int32; A 16 × 32 in four registers and B 32 × 8 in two, four int8 each. With two
    and one register 16 × 16 and 16 × 8."""
    _emit(f"mma.sync.aligned.m16n8k{16 * len(b)}.row.col.s32.s8.s8.s32", *sums, *a, *b, *sums)


def group_mma(sums: Sequence[Expr], a: Expr | Sequence[Expr], b: Expr, *, add: bool, transposed: bool = False) -> None:
    """sums = A·B, plus sums if `add`, of a warpgroup on sm_90a: A 64 × 16 and B 16 × 2·len(sums), float16. A is four
    registers of each lane or a descriptor, B a descriptor (`cuda_cores`), `transposed` if its rows run along N.

    Between `fence_group` and `wait_group` nothing else may touch these registers.
    """
    form = f"wgmma.mma_async.sync.aligned.m64n{2 * len(sums)}k16.f32.f16.f16"
    if isinstance(a, Expr):
        _emit(form, *sums, a, b, tirx.const(add, "bool"), 1, 1, 0, int(transposed))
    else:
        _emit(form, *sums, *a, b, tirx.const(add, "bool"), 1, 1, int(transposed))


def fence_group() -> None:
    """Before the first of some `group_mma`: what wrote their registers is over."""
    _emit("wgmma.fence.sync.aligned")


def wait_group() -> None:
    """Waits for every `group_mma` before."""
    _emit("wgmma.commit_group.sync.aligned")
    _emit("wgmma.wait_group.sync.aligned", 0)


def pin(held: Sequence[Expr]) -> None:
    """Keeps the compiler from moving what uses these registers over `fence_group` and `wait_group`: to it they may
    have changed here. It costs no instruction."""
    for register in held:
        kind = "f32" if str(register.ty.dtype) == "float32" else "u32"
        _emit(f"mov.{kind}", register, register)


def fence_async() -> None:
    """Shared memory that this thread has written may be read by `group_mma`, behind a barrier."""
    _emit("fence.proxy.async.shared::cta")


def transpose(into: Expr, x: Expr) -> None:
    """An 8 × 8 matrix of float16, a row in the lanes 4·row … 4·row + 3, transposed."""
    _emit("movmatrix.sync.aligned.m8n8.trans.b16", into, x)


def load_matrices(into: Sequence[Expr], address: Expr, *, transposed: bool = False) -> None:
    """Four 8 × 8 matrices of float16 from shared memory; lane l has the address of row l % 8 of matrix l // 8."""
    _emit(f"ldmatrix.sync.aligned.m8n8.x4{'.trans' if transposed else ''}.shared.b16", *into, address)


def permute(into: Expr, low: Expr, high: Expr, selector: Expr) -> None:
    """Bytes of the eight of (low, high), by the four lowest nibbles of the selector."""
    _emit("prmt.b32", into, low, high, selector)


def from_lane(into: Expr, x: Expr, mask: int) -> None:
    """The float32 x of the lane whose number differs by `mask`."""
    _emit("shfl_sync.bfly.b32", into, x, u32(mask), u32(0x1F), u32(ALL_LANES))


def exp2(into: Expr, x: Expr) -> None:
    """2^x to 2 ulp; 0 for −inf, NaN for NaN."""
    _emit("ex2.approx.ftz.f32", into, x)


def pack_halves(into: Expr, low: Expr, high: Expr) -> None:
    """Two float32 as float16, rounded to nearest even."""
    _emit("cvt.rn.f16x2.f32", into, high, low)


def multiply_halves(into: Expr, x: Expr, factor: float) -> None:
    """Two float16 times a number."""
    bits = int(np.float16(factor).view(np.uint16))
    _emit("mul.rn.f16x2", into, x, u32(bits * 0x10001))


def multiply_pairs(into: Expr, x: Expr, y: Expr) -> None:
    """Two float16 times two."""
    _emit("mul.rn.f16x2", into, x, y)


def half_of(word: Expr, upper: bool) -> Expr:
    """The float16 in a half of a word, as float32."""
    bits = word >> u32(16) if upper else word & u32(0xFFFF)
    return tirx.Cast("float32", tirx.reinterpret("float16", tirx.Cast("uint16", bits)))
