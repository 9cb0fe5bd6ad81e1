"""What onnxruntime's CPU kernels refuse runs once it is written out, and means the same as our reading of the file."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tvm
from onnx import helper
from tvm import relax

from tqc.frontend import import_model
from tqc.frontend.load import load
from tqc.frontend.portable import portable


@pytest.fixture
def build(decoder):
    """`build(packed, norms, **attrs)` → a decoder around GroupQueryAttention for a GPU."""

    class Model(decoder):
        def __init__(self, packed=True, norms=True, **attrs):
            self.packed, self.norms, self.attrs = packed, norms, attrs
            super().__init__()

        def _attention(self, x, _mask, _repeat):
            widths = [self.heads * self.dim, self.kv_heads * self.dim, self.kv_heads * self.dim]
            weights = [self.weight(f"w_{name}", self.width, width) for name, width in zip("qkv", widths, strict=True)]
            operands = [self.add("MatMul", [x, weight], f"{weight}_product") for weight in weights]
            if self.packed:
                operands = [self.add("Concat", operands, "packed", axis=-1), "", ""]
            last = self.add(
                "Sub", [self.add("ReduceSum", ["attention_mask", self.ints(1)], "n", keepdims=0), self.int(1)], "l"
            )
            total = self._size("attention_mask", 1, "total_tokens")
            counts = [self.add("Cast", [t], f"{t}_32", to=onnx.TensorProto.INT32) for t in (last, total)]
            pasts, presents = ([f"{p}.0.{s}" for s in ("key", "value")] for p in ("past_key_values", "present"))
            norms = [self.weight("q_norm", self.dim), self.weight("k_norm", self.dim)] if self.norms else ["", ""]
            operands += [*pasts, *counts, *[""] * 7, *norms]
            attrs = {"num_heads": self.heads, "kv_num_heads": self.kv_heads, "domain": "com.microsoft"} | self.attrs
            self.nodes.append(helper.make_node("GroupQueryAttention", operands, ["flat", *presents], "gqa", **attrs))
            return "flat"

    return Model


@pytest.mark.parametrize(
    "options",
    [
        {"qk_norm_epsilon": 0.3},
        {"packed": False, "q_norm_epsilon": 0.3, "k_norm_epsilon": 0.05},
        {"norms": False, "local_window_size": 4, "sliding_window_cache": 1},
        {"local_window_size": 4, "sliding_window_cache": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize(("seq", "past"), [(7, 0), (2, 6)])
def test_runs_and_equals_our_reading(build, tmp_path, options, seq, past):
    path = build(**options).save(tmp_path)
    random = np.random.default_rng(0)
    cache = [random.standard_normal((1, 2, past, 16), np.float32) for _ in range(2)]
    tokens = random.integers(0, 40, (1, seq))
    feeds = {"input_ids": tokens, "attention_mask": np.ones((1, past + seq), np.int64)}
    feeds |= {f"past_key_values.0.{side}": array for side, array in zip(("key", "value"), cache, strict=True)}
    proto = portable(load(path)).proto
    for tensor in onnx.load(path).graph.initializer:
        (slot,) = (i for i, t in enumerate(proto.graph.initializer) if t.name == tensor.name)
        proto.graph.initializer[slot].CopyFrom(tensor)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {entry.name: feeds[entry.name] for entry in session.get_inputs()})

    imported = import_model(path)
    main = relax.VirtualMachine(relax.build(imported.mod, tvm.target.Target("llvm")), tvm.cpu())["main"]
    arguments = [tokens, np.arange(past, past + seq)[None], *cache, *(w.numpy() for w in imported.weights.values())]
    for ours, theirs in zip(main(*map(tvm.runtime.tensor, arguments)), expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-5)


def test_the_file_itself_does_not_run(build, tmp_path):
    """The reason to write anything out."""
    session = ort.InferenceSession(build(qk_norm_epsilon=0.3).save(tmp_path), providers=["CPUExecutionProvider"])
    feeds = {"input_ids": np.zeros((1, 3), np.int64), "attention_mask": np.ones((1, 3), np.int64)}
    feeds |= {f"past_key_values.0.{side}": np.zeros((1, 2, 0, 16), np.float32) for side in ("key", "value")}
    with pytest.raises(Exception, match="not supported"):
        session.run(None, feeds)


def test_other_models_stay_as_they_are(build, decoder, tmp_path):
    for model in (decoder(), build(norms=False)):
        loaded = load(model.save(tmp_path))
        assert portable(loaded) is loaded
