from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest


@pytest.fixture
def arguments(tiny_llama_onnx, tmp_path):
    arguments = ["--onnx", str(tiny_llama_onnx), "--tokens", "330", "--window", "330", "--skip", "150"]
    return [*arguments, "--threads", "1", "--output", str(tmp_path / "ablations")]


def test_every_row_is_measured_once(arguments, tmp_path, monkeypatch):
    import ablations

    monkeypatch.setattr(ablations.Sources, "generated", "What a model wrote, which is a text as any other is.")
    ablations.main(arguments)
    data = json.loads((tmp_path / "ablations.json").read_text())
    rows = {row["name"]: row for row in data["rows"]}
    assert set(rows) == set(ablations.BY_NAME)
    assert {row["tokens"] for row in rows.values()} == {330}
    assert len({row["kl"] for row in rows.values()}) == len(rows)  # each row does something else
    assert all(row["kl"] > 0 for row in rows.values())
    assert rows["no window"]["kl"] > rows["tq3"]["kl"] < rows["tq2"]["kl"]
    assert rows["trellis, 2 bits"]["ratio"] == pytest.approx(rows["trellis, 2 bits"]["kl"] / rows["tq2"]["kl"])
    table = (tmp_path / "ablations.md").read_text()
    assert table.count("| tq3 | 3.250 |") == 7  # in front of every topic but the last
    assert table.count("| seed 1 | 3.250 |") == 2

    monkeypatch.setattr(ablations, "measure", lambda *_: pytest.fail("measured again"))
    ablations.main(arguments)
    assert json.loads((tmp_path / "ablations.json").read_text())["rows"] == data["rows"]


def test_bits_count_every_scale():
    from ablations import BY_NAME

    layers = {0: SimpleNamespace(kv_heads=3, head_dim=64), 1: SimpleNamespace(kv_heads=1, head_dim=64)}
    bits = {name: row.bits_per_value(layers) for name, row in BY_NAME.items()}
    assert bits["tq3"] == bits["none"] == bits["trellis, 3 bits"] == 3.25
    assert bits["tq2"] == bits["trellis, 2 bits"] == 2.25
    assert bits["bands (16@5/16@3/32@2)"] == 3 + (3 * 16 / 64 + 16 / 64) / 2
    assert bits["bands, one scale (16@5+16@3+32@2)"] == 3.25


def test_the_own_text_is_drawn_by_a_seed(tiny_llama_onnx):
    from sources import GENERATED, Sources

    from tqc.eval.onnx_session import OnnxSession

    exact = OnnxSession(tiny_llama_onnx, threads=1)
    model, options = SimpleNamespace(means=None), SimpleNamespace(onnx=tiny_llama_onnx)
    made = [Sources(options, model, exact).generated for _ in range(2)]
    assert made[0] == made[1]
    assert made[0].startswith("T")
    assert len(made[0]) > GENERATED // 4  # bytes that are no text become one sign together
    assert exact.length == 1 + GENERATED


def test_the_first_page_gives_the_mean_of_the_sequence():
    from ablations import BY_NAME
    from variations import make_recode

    recode = make_recode(BY_NAME["mean of the sequence's first coded page"], None, None)
    first, later = (np.random.default_rng(seed).standard_normal((2, 64, 64)).astype(np.float32) for seed in (0, 1))
    shift = np.float32(1000)
    for page in (first, later):
        found = recode(3, "k", page + shift)
        assert np.abs(found - page - shift).max() < 3
    far = recode(3, "v", later + shift)
    assert np.abs(far - later - shift).max() > 30  # values are not centred


def test_ratios_compare_the_same_windows():
    from ablations import results

    layers = {0: SimpleNamespace(kv_heads=1, head_dim=64)}

    def sums(kl):
        names = ("agreed", "reference_loss", "loss", "kl_max", "max_difference")
        return dict.fromkeys(names, 0.0) | {"tokens": 10, "kl": kl}

    done = {"tq3": {"0": sums(1.0), "1": sums(3.0)}, "no mean": {"1": sums(6.0)}, "two rounds": {"2": sums(1.0)}}
    found = {row["name"]: row for row in results(done, layers)}
    assert [found[name]["ratio"] for name in ("tq3", "no mean", "two rounds")] == [1.0, 2.0, None]
    assert found["tq3"]["kl"] == 0.2


def test_reject_unknown_rows(arguments, capsys):
    import ablations

    with pytest.raises(SystemExit):
        ablations.main([*arguments, "tq9"])
    assert "unknown rows: tq9; there are: tq3, no mean" in capsys.readouterr().err
