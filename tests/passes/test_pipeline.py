"""The order of the passes, their text, and the dump after each."""

import numpy as np
from outline import outline
from toy import DIM, KV_HEADS, toy_module

from tqc.passes.pipeline import Dump, cache_passes, run

OPTIONS = {"sinks": 4, "recent": 16, "page": 16, "weights": {}, "fold": False}


def test_the_passes_print_their_options():
    passes = cache_passes(schemes=("tq4", "tq2"), means={}, **OPTIONS)
    assert [str(one) for one in passes] == [
        "centre-keys",
        "attach-cache{sinks=4,recent=16,page=16}",
        "quantize-cache{default=('tq4', 'tq2'),plan={},seed=0}",
        "last-token-logits",
    ]


def test_keys_are_centred_before_they_are_rotated():
    means = {0: np.zeros((KV_HEADS, DIM), "float32")}
    decode = run(toy_module(), cache_passes(schemes=("tq4", "tq4"), means=means, **OPTIONS))["decode"]
    lines = [line.split(" = ") for line in outline(decode)]
    centred = next(name for name, text in lines if "key_mean" in text)
    assert any(text.startswith(f"tqc.rotate({centred})") for _, text in lines)


def test_every_pass_leaves_a_file(tmp_path):
    passes = cache_passes(schemes=("tq4", "tq4"), means={}, **OPTIONS)
    run(toy_module(), passes, Dump(tmp_path / "ir"))
    files = sorted(path.name for path in (tmp_path / "ir").iterdir())
    assert files == ["00-centre-keys.py", "01-attach-cache.py", "02-quantize-cache.py", "03-last-token-logits.py"]
    assert "tqc.cached_attention" in (tmp_path / "ir" / "02-quantize-cache.py").read_text()
