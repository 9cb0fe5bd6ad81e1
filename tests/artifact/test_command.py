from pathlib import Path

from tqc.artifact import command_line


def test_folders_and_options_without_effect_are_left_out():
    options = {
        "kv": "tq4",
        "max_context": 4096,
        "arch": ("sm_80", "sm_90"),
        "calibrate": Path("/home/me/text.txt"),
        "no_centre": True,
        "centre": False,
        "target": None,
        "output": Path("/models/out.tqc"),
        "force": True,
    }
    assert command_line("compile", "/models/x/model.onnx", options) == (
        *("tqc", "compile", "model.onnx", "--kv", "tq4", "--max-context", "4096", "--arch", "sm_80,sm_90"),
        *("--calibrate", "text.txt", "--no-centre"),
    )
