"""Linking a library, and what stands in its way."""

import pytest
from tvm.support import cc

from tqc.codegen.target import Target
from tqc.compiler.build import Built
from tqc.errors import TargetError


class Executable:
    """Stands for a compiled model: links nothing with the compiler that is set."""

    def export_library(self, path: str) -> None:
        cc.create_shared(path, [])


@pytest.fixture
def built():
    return Built(Target("cpu", "x86-64-v2"), Executable(), (), ())


def test_reject_a_machine_without_a_compiler(built, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(TargetError, match=r"no C\+\+ compiler(.|\n)*gcc"):
        built.export(tmp_path / "model.so")


@pytest.mark.parametrize("compiler", ["/no/such/compiler", "false"])
def test_reject_a_compiler_that_fails(built, monkeypatch, tmp_path, compiler):
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(TargetError, match="could not be linked"):
        built.export(tmp_path / "model.so")
