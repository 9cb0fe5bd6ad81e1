"""The order of the passes, their text, and the dump after each."""

import numpy as np
import tvm
from outline import outline
from toy import DIM, HEADS, KV_HEADS, VOCAB, toy_module
from tvm import relax

from tqc.codec.layout import CacheLayout
from tqc.codegen.target import Target
from tqc.compiler.build import build
from tqc.frontend.weights import ArrayTensor, Weight
from tqc.passes.pipeline import Dump, cache_passes, run

OPTIONS = {"sinks": 4, "recent": 16, "page": 16, "weights": {}, "fold": False}


def test_the_passes_print_their_options():
    passes = cache_passes(schemes=("tq4", "tq2"), means={}, **OPTIONS)
    assert [str(one) for one in passes] == [
        "centre-keys",
        "attach-cache{sinks=4,recent=16,page=16}",
        "quantize-cache{default=('tq4', 'tq2'),plan={},seed=0,rounds=1}",
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


def test_sink_logits_reach_the_result_through_all_passes():
    """Prefill and decode of the lowered toy against its own definition, key means given and left alone."""
    rng = np.random.default_rng(0)
    module = toy_module(sinks=True)
    shapes = {p.name: [int(dim) for dim in p.ty.shape] for p in module["main"].params[4:]}
    arrays = {name: rng.standard_normal(shape).astype("float32") * 0.5 for name, shape in shapes.items()}
    arrays["sinks"] = np.array([2.0, -1.0], "float32")
    ids = rng.integers(0, VOCAB, (1, 50))

    define = relax.build(relax.transform.LegalizeOps()(module), tvm.target.Target("llvm"))
    past = [np.zeros((1, KV_HEADS, 0, DIM), "float32")] * 2
    arguments = [ids, np.arange(50)[None], *past, *arrays.values()]
    wanted = relax.VirtualMachine(define, tvm.cpu())["main"](*map(tvm.runtime.tensor, arguments))[0].numpy()

    weights = {name: Weight(name, a.shape, "float32", ArrayTensor(a), name) for name, a in arrays.items()}
    means = {0: np.ones((KV_HEADS, DIM), "float32")}
    passes = cache_passes(schemes=("fp32", "fp32"), means=means, **(OPTIONS | {"weights": weights}))
    built = build(run(module, passes), Target("cpu", "x86-64-v2"), weights)
    machine = relax.VirtualMachine(built.executable, tvm.cpu())
    sizes = {"batch": 1, "pages": 4}
    layout = CacheLayout(HEADS, KV_HEADS, DIM, "fp32", "fp32", *(OPTIONS[key] for key in ("sinks", "recent", "page")))
    state = [np.zeros([sizes.get(d, d) for d in spec.shape], spec.dtype) for spec in layout.tensors()]
    state, params = (
        [tvm.runtime.tensor(a) for a in group] for group in (state, [weights[n].numpy() for n in built.params])
    )

    def call(name, start, stop):
        counts = (np.array([count], "int32") for count in (start, stop - start))
        control = [ids[:, start:stop], *counts, np.arange(4, dtype="int32")[None]]
        return machine[name](*map(tvm.runtime.tensor, control), state, params).numpy()

    np.testing.assert_allclose(call("prefill_all", 0, 45), wanted[:, :45], atol=1e-4)
    for position in range(45, 50):
        np.testing.assert_allclose(call("decode", position, position + 1)[:, 0], wanted[:, position], atol=1e-4)
