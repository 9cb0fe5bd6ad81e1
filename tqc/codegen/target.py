"""What `--target` and `--arch` mean: each pair of kind and architecture is one build of the model."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass

import tvm

from tqc.cpu_levels import REQUIRED_FLAGS, best_level, machine_flags
from tqc.errors import TargetError

CPU_ISA = {"x86-64-v2": "portable", "x86-64-v3": "avx2", "x86-64-v4": "avx512"}
"""CPU level → the instruction set that the CPU kernels are written for."""

CUDA_ARCHS = (
    *("sm_80", "sm_86", "sm_87", "sm_88", "sm_89", "sm_90", "sm_90a"),
    *("sm_100", "sm_100a", "sm_103", "sm_103a", "sm_110", "sm_110a"),
    *("sm_120", "sm_120a", "sm_121", "sm_121a"),
)
DEFAULT_CUDA_ARCHS = ("sm_80", "sm_90a")
"""The newest is that of one compute capability alone, 9.0: there is no other of its generation, and it has `wgmma`."""

CUDA_HOST_LEVEL = "x86-64-v2"
"""CPU level of the code that launches CUDA kernels: it does no arithmetic, so it asks for as little as possible."""

_KINDS = ("cpu", "cuda")


@dataclass(frozen=True)
class Target:
    """One machine to build for. kind: `cpu` or `cuda`; arch: a level of `CPU_ISA` or one of `CUDA_ARCHS`."""

    kind: str
    arch: str

    @property
    def cpu_level(self) -> str:
        """The x86-64 level that the host code of this build needs."""
        return self.arch if self.kind == "cpu" else CUDA_HOST_LEVEL

    @property
    def isa(self) -> str:
        """The instruction set for the CPU kernels: `portable`, `avx2` or `avx512`."""
        return CPU_ISA[self.cpu_level]

    @property
    def host(self) -> dict[str, str]:
        """TVM's description of the host code; LLVM takes the names of the levels as CPU names."""
        return {"kind": "llvm", "mcpu": self.cpu_level}

    def tvm_target(self) -> tvm.target.Target:
        """The target for TVM's passes and code generators, always with its architecture spelled out.

        Without one TVM asks the machine's GPU, and falls back to sm_50 where there is none.
        """
        if self.kind == "cpu":
            return tvm.target.Target(self.host)
        device = {"kind": "cuda", "arch": self.arch, "max_threads_per_block": 1024}
        return tvm.target.Target(device | {"max_shared_memory_per_block": 49152, "thread_warp_size": 32}, self.host)

    def __str__(self) -> str:
        return f"{self.kind}:{self.arch}"


def native_level() -> str:
    """The highest x86-64 level of this machine. Raises TargetError where it has none."""
    level = best_level(machine_flags())
    if level is None:
        raise TargetError(
            "this machine's CPU has no level that can be compiled for",
            where="--arch native",
            expected=f"at least {next(iter(REQUIRED_FLAGS))}",
            hint="name the level of the machine that will run the model with --arch",
        )
    return level


def cuda_arch(major: int, minor: int) -> str:
    """The architecture to compile for, for one GPU of that compute capability."""
    return "sm_90a" if (major, minor) == (9, 0) else f"sm_{major}{minor}"


def parse_targets(target: str, arch: str | None = None) -> tuple[Target, ...]:
    """The builds that `--target` and `--arch` ask for, in the order given and each once.

    `target` is `cpu`, `cuda` or a TVM target: a kind (`llvm`), a tag (`nvidia/nvidia-a100`) or JSON with the keys
    `kind`, `tag`, `arch` and `mcpu`. `arch` is a comma-separated list; by default the CPU's own level and
    sm_80,sm_90a. Raises TargetError on anything else, with the nearest name that exists.
    """
    kind, named = _kind_and_arch(target.strip())
    if named and arch:
        raise TargetError("the architecture is given twice", where="--arch", expected=f"only {named}", found=arch)
    if arch is not None and not arch.replace(",", "").strip():
        raise TargetError("no architecture is named", where="--arch", expected="a comma-separated list", found=arch)
    default = ",".join(DEFAULT_CUDA_ARCHS) if kind == "cuda" else "native"
    names = [name.strip() for name in (arch or named or default).split(",") if name.strip()]
    return tuple(dict.fromkeys(Target(kind, _check_arch(kind, name)) for name in names))


def _check_arch(kind: str, name: str) -> str:
    if kind == "cpu" and name == "native":
        return native_level()
    known = tuple(CPU_ISA) if kind == "cpu" else CUDA_ARCHS
    if name not in known:
        raise TargetError(
            f"unknown {kind} architecture '{name}'",
            where="--arch",
            expected=", ".join((*known, "native") if kind == "cpu" else known),
            found=name,
            hint=_did_you_mean(name, known),
        )
    return name


def _kind_and_arch(text: str) -> tuple[str, str | None]:
    if text in _KINDS:
        return text, None
    if text.startswith("{"):
        return _from_fields(_parse_json(text), text)
    if "/" in text:
        return _from_fields({"tag": text}, text)
    return _from_fields({"kind": text}, text)


def _parse_json(text: str) -> dict:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise TargetError("the target is not valid JSON", where="--target", found=f"{text} ({error})") from error


def _from_fields(fields: dict, text: str) -> tuple[str, str | None]:
    unknown = sorted(set(fields) - {"kind", "tag", "arch", "mcpu"})
    if unknown:
        raise TargetError(
            f"target option '{unknown[0]}' would be ignored",
            where="--target",
            expected="kind, tag, arch, mcpu",
            found=text,
        )
    if not all(isinstance(value, str) for value in fields.values() if value is not None):
        raise TargetError("a target option is not a text", where="--target", found=text)
    if "tag" in fields:
        target = _known_tag(fields["tag"])
        return _from_fields({"kind": target.kind.name, "arch": target.attrs.get("arch")}, text)
    kind = fields.get("kind", "")
    if kind not in ("llvm", *_KINDS):
        raise TargetError(
            f"there are no kernels for the target '{kind}'",
            where="--target",
            expected="cpu, cuda, or a TVM target of kind llvm or cuda",
            found=text,
            hint=_did_you_mean(kind, ("llvm", *_KINDS)),
        )
    key = "arch" if kind == "cuda" else "mcpu"
    return ("cuda" if kind == "cuda" else "cpu"), fields.get(key)


def _known_tag(tag: str) -> tvm.target.Target:
    try:
        return tvm.target.Target(tag)
    except Exception as error:
        raise TargetError(f"TVM knows no target tag '{tag}'", where="--target", found=tag) from error


def _did_you_mean(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else ""
