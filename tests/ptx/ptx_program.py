"""A PTX file as data: arrays, kernels, instructions."""

from __future__ import annotations

from dataclasses import dataclass, field

from ptx_error import PtxError
from ptx_operands import Operand


@dataclass(frozen=True)
class Array:
    """A variable of a state space. size: bytes, 0 for dynamic shared memory; data: initial bytes or None."""

    name: str
    space: str
    size: int
    align: int
    data: bytes | None = None


@dataclass(frozen=True)
class Param:
    """A kernel parameter at `offset` bytes of the parameter space."""

    name: str
    kind: str
    size: int
    offset: int


@dataclass(eq=False)
class Instruction:
    """One instruction. name: its first part, such as `ld`; parts: the others; guard: predicate and whether negated."""

    index: int
    line: int
    text: str
    name: str
    parts: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: tuple[str, bool] | None = None

    def unknown(self, why: str = "the interpreter does not know this instruction") -> PtxError:
        return PtxError(f"{why}: `{self.text}` (line {self.line})")


@dataclass(eq=False)
class Entry:
    """A kernel. labels: index of the instruction they stand before; tables: targets of `brx.idx`."""

    name: str
    params: list[Param]
    registers: dict[str, str] = field(default_factory=dict)
    families: dict[str, tuple[str, int]] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    tables: dict[str, tuple[str, ...]] = field(default_factory=dict)
    required_threads: int | None = None
    most_threads: int | None = None

    def register_kind(self, name: str) -> str | None:
        """The declared type of a register, None if there is no such register."""
        if name in self.registers:
            return self.registers[name]
        prefix = name.rstrip("0123456789")
        kind, count = self.families.get(prefix, ("", 0))
        return kind if name != prefix and int(name[len(prefix) :]) < count else None


@dataclass(eq=False)
class Module:
    """A PTX file."""

    target: str
    entries: dict[str, Entry]
    arrays: dict[str, Array]
