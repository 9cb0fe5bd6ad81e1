from __future__ import annotations


def test_the_machine_and_versions_are_told():
    import report

    machine, versions = report.machine(), report.versions()
    assert machine["cores"] >= 1
    assert machine["architecture"]
    assert versions["numpy"].count(".") == 2
    assert set(report.PACKAGES) | {"python", "commit"} == set(versions)


def test_table():
    import report

    assert report.table(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |\n"
