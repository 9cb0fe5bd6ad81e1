"""`tqc tune` on this CPU, and without a GPU."""

from __future__ import annotations

import json


def test_a_kernel_is_tuned_and_the_run_can_be_repeated(tqc, tmp_path, monkeypatch):
    monkeypatch.setattr("tqc.tune.machines.TURNS", 2)
    words = ("tune", "decode", "--target", "cpu", "--heads", "4:2:32", "--contexts", "200", "--trials", "2")
    words += ("--logs", tmp_path, "--jobs", "2")
    done = tqc(*words)
    assert done.status == 0, done.err
    assert "compiling takes" in done.out
    (log,) = tmp_path.glob("*.jsonl")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(records) == 2
    assert records[0]["relative"] == 1.0
    log.write_text(log.read_text() + '{"torn')
    again = tqc(*words, "--minutes", "0.0000001", "--json")
    assert again.status == 0, again.err
    assert "cut off" in again.err
    said = again.json
    assert said["log"] == str(log)
    assert said["kernels"][0]["records"] == 2
    assert said["kernels"][0]["faults"] == 0


def test_without_a_gpu_nothing_is_written(tqc, tmp_path):
    done = tqc("tune", "decode", "--target", "cuda", "--logs", tmp_path / "logs")
    assert done.status == 1
    assert "no NVIDIA GPU" in done.err
    assert not list(tmp_path.iterdir())


def test_options_that_make_no_sense(tqc, tmp_path):
    for words, said in (
        (("decode", "--trials", "0"), "--trials"),
        (("decode", "--contexts", "x"), "--contexts"),
        (("merge",), "cannot be tuned"),
    ):
        done = tqc("tune", *words, "--target", "cpu", "--logs", tmp_path / "logs")
        assert done.status == 1
        assert said in done.err
    assert not list(tmp_path.iterdir())


def test_compile_takes_what_the_log_says_and_says_so(tqc, tiny_llama_onnx, tmp_path):
    """The log is written by hand: no time of a test decides which configuration wins."""
    from tqc.artifact import read_manifest
    from tqc.codegen.target import Target
    from tqc.compiler.configurations import space_of
    from tqc.records.log import TuneLog
    from tqc.records.record import Cell, Record
    from tqc.tune.subjects import of_model

    target = Target("cpu", "x86-64-v3")
    subject = of_model(tiny_llama_onnx, ["tq4"], target)[0]
    configs = space_of(target, "decode", subject.layout)
    with TuneLog(tmp_path / "logs" / "cpu.jsonl") as log:
        for config, relative in ((configs[0], 1.0), (configs[-1], 0.5)):
            log.append(
                Record(
                    kernel=subject.kernel,
                    cell=Cell(device="a CPU", batch=1, context=2048),
                    config=vars(config),
                    seconds=relative,
                    relative=relative,
                    versions={},
                    date="2026-11-30T00:00:00Z",
                )
            )
    words = ("compile", tiny_llama_onnx, "--arch", "x86-64-v3", "--no-centre", "--tune-logs", tmp_path / "logs")
    done = tqc(*words, "-o", tmp_path / "tuned.tqc")
    assert done.status == 0, done.err
    source = "records of a CPU: 2.00 times the default's speed at 2048 tokens"
    assert f"configured by {source}: cpu:x86-64-v3/tqc_decode\n" in done.out
    assert "configured by default, no records: " in done.out
    manifest = read_manifest(tmp_path / "tuned.tqc")
    kernels = {kernel.schedule: kernel.config for kernel in manifest.kernels}
    assert kernels["decode"]["splits"] == configs[-1].splits
    assert kernels["decode"]["configured"] == source
    assert kernels["prefill"]["configured"] == "default, no records"
    assert "--tune-logs logs" in " ".join(manifest.command_line)
