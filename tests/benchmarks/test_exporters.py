"""The table of exporters shows the results that are kept; what passes and what does not."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "exporters.py"


@pytest.fixture(scope="module")
def exporters():
    spec = importlib.util.spec_from_file_location("exporters", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cell(**more):
    return {"exported": True, "bar": 1e-4, "differences": {"prefill": 1e-5, "decode": 5e-5}} | more


def test_the_document_shows_the_kept_results():
    assert subprocess.run([sys.executable, str(SCRIPT), "--check"], check=False).returncode == 0


def test_every_kept_cell_is_a_cell_of_the_zoo(exporters):
    pytest.importorskip("torch")
    from tqc.models.families import FAMILIES
    from tqc.models.forms import FORMS

    names = {f"{family}/{form}" for family in FAMILIES for form in FORMS}
    assert set(json.loads(exporters.RESULT.read_text())["cells"]) <= names
    assert {*exporters.FALLBACK, *(form for forms in exporters.FALLBACK.values() for form in forms)} <= set(FORMS)


def test_what_passes(exporters):
    assert exporters.passed(cell())
    assert exporters.passed(cell(cosine=0.995))
    assert not exporters.passed(cell(cosine=0.98))
    assert not exporters.passed(cell(differences={"prefill": 1e-5, "decode": 2e-4}))
    assert not exporters.passed(cell(stage="tq4", error="RuntimeError: no"))
    assert not exporters.passed({"exported": True, "stage": "import", "error": "FrontendError: no"})


def test_a_changed_number_changes_the_document(exporters):
    results = json.loads(exporters.RESULT.read_text())
    before = exporters.document(results)
    name = next(name for name, cell in results["cells"].items() if exporters.passed(cell))
    results["cells"][name]["differences"]["decode"] = 7.0
    assert exporters.document(results) != before
    assert name in exporters.document(results).split("## Failures")[1].split("##")[0]


def test_an_exporter_that_refuses_is_recorded_and_not_raised(exporters):
    class Refusing:
        def path(self, family, form):
            raise NotImplementedError("no such architecture")

    found = exporters.check(Refusing(), "llama", "genai-fp32")
    assert found["exported"] is False
    assert found["stage"] == "export"
    assert found["error"] == "NotImplementedError: no such architecture"
