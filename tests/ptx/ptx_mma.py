"""mma.sync: D = A·B + C with A [16, k], B [k, 8], spread over a warp as the PTX ISA says.

With g = lane / 4, t = lane % 4 and e numbers in a 32-bit register, number i of register r is
A[g + 8·(r % 2), t·e + i + 4e·(r / 2)], or B[t·e + i + 4e·r, g]; C and D have (g + 8·(r / 2), 2t + r % 2) in float32 or
int32 register r, and two of these in one register as float16.

Products and sums of 4e numbers along k, 16 bytes of them, are exact (in float64); they are added to the accumulator,
and that is rounded to float32, for one group after the other. A GPU adds the same groups but drops low bits
before it adds, so that results differ by a few units in the last place of the largest term. float16 results are rounded
at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
from ptx_decode import Step, count_operands, handles
from ptx_half import from_float, to_float
from ptx_lanes import WARP, Active
from ptx_operands import Operand, Vec
from ptx_program import Instruction

if TYPE_CHECKING:
    from ptx_machine import Machine

Reader = Callable[[np.ndarray], np.ndarray]


def _bytes_as(dtype: type) -> Reader:
    return lambda words: words.view(np.uint8).view(dtype).astype(np.float64)


_READERS: dict[str, tuple[int, Reader]] = {
    "f16": (2, lambda words: to_float(words.view(np.uint16), "f16").astype(np.float64)),
    "bf16": (2, lambda words: to_float(words.view(np.uint16), "bf16").astype(np.float64)),
    "tf32": (1, lambda words: (words & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)),
    "e4m3": (4, _bytes_as(ml_dtypes.float8_e4m3fn)),
    "e5m2": (4, _bytes_as(ml_dtypes.float8_e5m2)),
    "s8": (4, _bytes_as(np.int8)),
    "u8": (4, _bytes_as(np.uint8)),
}
"""Numbers in a 32-bit word, and how to read them as float64."""
_FAMILIES = [{"f16"}, {"bf16"}, {"tf32"}, {"e4m3", "e5m2"}, {"s8", "u8"}]


def matrix_a(registers: np.ndarray, kind: str) -> np.ndarray:
    """uint32 [registers, warps, 32] → float64 [warps, 16, k]."""
    each, read = _READERS[kind]
    count, warps, _ = registers.shape
    numbers = read(np.ascontiguousarray(registers)).reshape(count // 2, 2, warps, 8, 4, each)
    return np.ascontiguousarray(numbers.transpose(2, 1, 3, 0, 4, 5)).reshape(warps, 16, -1)


def matrix_b(registers: np.ndarray, kind: str) -> np.ndarray:
    """uint32 [registers, warps, 32] → float64 [warps, k, 8]."""
    each, read = _READERS[kind]
    count, warps, _ = registers.shape
    numbers = read(np.ascontiguousarray(registers)).reshape(count, warps, 8, 4, each)
    return np.ascontiguousarray(numbers.transpose(1, 0, 3, 4, 2)).reshape(warps, -1, 8)


def matrix_c(registers: np.ndarray) -> np.ndarray:
    """[4, warps, 32] → [warps, 16, 8]."""
    warps = registers.shape[1]
    return registers.reshape(2, 2, warps, 8, 4).transpose(2, 0, 3, 4, 1).reshape(warps, 16, 8)


def registers_of(matrix: np.ndarray) -> np.ndarray:
    """The inverse of matrix_c."""
    warps = len(matrix)
    return np.ascontiguousarray(matrix.reshape(warps, 2, 8, 4, 2).transpose(1, 4, 0, 2, 3)).reshape(4, warps, WARP)


def multiply(a: np.ndarray, b: np.ndarray, c: np.ndarray, group: int) -> np.ndarray:
    """c + a·b in float32, `group` numbers along k at a time."""
    total = c.astype(np.float32)
    for k in range(0, a.shape[-1], group):
        total = (total + a[..., k : k + group] @ b[:, k : k + group]).astype(np.float32)
    return total


@handles("mma")
def mma(instruction: Instruction, machine: Machine) -> Step:
    parts = list(instruction.parts)
    satfinite = "satfinite" in parts
    if satfinite:
        parts.remove("satfinite")
    if len(parts) != 9 or parts[:2] != ["sync", "aligned"] or parts[3:5] != ["row", "col"]:
        raise instruction.unknown()
    shape, (d_kind, a_kind, b_kind, c_kind) = parts[2], parts[5:]
    if not any({a_kind, b_kind} <= family for family in _FAMILIES):
        raise instruction.unknown()
    each = _READERS[a_kind][0]
    whole = a_kind in ("s8", "u8")
    steps = {f"m16n8k{4 * each}": 1, f"m16n8k{8 * each}": 2}
    results = {"s32"} if whole else {"f32"} if a_kind in ("bf16", "tf32") else {"f32", "f16"}
    if shape not in steps or d_kind not in results or c_kind not in results or (satfinite and not whole):
        raise instruction.unknown()
    count_operands(instruction, 4)
    counts = (_accumulators(d_kind), 2 * steps[shape], steps[shape], _accumulators(c_kind))
    d, a, b, c = (
        _registers(operand, count, kind, instruction, machine)
        for operand, count, kind in zip(instruction.operands, counts, (d_kind, "b32", "b32", c_kind), strict=True)
    )

    def step(active: Active) -> None:
        def stacked(registers: list[np.ndarray]) -> np.ndarray:
            return np.stack([active.take(register) for register in registers]).reshape(len(registers), -1, WARP)

        left, right = matrix_a(stacked(a), a_kind), matrix_b(stacked(b), b_kind)
        before = _read_accumulators(stacked(c), c_kind)
        if whole:
            found = before + np.rint(left @ right).astype(np.int64)
            if satfinite:
                found = np.clip(found, -(2**31), 2**31 - 1)
            after = registers_of(found.astype(np.uint64).astype(np.uint32).view(np.int32))
        else:
            after = _write_accumulators(multiply(left, right, before, 4 * each), d_kind)
        for register, values in zip(d, after, strict=True):
            register[active.index] = values.reshape(-1)

    return step


def _accumulators(kind: str) -> int:
    return 2 if kind == "f16" else 4


def _registers(operand: Operand, count: int, kind: str, instruction: Instruction, machine: Machine) -> list[np.ndarray]:
    if not isinstance(operand, Vec) or len(operand.items) != count:
        raise instruction.unknown(f"{count} registers are expected")
    storage = "b32" if kind == "f16" else kind
    return [machine.read(item, storage, instruction) for item in operand.items]


def _read_accumulators(registers: np.ndarray, kind: str) -> np.ndarray:
    """float32 or int64 [warps, 16, 8]."""
    if kind != "f16":
        return matrix_c(registers).astype(np.int64 if kind == "s32" else np.float32)
    numbers = to_float(np.ascontiguousarray(registers).view(np.uint16), "f16").reshape(*registers.shape, 2)
    return matrix_c(np.ascontiguousarray(numbers.transpose(0, 3, 1, 2)).reshape(4, *registers.shape[1:]))


def _write_accumulators(matrix: np.ndarray, kind: str) -> np.ndarray:
    """The registers [registers, warps, 32]."""
    registers = registers_of(matrix)
    if kind != "f16":
        return registers
    bits = from_float(registers, "f16").reshape(2, 2, *registers.shape[1:]).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(bits).view(np.uint32)[..., 0]
