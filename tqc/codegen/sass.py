"""Reading machine code as nvdisasm prints it: the instructions of each kernel, its loops, what they are made of."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tqc.codegen.cuda_toolchain import find_nvdisasm
from tqc.errors import TargetError

_SECTION = re.compile(r"\s*\.section\s+\.text\.([^,\s]+),")
_LABEL = re.compile(r"(\.L_x_\w+|\.L_\d+):\s*$")
_INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]+\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;]*)")
_TARGET = re.compile(r"`\((\.L\w+)\)")

CLASSES = {
    "tensor": ("HMMA", "IMMA", "DMMA", "BMMA", "QMMA", "OMMA", "HGMMA"),
    "fma": ("FFMA", "FMUL", "FADD", "FFMA2", "FMUL2", "FADD2", "HFMA2", "HMUL2", "HADD2", "IMAD", "IDP"),
    "alu": (
        *("LOP3", "PLOP3", "SHF", "PRMT", "IADD", "IADD3", "VIADD", "LEA", "ISETP", "IABS", "SEL", "SGXT", "BMSK"),
        *("IMNMX", "VIMNMX", "VIMNMX3", "FMNMX", "FMNMX3", "FSEL", "FSETP", "FCHK", "HMNMX2", "HSETP2", "F2FP"),
        *("POPC", "FLO", "BREV", "MOV", "P2R", "R2P", "CS2R", "VOTE", "VIADDMNMX"),
    ),
    "special": ("MUFU", "F2F", "F2I", "I2F", "I2FP", "F2IP", "FRND", "I2I", "S2R", "S2UR", "R2UR"),
    "shared": ("LDS", "STS", "LDSM", "STSM", "ATOMS", "SHFL", "MOVM", "MATCH", "REDUX"),
    "memory": (
        *("LDGSTS", "LDG", "STG", "LD", "ST", "LDL", "STL", "LDC", "LDCU", "ATOMG", "ATOM", "RED"),
        *("LDGDEPBAR", "DEPBAR", "UBLKCP"),
    ),
    "control": (
        *("BRA", "BSSY", "BSYNC", "BREAK", "CALL", "RET", "EXIT", "WARPSYNC", "ENDCOLLECTIVE", "BAR", "NOP", "YIELD"),
        *("MEMBAR", "NANOSLEEP"),
    ),
}
"""Which unit executes an instruction, by its name before the first point; names that begin with U are `uniform`."""

MOVES = ("MOV", "IMAD.MOV", "IMAD.MOV.U32", "IMAD.U32")
"""Instructions that only copy a register; IMAD.U32 of a uniform one."""

_CLASS_OF = {name: kind for kind, names in CLASSES.items() for name in names}


@dataclass(frozen=True)
class Instruction:
    """`full`: with its options, such as HMMA.16816.F32; `target`: the label that a branch goes to, empty for others;
    `conditional`: whether only some threads may execute it."""

    full: str
    target: str = ""
    conditional: bool = False

    @property
    def name(self) -> str:
        """Without its options, such as HMMA."""
        return self.full.split(".")[0]


@dataclass(frozen=True)
class Kernel:
    """Instructions in order; `labels`: the index of the instruction behind each label."""

    name: str
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]


def disassemble(cubin: bytes) -> dict[str, Kernel]:
    """The kernels of a cubin by name. Raises TargetError if nvdisasm is missing or cannot read it."""
    tool = find_nvdisasm()
    with tempfile.TemporaryDirectory(prefix="tqc-sass-") as folder:
        path = Path(folder, "kernels.cubin")
        path.write_bytes(cubin)
        done = subprocess.run([str(tool), "-c", str(path)], capture_output=True, text=True)
    if done.returncode:
        raise TargetError("nvdisasm cannot read the machine code", where=str(tool), found=done.stderr.strip())
    return parse_sass(done.stdout)


def parse_sass(text: str) -> dict[str, Kernel]:
    """The kernels of what `nvdisasm -c` prints."""
    kernels: dict[str, Kernel] = {}
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    name = ""

    def close() -> None:
        if name:
            kernels[name] = Kernel(name, tuple(instructions), dict(labels))

    for line in text.splitlines():
        if section := _SECTION.match(line):
            close()
            name = section[1]
            instructions, labels = [], {}
        elif label := _LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif found := _INSTRUCTION.match(line):
            instructions.append(_instruction(found[1] is not None, found[2], found[3]))
    close()
    return kernels


def kind_of(name: str) -> str:
    """The class of an instruction: one of CLASSES, `uniform` or `other`."""
    return _CLASS_OF.get(name) or ("uniform" if name.startswith("U") else "other")


def by_class(instructions: Iterable[Instruction]) -> dict[str, int]:
    """How many instructions of each class there are; classes without any are left out."""
    return dict(sorted(Counter(kind_of(instruction.name) for instruction in instructions).items()))


def count(instructions: Iterable[Instruction], *names: str) -> int:
    """How many instructions have one of these names, options left out."""
    return sum(instruction.name in names for instruction in instructions)


def moves(instructions: Iterable[Instruction]) -> int:
    """How many instructions only copy a register."""
    return sum(instruction.full in MOVES for instruction in instructions)


def _instruction(predicated: bool, full: str, operands: str) -> Instruction:
    """A branch may also be conditional by an operand before its target, or by where threads of a warp diverged."""
    target = _TARGET.search(operands)
    if target is None or full.split(".")[0] != "BRA":
        return Instruction(full, conditional=predicated)
    return Instruction(full, target[1], predicated or bool(operands[: target.start()].strip()))
