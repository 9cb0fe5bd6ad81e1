"""What one GPU of each architecture can do at most, and which of it bounds a loop: an estimate, no measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tqc.gpu_limits import SCHEDULERS

ALU_CYCLES = 2
"""Clocks for which an instruction of class `alu` (logic, shifts, byte permutation, comparison, integer addition) holds
its unit: 64 results a clock and multiprocessor are 16 lanes a scheduler, for 32 threads. CUDA C++ Programming Guide,
"Throughput of Native Arithmetic Instructions", compute capability 8.0 to 9.0; taken for 10.0 and 12.0 too, whose
units for additions may be wider."""


@dataclass(frozen=True)
class Gpu:
    """`clock`: boost, in Hz. `bandwidth`: of the DRAM, in bytes a second. `source`: where the numbers are from."""

    name: str
    multiprocessors: int
    clock: float
    bandwidth: float
    source: str

    @property
    def issue(self) -> float:
        """Instructions of whole warps a second: one a clock of each scheduler."""
        return self.multiprocessors * SCHEDULERS * self.clock


GPUS = {
    "sm_80": Gpu("A100 SXM 80 GB", 108, 1.41e9, 2.039e12, "NVIDIA A100 whitepaper and datasheet"),
    "sm_86": Gpu("GeForce RTX 3090", 82, 1.695e9, 0.936e12, "NVIDIA Ampere GA102 whitepaper"),
    "sm_89": Gpu("GeForce RTX 4090", 128, 2.52e9, 1.008e12, "NVIDIA Ada whitepaper"),
    "sm_90a": Gpu("H100 SXM", 132, 1.83e9, 3.35e12, "NVIDIA H100 whitepaper, clock of tensor core operations"),
    "sm_100": Gpu(
        *("B200", 148, 1.86e9, 7.7e12),
        "NVIDIA HGX B200 datasheet; clock from its 2.25 PFLOPS of dense float16 at 8192 a clock and multiprocessor",
    ),
    "sm_120": Gpu("GeForce RTX 5090", 170, 2.407e9, 1.792e12, "NVIDIA RTX Blackwell whitepaper"),
}


@dataclass(frozen=True)
class Roofline:
    """Picoseconds a token of one KV head, if nothing else took time: `memory` to read it from DRAM, `issue` to issue
    the loop's instructions, `alu` for those of the integer unit alone."""

    memory: float
    issue: float
    alu: float

    @property
    def bound(self) -> str:
        """What takes longest."""
        return max(("memory", "issue", "alu"), key=lambda name: getattr(self, name))

    @property
    def share(self) -> float:
        """Of the DRAM's bandwidth that is left: 1 where memory is the bound."""
        return self.memory / max(self.memory, self.issue, self.alu)


def roofline(gpu: Gpu, *, instructions: Mapping[str, int], tokens: int, bytes_per_token: float) -> Roofline:
    """Of a loop whose turn has `instructions` of a warp by class for `tokens` tokens of one KV head, which lie in
    `bytes_per_token` bytes each. Every scheduler is taken to have an instruction ready in every clock."""
    pico = 1e12
    return Roofline(
        memory=pico * bytes_per_token / gpu.bandwidth,
        issue=pico * sum(instructions.values()) / tokens / gpu.issue,
        alu=pico * ALU_CYCLES * instructions.get("alu", 0) / tokens / gpu.issue,
    )
