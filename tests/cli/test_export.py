from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from tqc.errors import ExportError


@pytest.fixture
def exporter(monkeypatch):
    """Stands in for the exporter and remembers its calls."""
    calls = []

    def export_model(source, output, *, dtype, force, progress):
        progress("exporting")
        if source == "bad":
            raise ExportError("The source is unknown", found=source)
        calls.append((source, output, dtype, force))
        return output / "model.onnx"

    package, module = ModuleType("tqc.models"), ModuleType("tqc.models.export")
    module.export_model = export_model
    monkeypatch.setitem(sys.modules, "tqc.models", package)
    monkeypatch.setitem(sys.modules, "tqc.models.export", module)
    return calls


def test_options_reach_the_exporter(tqc, exporter):
    assert tqc("export", "smollm2", "-o", "out", "--dtype", "fp16", "--force").out == "out/model.onnx\n"
    assert tqc("export", "folder", "-o", "out", "--json").json == {"model": "out/model.onnx"}
    assert exporter == [("smollm2", Path("out"), "fp16", True), ("folder", Path("out"), "fp32", False)]


def test_its_errors_are_messages(tqc, exporter):
    done = tqc("export", "bad", "-o", "out")
    assert done.status == 1
    assert "The source is unknown" in done.err
