"""The script for a GPU, with a stand-in for Python that notes how it is called."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "run.sh"
PYTHON = """#!/bin/sh
echo "$@" >> "{log}"
case "$*" in
    *{failing}*) echo "no GPU" >&2; exit 1 ;;
    *find_gpu*arch*) echo sm_90 ;;
esac
"""


@pytest.fixture
def run(tmp_path):
    """`run(failing, *artifacts)` → the process, and the calls; calls that hold the word `failing` fail."""

    def start(failing: str, *artifacts: Path):
        log, python = tmp_path / "calls", tmp_path / "python"
        python.write_text(PYTHON.format(log=log, failing=failing))
        python.chmod(0o755)
        checker = tmp_path / "compute-sanitizer"
        checker.write_text(f'#!/bin/sh\necho "sanitizer $@" >> "{log}"\n')
        checker.chmod(0o755)
        done = subprocess.run(
            ["bash", str(SCRIPT), str(tmp_path / "out"), *map(str, artifacts)],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", "TQC_PYTHON": str(python), "TQC_MINUTES": "3"},
            capture_output=True,
            text=True,
        )
        return done, log.read_text()

    return start


def steps(tmp_path) -> dict[str, str]:
    lines = (tmp_path / "out" / "steps.txt").read_text().splitlines()
    return dict(line.split(": ", 1) for line in lines)


def test_every_step_in_its_order(run, tmp_path):
    done, calls = run("nothing-fails", tmp_path / "a.tqc", tmp_path / "b.tqc")
    assert done.returncode == 0, done.stderr
    assert [name for name in steps(tmp_path) if name != "results"] == [
        *("environment", "tests", "memcheck", "racecheck", "synccheck", "attention-default"),
        *("tune-decode", "tune-prefill", "attention", "model"),
    ]
    for words in (
        "pytest -m gpu",
        "sanitizer --tool racecheck --error-exitcode 9",
        "bench attention --target cuda --heads 32x8x128 --kv tq4,tq2,fp16 -o",
        "tune decode --target cuda --arch sm_90 --heads 32x8x128 --kv tq4,tq2,fp16 --minutes 3",
        f"bench model {tmp_path}/a.tqc --reference {tmp_path}/b.tqc --device cuda --batch 1,8",
    ):
        assert words in calls


def test_a_step_that_fails_does_not_stop_the_next(run, tmp_path):
    done, _ = run("tune")
    assert done.returncode == 1
    found = steps(tmp_path)
    assert found["tune-decode"].startswith("status 1")
    assert found["attention"].startswith("status 0")
    assert found["model"] == "no artifact was named, not run"
    assert "no GPU" in (tmp_path / "out" / "tune-prefill.log").read_text()


def test_without_a_gpu_nothing_is_run(run, tmp_path):
    done, calls = run("find_gpu")
    assert done.returncode == 1
    assert steps(tmp_path) == {"no GPU": "nothing was run"}
    assert calls.count("\n") == 1
    assert "no GPU" in done.stderr


def test_without_a_folder_it_says_how(tmp_path):
    done = subprocess.run(["bash", str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "benchmarks/gpu/run.sh RESULTS" in done.stderr
