"""The README shows the numbers that are kept, not others."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "readme.py"


def test_the_readme_shows_the_kept_results():
    assert subprocess.run([sys.executable, str(SCRIPT), "--check"], check=False).returncode == 0


def test_a_typed_number_is_noticed():
    spec = importlib.util.spec_from_file_location("readme", SCRIPT)
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    text = "# x\n" + readme.BEGIN + "| typed | 9.99× |\n" + readme.END + "rest\n"
    assert "typed" not in readme.with_section(text, "\nmeasured\n")
    assert readme.with_section(text, "\nmeasured\n").endswith("rest\n")
    with pytest.raises(ValueError, match="markers"):
        readme.with_section("# no markers\n", "")
