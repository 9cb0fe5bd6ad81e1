"""Measuring on this CPU, and what a machine refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ptx_compile import needs_nvcc

from tqc.bench.gpu import Gpu
from tqc.bench.kernels import layout_of
from tqc.bench.problem import Geometry
from tqc.codec.layout import CacheLayout
from tqc.codegen.target import Target, native_level
from tqc.compiler.configurations import space_of
from tqc.errors import TargetError
from tqc.records.record import Cell
from tqc.schedules.cpu_config import cpu_config
from tqc.tune.build import Built, Job, build
from tqc.tune.machines import cpu_machine, cuda_machine, machine_for
from tqc.tune.measurer import Subject

GPU = Gpu("NVIDIA H100", "sm_90", 132, 50 << 20, 80 << 30, "580.1")


@pytest.mark.parametrize("schedule", ["decode", "prefill"])
def test_kernels_of_the_cpu_are_checked_and_timed(schedule, tmp_path, monkeypatch):
    monkeypatch.setattr("tqc.tune.machines.TURNS", 2)
    target = Target("cpu", native_level())
    machine = cpu_machine(target, 1)
    subject = Subject(schedule, CacheLayout(4, 2, 32, sinks=2, recent=32, page=64), target)
    default = cpu_config(target.isa)
    configs = [default, replace(default, splits=1, prefill_rows=8)]
    jobs = [Job(target, schedule, subject.layout, config, tmp_path / f"{n}.so") for n, config in enumerate(configs)]
    built = [build(job) for job in jobs]
    cell = Cell(device=machine.device, batch=2, context=300, tokens=5 if schedule == "prefill" else 1)
    found = machine.measure(subject, cell, built)
    assert [each.fault for each in found] == ["", ""]
    assert all(each.error < 2e-3 for each in found)
    assert [len(each.rounds) for each in found] == [2, 2]


def test_a_kernel_that_is_wrong_or_lost_has_no_times(tmp_path):
    target = Target("cpu", native_level())
    machine = cpu_machine(target, 1)
    one, other = (CacheLayout(4, 2, 32, *schemes) for schemes in (("tq4", "tq4"), ("tq2", "tq2")))
    made = build(Job(target, "decode", other, cpu_config(target.isa), tmp_path / "other.so"))
    lost = Built(replace(made.job, path=tmp_path / "none.so"))
    cell = Cell(device=machine.device, batch=1, context=300)
    found = machine.measure(Subject("decode", one, target), cell, [made, lost])
    assert all(each.fault and not each.rounds for each in found)


def test_what_a_machine_cannot_run_is_refused():
    with pytest.raises(TargetError, match="cannot run cuda:sm_80"):
        cuda_machine(Target("cuda", "sm_80"), 1, GPU)
    with pytest.raises(TargetError, match="One architecture"):
        machine_for("cpu", "x86-64-v2,x86-64-v3")


@pytest.mark.gpu
@pytest.mark.parametrize("schedule", ["decode", "prefill"])
def test_kernels_of_a_gpu_are_checked_and_timed(schedule, tmp_path):
    try:
        machine = machine_for("cuda", processes=2)
    except TargetError as error:
        pytest.skip(str(error))
    layout = layout_of("k4v3", Geometry(8, 2, 64), machine.target)
    configs = space_of(machine.target, schedule, layout)
    jobs = [
        Job(machine.target, schedule, layout, config, tmp_path / f"{number}.so")
        for number, config in enumerate((configs[0], configs[-1]))
    ]
    built = machine.build(jobs)
    assert [each.fault for each in built] == ["", ""]
    cell = Cell(device=machine.device, batch=2, context=3000, tokens=100 if schedule == "prefill" else 1)
    found = machine.measure(Subject(schedule, layout, machine.target), cell, built)
    assert [each.fault for each in found] == ["", ""]
    assert all(0 < seconds < 1 for each in found for turn in each.rounds for seconds in turn)


def test_the_machine_of_a_gpu_names_what_its_times_depend_on():
    needs_nvcc()
    machine = cuda_machine(Target("cuda", "sm_90a"), 1, GPU)
    assert machine.device == "NVIDIA H100"
    assert machine.versions.keys() == {"tqc", "tvm", "nvcc", "driver"}
