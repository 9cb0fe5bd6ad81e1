"""Builds in processes of their own."""

from __future__ import annotations

import os

import pytest
import stand_in
from ptx_compile import needs_nvcc

from tqc.codec.layout import CacheLayout
from tqc.codegen.target import Target
from tqc.schedules.cuda_config import DecodeConfig
from tqc.tune.build import Job, build, build_all


def job(path, config=None, **fields) -> Job:
    made = {"target": stand_in.TARGET, "schedule": "decode", "layout": stand_in.LAYOUT, "config": config}
    return Job(path=path, **made | fields)


def test_builds_run_in_other_processes_and_keep_their_order(tmp_path):
    jobs = [job(tmp_path / str(number)) for number in range(2)]
    done = build_all(jobs, stand_in.works, 2)
    assert [each.job for each in done] == jobs
    assert not any(each.fault for each in done)
    assert all(int(each.job.path.read_text()) != os.getpid() for each in done)


@pytest.mark.parametrize(
    ("worker", "seconds", "fault"),
    [
        (stand_in.refuses, 300, "this does not fit; 8"),
        (stand_in.crashes, 300, "the compiler's process ended with status 7"),
        (stand_in.hangs, 4, "not built after 4 s"),
    ],
)
def test_a_build_that_fails_is_a_fault(tmp_path, worker, seconds, fault):
    (done,) = build_all([job(tmp_path / "x", 8)], worker, 1, seconds=seconds)
    assert done.fault == fault


def test_resources_come_with_a_cuda_kernel_and_one_that_spills_is_not_built(tmp_path):
    needs_nvcc()
    done = build(job(tmp_path / "x.so", DecodeConfig()))
    assert done.fault == ""
    assert done.job.path.stat().st_size > 0
    assert 32 <= done.resources.registers <= 255
    assert done.resources.shared == DecodeConfig().shared_bytes(stand_in.LAYOUT)
    assert done.resources.spilled == 0


def test_a_cpu_kernel_has_none(tmp_path):
    from tqc.schedules.cpu_config import cpu_config

    target, layout = Target("cpu", "x86-64-v2"), CacheLayout(4, 2, 32)
    done = build(job(tmp_path / "x.so", cpu_config("portable"), target=target, layout=layout))
    assert done.resources is None
    assert done.job.path.stat().st_size > 0
