from __future__ import annotations

import json

import pytest


def test_a_model_beside_itself_writes_raw_data_and_a_table(tiny_llama_onnx, tmp_path):
    import fidelity

    arguments = ["--reference", str(tiny_llama_onnx), str(tiny_llama_onnx), "--tokens", "60", "--chunk", "7"]
    fidelity.main([*arguments, "--output", str(tmp_path / "new" / "fidelity")])
    data = json.loads((tmp_path / "new" / "fidelity.json").read_text())
    (result,) = data["results"].values()
    assert (result["tokens"], result["agreement"], result["kl"]) == (60, 1.0, 0.0)
    # 2 layers, K and V, 2 heads of 64 floats
    assert result["kv_bytes"] == 60 * 2 * 2 * 2 * 64 * 4
    assert data["machine"]["cores"] >= 1
    assert data["versions"]["onnxruntime"]
    table = (tmp_path / "new" / "fidelity.md").read_text()
    assert "| 100.00 % |" in table
    assert "prefill in chunks of 7 tokens" in table


def test_reject_a_text_that_is_too_short(tiny_llama_onnx, tmp_path):
    import fidelity

    (tmp_path / "text").write_text("few words")
    arguments = ["--reference", str(tiny_llama_onnx), str(tiny_llama_onnx), "--text", str(tmp_path / "text")]
    with pytest.raises(SystemExit, match="9 tokens only"):
        fidelity.main([*arguments, "--output", str(tmp_path / "fidelity")])
    assert not (tmp_path / "fidelity.json").exists()
