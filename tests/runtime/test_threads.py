"""One thread a core, unless told otherwise."""

import os

import pytest

from tqc.runtime import threads


@pytest.fixture
def four_processors(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3}, raising=False)


def topology(folder, siblings):
    for cpu, text in enumerate(siblings):
        path = folder / f"cpu{cpu}" / "topology"
        path.mkdir(parents=True)
        (path / "thread_siblings_list").write_text(text + "\n")
    return folder


def test_two_hardware_threads_are_one_core(tmp_path, four_processors):
    assert threads.physical_cores(topology(tmp_path, ["0,2", "1,3", "0,2", "1,3"])) == 2
    assert threads.physical_cores(topology(tmp_path / "single", ["0", "1", "2", "3"])) == 4


def test_without_a_topology_every_processor_counts(tmp_path, four_processors):
    assert threads.physical_cores(tmp_path) == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [("200000 100000\n", 2), ("150000 100000\n", 2), ("5000 100000\n", 1), ("max 100000\n", None), ("", None)],
)
def test_the_quota_of_a_container(tmp_path, text, expected):
    (tmp_path / "cpu.max").write_text(text)
    assert threads.quota(tmp_path / "cpu.max") == expected
    assert threads.quota(tmp_path / "missing") is None


def test_a_container_gets_the_threads_it_has_time_for(monkeypatch):
    monkeypatch.setattr(threads, "physical_cores", lambda: 16)
    for limit, expected in ((3, 3), (64, 16), (None, 16)):
        monkeypatch.setattr(threads, "quota", lambda limit=limit: limit)
        assert threads.default_threads() == expected


def test_the_environment_has_the_last_word(monkeypatch):
    monkeypatch.setenv(threads.VARIABLE, "7")
    threads.set_default_threads()
    assert os.environ[threads.VARIABLE] == "7"
    monkeypatch.delenv(threads.VARIABLE)
    threads.set_default_threads()
    assert int(os.environ[threads.VARIABLE]) == threads.default_threads()
