from __future__ import annotations

import importlib
import json

import pytest
from report_data import NEEDLES, POINTS


@pytest.fixture
def plots(scripts_folder):
    return importlib.import_module("plots")


def test_figures_are_those_of_the_kept_results(plots):
    assert plots.main(["--check"]) == 0


def test_a_figure_for_each_file_of_results(plots, tmp_path):
    results, docs = tmp_path / "results", tmp_path / "docs"
    for folder in (results, docs):
        folder.mkdir()
    assert plots.draw(results) == {}
    (results / "pareto.json").write_text(json.dumps(POINTS))
    assert plots.main(["--check"], results, docs) == 1
    assert plots.main([], results, docs) == 0
    assert plots.main(["--check"], results, docs) == 0
    assert [path.name for path in docs.iterdir()] == ["pareto.svg"]
    (results / "needle.json").write_text(json.dumps(NEEDLES))
    assert plots.main([], results, docs) == 0
    assert (docs / "needle.svg").read_text().count("</title>") == 8
    (docs / "pareto.svg").write_text("typed")
    assert plots.main(["--check"], results, docs) == 1
