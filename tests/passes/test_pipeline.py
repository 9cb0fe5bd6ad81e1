"""The order of the passes, their text, and the dump after each."""

import numpy as np
import tvm
from outline import outline
from toy import DIM, HEADS, KV_HEADS, VOCAB, toy_module
from tvm import relax

from tqc.codec import rotation
from tqc.codec.layout import CacheLayout
from tqc.codegen.target import Target
from tqc.compiler.build import build
from tqc.frontend.weights import ArrayTensor, Weight
from tqc.passes.bases import Bases, basis_arrays
from tqc.passes.pipeline import Dump, cache_passes, run

OPTIONS = {"sinks": 4, "recent": 16, "page": 16, "weights": {}, "fold": False}


def test_the_passes_print_their_options():
    passes = cache_passes(schemes=("tq4", "tq2"), means={}, **OPTIONS)
    assert [str(one) for one in passes] == [
        "centre-keys",
        "attach-cache{sinks=4,recent=16,page=16,storage=lanes/float32}",
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


class Toy:
    """The toy with random weights: its own definition, and what the lowered passes make of it."""

    def __init__(self, **options):
        rng = np.random.default_rng(0)
        self.module = toy_module(**options)
        shapes = {p.name: [int(dim) for dim in p.ty.shape] for p in self.module["main"].params[4:]}
        self.arrays = {name: rng.standard_normal(shape).astype("float32") * 0.5 for name, shape in shapes.items()}
        self.ids = rng.integers(0, VOCAB, (1, 50))

    def defined(self):
        """Logits [1, 50, V] of the definition."""
        define = relax.build(relax.transform.LegalizeOps()(self.module), tvm.target.Target("llvm"))
        past = [np.zeros((1, KV_HEADS, 0, DIM), "float32")] * 2
        arguments = [self.ids, np.arange(50)[None], *past, *self.arrays.values()]
        return relax.VirtualMachine(define, tvm.cpu())["main"](*map(tvm.runtime.tensor, arguments))[0].numpy()

    def through_passes(self, schemes, **options):
        """The same, 45 tokens by prefill and the rest by decode."""
        arrays = self.arrays | basis_arrays(options.get("bases", {}))
        weights = {name: Weight(name, a.shape, "float32", ArrayTensor(a), name) for name, a in arrays.items()}
        passes = cache_passes(schemes=schemes, **(OPTIONS | {"weights": weights, "means": {}} | options))
        built = build(run(self.module, passes), Target("cpu", "x86-64-v2"), weights)
        machine = relax.VirtualMachine(built.executable, tvm.cpu())
        sizes = {"batch": 1, "pages": 4}
        layout = CacheLayout(HEADS, KV_HEADS, DIM, *schemes, *(OPTIONS[key] for key in ("sinks", "recent", "page")))
        state = [np.zeros([sizes.get(d, d) for d in spec.shape], spec.dtype) for spec in layout.tensors()]
        state, params = (
            [tvm.runtime.tensor(a) for a in group] for group in (state, [weights[n].numpy() for n in built.params])
        )

        def call(name, start, stop):
            counts = (np.array([count], "int32") for count in (start, stop - start))
            control = [self.ids[:, start:stop], *counts, np.arange(4, dtype="int32")[None]]
            return machine[name](*map(tvm.runtime.tensor, control), state, params).numpy()

        steps = [call("prefill_all", 0, 45), *(call("decode", at, at + 1) for at in range(45, 50))]
        return np.concatenate(steps, axis=1)


def test_sink_logits_reach_the_result_through_all_passes():
    """Prefill and decode of the lowered toy against its own definition, key means given and left alone."""
    toy = Toy(sinks=True)
    toy.arrays["sinks"] = np.array([2.0, -1.0], "float32")
    means = {0: np.ones((KV_HEADS, DIM), "float32")}
    np.testing.assert_allclose(toy.through_passes(("fp32", "fp32"), means=means), toy.defined(), atol=1e-4)


def test_matrices_undo_each_other_through_all_passes():
    """Skewed bases of keys (at run time) and values (folded) leave what the model computes, up to 8-bit codes."""
    left = np.eye(DIM) + 0.1 * np.random.default_rng(1).standard_normal((KV_HEADS, DIM, DIM))
    bases = {0: Bases.of(left @ rotation.matrix(DIM), left @ rotation.matrix(DIM))}
    toy = Toy()
    expected = toy.defined()
    found = toy.through_passes(("tq8", "tq8"), bases=bases, fold=True)
    np.testing.assert_allclose(found[:, :45], expected[:, :45], atol=1e-3)  # a chunk sees itself exactly
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())
