from __future__ import annotations

from tqc.artifact import StateTensor
from tqc.codec.layout import CacheLayout


def test_tables(tqc, artifact):
    out = tqc("inspect", artifact, "--memory", "10KiB").out
    # Sinks and tail take 4096 bytes, a page of 16 tokens 320: 19 pages fit beside the sinks.
    assert "10.00 KiB of cache hold 308 tokens (fp16: 160); compiled for at most 64" in " ".join(out.split())
    assert "3.20× smaller" in out
    for text in ("tq4", "model-cpu-x86-64-v2.so", "decode_0", "splits=1", "4 sinks exact"):
        assert text in out


def test_json(tqc, artifact):
    done = tqc("inspect", artifact, "--json", "--memory", "4095B").json
    assert done["layers"][0]["bytes_per_token_k"] == 10
    assert done["totals"]["compression"] == 3.2
    assert done["totals"]["context_in_memory"] == 0
    assert done["totals"]["library_bytes"] == (artifact / "model-cpu-x86-64-v2.so").stat().st_size


def test_equal_layers_share_a_row(tqc, tmp_path, fake, sum_library):
    one = fake.make_manifest()
    layers, state = one.layers * 3, one.cache.state * 3
    other = layers[0].model_copy(update={"k": "tq3", "bytes_per_token_k": 8})
    out = fake.write_fake(
        tmp_path / "deep.tqc",
        sum_library,
        layers=(*layers, other),
        cache=one.cache.model_copy(update={"state": (*state, state[0])}),
    )
    text = tqc("inspect", out).out
    assert "0–2" in text
    assert "tq3" in text
    assert len(tqc("inspect", out, "--json").json["layers"]) == 4


def test_the_exact_window_is_that_of_the_layout(tqc, tmp_path, fake, sum_library):
    layout = CacheLayout(2, 1, 16, sinks=4, recent=32, page=16)
    window = {length - 4 - layout.coded(length) for length in range(4 + 48, 400)}
    cache = fake.make_manifest().cache.model_copy(update={"recent": 32})
    out = fake.write_fake(tmp_path / "m.tqc", sum_library, cache=cache)
    text = " ".join(tqc("inspect", out).out.split())
    assert f"4 sinks and {min(window)} to {max(window)} recent tokens exact" in text


def test_a_window_and_the_pages_it_keeps(tqc, tmp_path, fake, sum_library):
    one = fake.make_manifest()
    layer = one.layers[0].model_copy(update={"window": 40})
    ring = StateTensor(name="k_codes", shape=("batch", "ring3", 1, 64), dtype="uint16")
    cache = one.cache.model_copy(update={"state": (*one.cache.state, (ring,))})
    out = fake.write_fake(tmp_path / "m.tqc", sum_library, layers=(*one.layers, layer), cache=cache)
    text = " ".join(tqc("inspect", out).out.split())
    assert "1 of 2 layers keep the newest 3 pages of a sequence" in text
    # A page takes 320 bytes in one layer and 128 in the other, which keeps three: 4096 + 3 · 448 + 10 · 320 bytes.
    done = tqc("inspect", out, "--json", "--memory", f"{4096 + 3 * 448 + 10 * 320}B").json
    assert done["totals"]["context_in_memory"] == 4 + 13 * 16
    assert done["cache"]["state"][1][0]["shape"] == ["batch", "ring3", 1, 64]
