from __future__ import annotations

import json
import shutil


def test_engines_take_turns_and_all_times_are_kept(tiny_llama_onnx, tmp_path, monkeypatch):
    import whole_model

    monkeypatch.setattr(whole_model, "PAUSE_SECONDS", 0.0)
    other = shutil.copytree(tiny_llama_onnx.parent, tmp_path / "other") / "model.onnx"
    arguments = ["--onnx", str(tiny_llama_onnx), str(other), "--contexts", "9", "5", "--steps", "4", "--round", "2"]
    arguments += ["--prompt", "6", "--prompts", "3", "--chunk", "4", "--vocab", "256", "--threads", "1"]
    whole_model.main([*arguments, "--output", str(tmp_path / "speed")])
    data = json.loads((tmp_path / "speed.json").read_text())
    assert [entry["context"] for entry in data["decode"]] == [5, 9]
    for entry in data["decode"]:
        assert len(entry["step_seconds"]) == 2
        assert all(len(times) == 4 and min(times) > 0 for times in entry["step_seconds"].values())
        assert set(entry["kv_bytes"].values()) == {entry["context"] * 2 * 2 * 2 * 64 * 4}
    assert [len(times) for times in data["prefill_seconds"].values()] == [3, 3]
    assert "tokens/s, 6 tokens" in (tmp_path / "speed.md").read_text()


def test_tables_show_medians_and_ratios_to_the_first_engine():
    import whole_model

    decode = [
        {
            "context": 32,
            "kv_bytes": {"a": 10, "b": 5},
            "step_seconds": {"a": [0.02, 0.02, 9], "b": [0.01, 0.01, 9]},
        },
        {"context": 64, "kv_bytes": {"a": 2000, "b": 500}, "step_seconds": {"a": [0.02], "b": [0.04]}},
    ]
    lines = whole_model.decode_table(decode).splitlines()
    assert lines[0] == "| decode, tokens/s | at 32 | at 64 | cache bytes at 64 |"
    assert lines[2] == "| a | 50.0 (1.00×) | 50.0 (1.00×) | 2,000 |"
    assert lines[3] == "| b | 100.0 (2.00×) | 25.0 (0.50×) | 500 |"
    lines = whole_model.prefill_table({"a": [1.0, 2.0, 3.0], "b": [4.0]}, 512).splitlines()
    assert lines[2:] == ["| a | 256 (1.00×) |", "| b | 128 (0.50×) |"]
