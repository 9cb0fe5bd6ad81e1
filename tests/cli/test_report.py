from __future__ import annotations

import json
import shutil

import pytest

from tqc.artifact import read_manifest, verify
from tqc.artifact.embed import identity
from tqc.eval.results import Fidelity, Hardware, Model, Results

POINTS = {"model": "made-up", "points": [{"name": "tq4", "bits_per_value": 4.25, "kl": 0.0017}]}


@pytest.fixture
def here(artifact, tmp_path, monkeypatch):
    """A folder to work in with a copy of the artifact."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(artifact, tmp_path / "sum.tqc")


def evaluation(artifact) -> str:
    fidelity = Fidelity(wanted=9, tokens=9, window=9, chunk=1, mode="decode", perplexity=3.0, agreement=0.875, kl=0.25)
    document = Results(
        tqc_version="0.1.0",
        created="2026-01-02",
        updated="2026-01-02",
        artifact=Model(name="sum", digest=identity(read_manifest(artifact))),
        hardware=Hardware(system="Linux", cpu="Made-up CPU", cores=2, device="cpu"),
        fidelity=fidelity,
    )
    return document.model_dump_json()


def test_a_page_beside_the_artifact(tqc, here, tmp_path):
    before = (here / "manifest.json").read_bytes()
    done = tqc("report", here)
    assert done.status == 0, done.err
    assert "report.html" in done.out
    page = (tmp_path / "report.html").read_text()
    assert "3.20×" in page
    assert "tqc report sum.tqc" in page
    assert str(tmp_path) not in page
    assert (here / "manifest.json").read_bytes() == before


def test_what_was_measured_is_shown(tqc, here, tmp_path):
    (tmp_path / "e.json").write_text(evaluation(here))
    (tmp_path / "p.json").write_text(json.dumps(POINTS))
    done = tqc("report", here, "--eval", "e.json", "--points", "p.json", "-o", "out.html")
    assert done.status == 0, done.err
    page = (tmp_path / "out.html").read_text()
    for text in ("87.50 %", "Made-up CPU", "made-up: "):
        assert text in page


def test_an_embedded_report_is_part_of_the_artifact(tqc, here, tmp_path):
    (tmp_path / "e.json").write_text(evaluation(here))
    assert tqc("report", here, "--eval", "e.json", "--embed").status == 0
    assert "87.50 %" in (here / "report.html").read_text()
    assert not (tmp_path / "report.html").exists()
    verify(here)
    checked = tqc("verify", here, "--json").json
    assert checked["ok"]
    assert "report.html" in checked["files"]
    # The same evaluation still belongs to the artifact, and its text still runs.
    assert tqc("report", here, "--eval", "e.json", "--embed", "-o", "copy.html").status == 0
    assert (tmp_path / "copy.html").read_bytes() == (here / "report.html").read_bytes()
    (here / "report.html").write_text("changed")
    assert tqc("verify", here).status == 1


def test_what_cannot_be_reported(tqc, here, tmp_path):
    (tmp_path / "e.json").write_text("{}")
    for words, said in (
        ((here, here, "--embed"), "belongs into none of them"),
        ((tmp_path / "no.tqc",), "no artifact"),
        ((here, "--eval", "e.json"), "no document of evaluation results"),
        ((here, "--points", "e.json"), "not understood"),
        ((here, "--needles", "n.json"), "no such file"),
    ):
        done = tqc("report", *words)
        assert (done.status, said in done.err) == (1, True), done.err
    assert not (tmp_path / "report.html").exists()
