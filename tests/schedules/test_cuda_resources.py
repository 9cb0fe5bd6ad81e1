"""What the compiler makes of the default kernels: registers suffice, and blocks fit a multiprocessor as was planned."""

from __future__ import annotations

from itertools import product

import pytest
from cuda_driver import cuda_kernels, cuda_layout
from ptx_compile import needs_nvcc

from tqc.codegen.cuda_source import block_sizes, cuda_source
from tqc.codegen.resources import KernelResources, resources_of
from tqc.codegen.target import Target
from tqc.schedules.cuda_config import DecodeConfig, PrefillConfig, default_config
from tqc.schedules.cuda_rotate import Turn

LAYOUTS = {
    "32:8:128-k4v3": cuda_layout(32, 8, 128, "tq4", "tq3"),
    "9:3:64-tq4": cuda_layout(9, 3, 64, "tq4", "tq4"),
    "8:1:256-tq4": cuda_layout(8, 1, 256, "tq4", "tq4"),
}


MARGIN = 8
"""Registers by which the estimate for warpgroups may be too low."""

NEWER = [("32:8:128-k4v3", "sm_100"), ("32:8:128-k4v3", "sm_120")]


@pytest.mark.parametrize(("name", "arch"), [*product(LAYOUTS, ("sm_80", "sm_90")), *NEWER])
def test_no_default_kernel_spills_registers(name: str, arch: str) -> None:
    """With the rotations inside, as in a model."""
    needs_nvcc()
    layout = LAYOUTS[name]
    options = {"arch": arch, "softmax_scale": layout.head_dim**-0.5}
    kernels = cuda_kernels(layout, names=("decode",), turn=Turn(), turn_back=Turn(), **options)
    kernels |= cuda_kernels(layout, names=("append", "append_token", "prefill"), **options)
    source = cuda_source(kernels, Target("cuda", arch))
    threads, found = block_sizes(source), resources_of(source, arch)
    assert set(threads) == set(found)
    assert not spilled(found)
    check_resident(layout, arch, threads, found)


def test_int8_keys_do_not_spill_either() -> None:
    needs_nvcc()
    layout, configs = LAYOUTS["32:8:128-k4v3"], {"decode": DecodeConfig(keys="int8")}
    options = {"softmax_scale": layout.head_dim**-0.5, "turn": Turn(), "turn_back": Turn()}
    kernels = cuda_kernels(layout, arch="sm_90", configs=configs, names=("decode",), **options)
    assert not spilled(resources_of(cuda_source(kernels, Target("cuda", "sm_90")), "sm_90"))


@pytest.mark.parametrize("name", LAYOUTS)
def test_no_warpgroups_spill_either(name: str) -> None:
    needs_nvcc()
    layout = LAYOUTS[name]
    configs = [config for config in PrefillConfig.space(layout, "sm_90a") if config.wgmma]
    assert configs
    for config in configs:
        kernels = cuda_kernels(
            layout, arch="sm_90a", configs={"prefill": config}, names=("prefill",), softmax_scale=0.1
        )
        found = resources_of(cuda_source(kernels, Target("cuda", "sm_90a")), "sm_90a")
        assert not spilled(found)
        used = found["prefill_kernel"]
        assert used.registers <= config.registers(layout, "sm_90a") + MARGIN
        assert used.occupancy(config.threads, config.shared_bytes(layout)).blocks >= 1


def spilled(found: dict[str, KernelResources]) -> dict[str, KernelResources]:
    return {kernel: used for kernel, used in found.items() if used.spills or used.stack}


def check_resident(layout, arch: str, threads: dict[str, int], found: dict[str, KernelResources]) -> None:
    """A block of the attention kernels fits, and no more registers are taken than were counted with."""
    for kernel in ("decode", "prefill"):
        config, used = default_config(kernel, layout, arch), found[f"{kernel}_kernel"]
        assert threads[f"{kernel}_kernel"] == config.threads
        assert used.occupancy(config.threads, config.shared_bytes(layout)).blocks >= 1
