"""What the compiler says of the CUDA kernels, and what follows from it: no GPU is needed, and no time is measured.

python benchmarks/cuda_static.py --archs sm_80 sm_90a --layouts 32:8:128-tq4 9:3:64-tq4
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tvm
from cuda_peaks import ALU_CYCLES, GPUS, roofline
from report import RESULTS, table, write

from tqc.bench.kernels import generated, layout_of
from tqc.bench.problem import Geometry
from tqc.codec.layout import CacheLayout
from tqc.codegen.cuda_source import block_sizes, cuda_source
from tqc.codegen.cuda_toolchain import compile_device_code, find_nvcc
from tqc.codegen.resources import KernelResources, parse_resources
from tqc.codegen.sass import CLASSES, Kernel, by_class, count, disassemble, moves
from tqc.codegen.sass_loops import page_loop
from tqc.codegen.target import Target
from tqc.compiler.configurations import by_records
from tqc.compiler.schedules import backend
from tqc.schedules.cuda_config import PrefillConfig
from tqc.schedules.cuda_prefill import make_prefill

LAYOUTS = {
    "32:8:128-tq4": ("32:8:128", "tq4"),
    "32:8:128-tq4-s8": ("32:8:128", "tq4-s8"),
    "32:8:128-tq2": ("32:8:128", "tq2"),
    "32:8:128-fp16": ("32:8:128", "fp16"),
    "32:8:128-k4v3": ("32:8:128", "k4v3"),
    "9:3:64-tq4": ("9:3:64", "tq4"),
}
LAUNCHES = {
    "decode_kernel": "decode",
    "decode_kernel_1": "merge",
    "prefill_kernel": "prefill",
    "prefill_groups_kernel": "prefill by warpgroups",
    "append_kernel": "append, a chunk",
    "append_kernel_1": "append, sinks and tail",
    "append_token_kernel": "append, one token",
}
"""What a launch is, by its name in the CUDA source."""
UNITS = (*CLASSES, "uniform", "other")

METHOD = f"""\
The default configuration of every kernel, as `tqc compile` builds it without tuning records: float16 activations,
rotations inside where a model's kernels do them. On sm_90a also the first configuration of prefill that uses `wgmma`.
Registers, spills and shared memory are what ptxas says (bytes a launch adds included), occupancy follows from them by
NVIDIA's rules. The loop is the one of decode that reads coded pages, disassembled by nvdisasm: one turn of it is one
page of 64 tokens of one KV head, for all query heads of a block.

**The roofline is an estimate from instruction counts and data sheets, not a measurement.** It takes every scheduler
to issue an instruction in every clock, at the boost clock; an instruction of class `alu` to hold its unit for
{ALU_CYCLES} clocks; and the DRAM to give its whole bandwidth. Latencies, tensor cores, shared memory, the first and
last tokens and the merge are left out. It can show that instructions would bound a kernel; that they would not is no
proof that the kernel reaches the bandwidth."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archs", nargs="+", choices=GPUS, default=list(GPUS))
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--output", type=Path, default=RESULTS / "cuda_static")
    options = parser.parse_args()
    rows, decodes = [], []
    for name in options.layouts:
        for arch in options.archs:
            print(name, arch, file=sys.stderr)
            found = examine(name, arch)
            rows += found["kernels"]
            decodes.append(found["decode"])
    gpus = {arch: asdict(GPUS[arch]) for arch in options.archs}
    data = {"nvcc": find_nvcc().version, "gpus": gpus, "kernels": rows, "decode": decodes}
    write(options.output, "CUDA kernels as the compiler sees them", METHOD, data, tables(data))


def examine(name: str, arch: str) -> dict[str, Any]:
    """The kernels of a layout for an architecture, and decode's loop."""
    heads, kv = LAYOUTS[name]
    target = Target("cuda", arch)
    layout = layout_of(kv, Geometry.parse(heads), target)
    kernels, shared = kernels_of(layout, target)
    source = cuda_source(kernels, target)
    made = compile_device_code(source, arch, form="cubin", verbose=True)
    used, threads = parse_resources(made.said), block_sizes(source)
    about = {"layout": name, "arch": arch}
    return {
        "kernels": [
            about | resources(used[launch], threads[launch], shared.get(launch, 0)) | {"kernel": LAUNCHES[launch]}
            for launch in sorted(used, key=list(LAUNCHES).index)
        ],
        "decode": about | decode_loop(disassemble(made.code)["decode_kernel"], layout, arch),
    }


def kernels_of(layout: CacheLayout, target: Target) -> tuple[dict[str, tvm.tirx.PrimFunc], dict[str, int]]:
    """All kernels of a cache by name, and the shared memory that their launches add."""
    configure = by_records(target, ())
    schedules = backend(target, {}, configure).schedules
    functions = generated(layout, target, configure).functions
    options: dict[str, Any] = {"softmax_scale": layout.head_dim**-0.5, "softcap": 0.0, "window": 0}
    made = {
        "decode": functions["decode"],
        "append_token": functions["append"],
        "append": schedules.append(layout, dtype="float16"),
        "prefill": schedules.prefill(layout, dtype="float16", **options),
    }
    shared = {f"{name}_kernel": configure(name, layout).config.shared_bytes(layout) for name in ("decode", "prefill")}
    groups = next((config for config in PrefillConfig.space(layout, target.arch) if config.wgmma), None)
    if groups is not None:
        made["prefill_groups"] = make_prefill(layout, config=groups, arch=target.arch, dtype="float16", **options)
        shared["prefill_groups_kernel"] = groups.shared_bytes(layout)
    return made, shared


def resources(used: KernelResources, threads: int, dynamic: int) -> dict[str, Any]:
    """What a launch takes of a multiprocessor."""
    held = used.occupancy(threads, dynamic)
    return {
        "registers": used.registers,
        "spill_bytes": used.spill_stores + used.spill_loads,
        "stack_bytes": used.stack,
        "shared_bytes": used.shared + dynamic,
        "threads": threads,
        "blocks": held.blocks,
        "warps": held.warps,
        "occupancy": round(held.share, 4),
        "limit": held.limit,
    }


def decode_loop(kernel: Kernel, layout: CacheLayout, arch: str) -> dict[str, Any]:
    """The loop over coded pages: its instructions, also for each number it reads, its bytes, and the estimate."""
    loop = page_loop(kernel).body
    counts = by_class(loop)
    numbers = 2 * layout.page * layout.head_dim
    bytes_per_token = sum(layout.form(side).bytes_per_vector for side in "kv")
    estimate = roofline(GPUS[arch], instructions=counts, tokens=layout.page, bytes_per_token=bytes_per_token)
    return {
        "kv_heads": layout.kv_heads,
        "instructions": counts,
        "moves": moves(loop),
        "spills": count(loop, "LDL", "STL"),
        "page_instructions": len(loop),
        # Of a thread: a warp's instruction is one of each of its 32 threads.
        "instructions_per_value": {kind: round(32 * each / numbers, 4) for kind, each in counts.items()},
        "all_per_value": round(32 * len(loop) / numbers, 4),
        "bytes_per_token": bytes_per_token,
        "picoseconds": {kind: round(value, 2) for kind, value in asdict(estimate).items()},
        "bound": estimate.bound,
        "bandwidth_share": round(estimate.share, 4),
    }


def tables(data: dict[str, Any]) -> str:
    """The report's tables, and a sentence on spills."""
    spilling = [row for row in data["kernels"] if row["spill_bytes"] or row["stack_bytes"]]
    said = [f"{row['kernel']} of {row['layout']} on {row['arch']}, {row['spill_bytes']} B" for row in spilling]
    inside = [row for row in data["decode"] if row["spills"]]
    where = "also in decode's loop" if inside else "none of it in decode's loop"
    none = "No kernel spills registers or has a stack"
    spills = f"Registers are spilled by {'; '.join(said)}; {where}" if said else none
    nvcc = f"{len(data['kernels'])} kernels, compiled by nvcc {data['nvcc']}. {spills}."
    return "\n".join(
        (
            f"{nvcc}\n\n## Resources\n",
            _resource_table(data["kernels"]),
            "## Decode's loop: instructions of a thread for each K or V number\n",
            _loop_table(data["decode"]),
            "## Roofline, estimated: picoseconds for a token of one KV head\n",
            _roofline_table(data["decode"]),
            "## The GPUs it is estimated for\n",
            _gpu_table(data["gpus"]),
        )
    )


def _resource_table(rows: Sequence[dict[str, Any]]) -> str:
    header = (
        "layout",
        "kernel",
        "arch",
        "threads",
        "registers",
        "spilled B",
        "shared B",
        "blocks",
        "occupancy",
        "limit",
    )
    cells = [
        (
            *(row["layout"], row["kernel"], row["arch"], str(row["threads"]), str(row["registers"])),
            *(str(row["spill_bytes"]), f"{row['shared_bytes']:,}", str(row["blocks"])),
            *(f"{row['occupancy']:.0%}", row["limit"]),
        )
        for row in rows
    ]
    return table(header, cells)


def _loop_table(rows: Sequence[dict[str, Any]]) -> str:
    kinds = [kind for kind in UNITS if any(kind in row["instructions"] for row in rows)]
    header = ("layout", "arch", *kinds, "all", "moves among them", "instructions a page")

    def cells(row: dict[str, Any]) -> Iterator[str]:
        yield from (row["layout"], row["arch"])
        yield from (f"{row['instructions_per_value'].get(kind, 0):.3f}" for kind in kinds)
        yield f"{row['all_per_value']:.3f}"
        yield f"{row['moves'] / row['page_instructions']:.0%}"
        yield f"{row['page_instructions']:,}"

    return table(header, [tuple(cells(row)) for row in rows])


def _roofline_table(rows: Sequence[dict[str, Any]]) -> str:
    header = ("layout", "arch", "bytes a token", "memory", "issue", "alu", "bound by", "of the bandwidth")
    cells = [
        (
            *(row["layout"], row["arch"], f"{row['bytes_per_token']:g}"),
            *(f"{row['picoseconds'][kind]:.1f}" for kind in ("memory", "issue", "alu")),
            *(row["bound"], f"{row['bandwidth_share']:.0%}"),
        )
        for row in rows
    ]
    return table(header, cells)


def _gpu_table(gpus: dict[str, dict[str, Any]]) -> str:
    header = ("arch", "GPU", "multiprocessors", "clock GHz", "DRAM TB/s", "source")
    return table(
        header,
        [
            (
                *(arch, gpu["name"], str(gpu["multiprocessors"]), f"{gpu['clock'] / 1e9:.3f}"),
                *(f"{gpu['bandwidth'] / 1e12:.3f}", gpu["source"]),
            )
            for arch, gpu in gpus.items()
        ],
    )


if __name__ == "__main__":
    main()
