from __future__ import annotations

from tqc.bench import machine


def test_the_machine_and_versions_are_told():
    here, versions = machine.machine(), machine.versions()
    assert here["cores"] >= 1
    assert here["architecture"]
    assert versions["numpy"].count(".") == 2
    assert set(versions) == {*machine.PACKAGES, "python"}
    assert machine.versions(["no-such-package"])["no-such-package"] is None


def test_memory_and_load(tmp_path):
    assert machine.free_memory() > 1 << 20
    assert machine.free_memory(tmp_path / "none") is None
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:       8 kB\n")
    assert machine.free_memory(tmp_path / "meminfo") == 8192
    assert machine.load_average() >= 0


def test_a_command_names_no_folders_of_this_machine(tmp_path):
    assert machine.command(["tqc", "bench", str(tmp_path / "a.tqc"), "-o", "out"]) == "tqc bench a.tqc -o out"
