"""What the CPU kernels decide before they are built: the vector ISA, register tiles and the split of the context."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from tvm.target import Target
from tvm.target.codegen import llvm_get_cpu_features

from tqc.errors import TargetError

_LANES = {"avx512": 16, "avx2": 8, "portable": 4}
_ACCUMULATORS = {"avx512": 20, "avx2": 8, "portable": 8}
_TILE_ROWS = {"avx512": 6, "avx2": 6, "portable": 4}
_TILE_VECTORS = {"avx512": 4, "avx2": 2, "portable": 2}
_REGISTERS = {"avx512": 32, "avx2": 16, "portable": 16}
_NEEDS = {"avx512": {"avx512f", "avx512bw", "f16c"}, "avx2": {"avx2", "fma", "f16c"}}


@dataclass(frozen=True)
class CpuConfig:
    """Decisions of one CPU kernel.

    `isa` is avx512, avx2 or portable (4 lanes, no table-lookup instructions). Decode: `splits` tasks share the context
    of one KV head, `accumulators` vector registers hold sums. Prefill: a register tile has `tile_rows` query rows and
    `tile_vectors` vectors, a task `prefill_rows` query rows (queries × group).
    Raises TargetError on a value outside its range.
    """

    isa: str = "avx512"
    splits: int = 4
    accumulators: int = 20
    tile_rows: int = 6
    tile_vectors: int = 4
    prefill_rows: int = 192

    def __post_init__(self) -> None:
        if self.isa not in _LANES:
            raise TargetError("unknown CPU kernel variant", expected=", ".join(_LANES), found=self.isa)
        for name, low, high in (
            ("splits", 1, 256),
            ("accumulators", 1, 32),
            ("tile_rows", 1, 16),
            ("tile_vectors", 1, 8),
            ("prefill_rows", 1, 4096),
        ):
            if not low <= getattr(self, name) <= high:
                raise TargetError(
                    f"CPU kernel option {name} is out of range",
                    expected=f"{low} to {high}",
                    found=str(getattr(self, name)),
                )

    @property
    def lanes(self) -> int:
        """float32 values in one vector register."""
        return _LANES[self.isa]


def cpu_config(isa: str, **options: int) -> CpuConfig:
    """The default decisions of the variant `isa`, with `options` in place of single ones."""
    if isa not in _LANES:
        raise TargetError("unknown CPU kernel variant", expected=", ".join(_LANES), found=isa)
    defaults = {"accumulators": _ACCUMULATORS, "tile_rows": _TILE_ROWS, "tile_vectors": _TILE_VECTORS}
    return CpuConfig(**{"isa": isa} | {name: values[isa] for name, values in defaults.items()} | options)


_SPACES = {
    "decode": {"splits": (4, 1, 2, 8, 16, 32), "accumulators": (20, 8, 12, 16, 24)},
    "prefill": {"tile_rows": (6, 4, 8), "tile_vectors": (4, 2, 3), "prefill_rows": (192, 96, 384)},
    "append": {},
}


def cpu_space(schedule: str, isa: str) -> Iterator[CpuConfig]:
    """Decisions of `append`, `decode` or `prefill` that are worth measuring, the default first: sums and tiles that
    the registers hold. Raises TargetError as `CpuConfig`."""
    default = cpu_config(isa)
    yield default
    for values in product(*_SPACES[schedule].values()):
        config = cpu_config(isa, **dict(zip(_SPACES[schedule], values, strict=True)))
        # A tile's sums, a vector of weights for each of its vectors, and a broadcast.
        used = (config.tile_rows + 1) * config.tile_vectors + 1
        if config != default and max(used, config.accumulators + 2) <= _REGISTERS[isa]:
            yield config


def config_for(target: Target, **options: int) -> CpuConfig:
    """The default decisions for an LLVM `target`: the widest variant that its mcpu and mattr allow."""
    if target.kind.name != "llvm":
        raise TargetError("the CPU kernels need an LLVM target", expected="llvm", found=target.kind.name)
    features = {str(feature) for feature in llvm_get_cpu_features(target)}
    isa = next((name for name, needs in _NEEDS.items() if needs <= features), "portable")
    return cpu_config(isa, **options)
