"""The operands of instructions."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ptx_program import Instruction


@dataclass(frozen=True)
class Reg:
    """A register, or a special one such as %tid.x."""

    name: str


@dataclass(frozen=True)
class Imm:
    """A constant. bits: 0 for an integer, else the width of the float whose bits `value` holds."""

    value: int
    bits: int = 0


@dataclass(frozen=True)
class Sym:
    """A name that is no register: a variable, a parameter or a label."""

    name: str


@dataclass(frozen=True)
class Mem:
    """[base + offset]; base None: an absolute address."""

    base: Reg | Sym | None
    offset: int


@dataclass(frozen=True)
class Vec:
    """{a, b, …}."""

    items: tuple[Operand, ...]


@dataclass(frozen=True)
class Both:
    """a|b: two destinations."""

    first: Operand
    second: Operand


@dataclass(frozen=True)
class Not:
    """!p."""

    of: Reg


@dataclass(frozen=True)
class Sink:
    """_: a destination that nobody reads, or an element of a vector that is left out."""


Operand = Reg | Imm | Sym | Mem | Vec | Both | Not | Sink

_SPECIAL = re.compile(
    r"%(n?tid|n?ctaid|laneid|n?warpid|lanemask_\w\w|n?smid|gridid|clock\w*|globaltimer\w*|dynamic_smem_size"
    r"|total_smem_size|aggr_smem_size|n?clusterid|cluster_\w+|is_explicit_cluster|envreg\d+)(\.[xyzw])?$"
)


def is_special(name: str) -> bool:
    return bool(_SPECIAL.match(name))


@dataclass(frozen=True)
class Names:
    """What names mean where an instruction stands. resolve: its unique form; is_register: of a unique name."""

    resolve: Callable[[str], str]
    is_register: Callable[[str], bool]


def parse_operands(text: str, instruction: Instruction, names: Names) -> tuple[Operand, ...]:
    return tuple(_operand(part, instruction, names) for part in _split(text))


def _split(text: str) -> list[str]:
    """At the commas outside of brackets."""
    parts, depth, start = [], 0, 0
    for at, sign in enumerate(text):
        if sign in "{[(":
            depth += 1
        elif sign in "}])":
            depth -= 1
        elif sign == "," and depth == 0:
            parts.append(text[start:at].strip())
            start = at + 1
    last = text[start:].strip()
    return [*parts, last] if last or parts else []


def _operand(text: str, instruction: Instruction, names: Names) -> Operand:
    def inner(part: str) -> Operand:
        return _operand(part, instruction, names)

    if text.startswith("{") and text.endswith("}"):
        return Vec(tuple(inner(part) for part in _split(text[1:-1])))
    if text.startswith("[") and text.endswith("]"):
        return _memory(text[1:-1].strip(), instruction, inner)
    if "|" in text:
        first, second = (inner(part.strip()) for part in text.split("|"))
        return Both(first, second)
    if text.startswith("!"):
        return Not(inner(text[1:].strip()))
    if text == "_":
        return Sink()
    if (number := literal(text)) is not None:
        return number
    if not re.match(r"[\w$%.]+$", text):
        raise instruction.unknown(f"the interpreter does not know the operand {text}")
    name = names.resolve(text)
    if names.is_register(name) or is_special(name):
        return Reg(name)
    if name.startswith("%"):
        raise instruction.unknown(f"the register {text} is not declared")
    return Sym(name)


def _memory(text: str, instruction: Instruction, inner: Callable[[str], Operand]) -> Mem:
    match = re.match(r"(?P<base>[\w$%@.]+?)\s*(?:(?P<sign>[+-])\s*(?P<offset>-?\w+))?$", text)
    if not match:
        raise instruction.unknown(f"the interpreter does not know the address [{text}]")
    base = inner(match["base"])
    offset = literal(match["offset"] or "0")
    if not isinstance(offset, Imm):
        raise instruction.unknown(f"the interpreter does not know the address [{text}]")
    step = -int(offset.value) if match["sign"] == "-" else int(offset.value)
    return Mem(None, int(base.value) + step) if isinstance(base, Imm) else Mem(base, step)


def literal(text: str) -> Imm | None:
    """The number that `text` is, None if it is none."""
    if match := re.match(r"(-?)0[fF]([0-9a-fA-F]{8})$", text):
        return Imm(int(match.group(2), 16) ^ (0x80000000 if match.group(1) else 0), 32)
    if match := re.match(r"(-?)0[dD]([0-9a-fA-F]{16})$", text):
        return Imm(int(match.group(2), 16) ^ (1 << 63 if match.group(1) else 0), 64)
    if re.match(r"-?(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)U?$", text):
        digits = text.rstrip("U")
        return Imm(int(digits, 8 if re.match(r"-?0[0-7]+$", digits) else 0))
    if re.match(r"-?\d+\.\d*([eE][+-]?\d+)?$", text):
        return Imm(struct.unpack("<Q", struct.pack("<d", float(text)))[0], 64)
    return None
