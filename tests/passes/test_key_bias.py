"""Layers whose key bias outweighs what the weights say about tokens."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

from tqc.codec import nbits
from tqc.dialect import attention, matmul_nbits, rms_norm, rope
from tqc.frontend.weights import ArrayTensor, Weight
from tqc.passes.key_bias import biased_layers, protect_keys

HEADS, DIM, HIDDEN, SIZE = 2, 16, 32, 10.0
RNG = np.random.default_rng(0)
GAINS = RNG.uniform(0.5, 2, HIDDEN).astype("float32")
W = RNG.standard_normal((HIDDEN, HEADS * DIM)).astype("float32")
W *= SIZE / np.sqrt((GAINS.astype(float) ** 2 @ np.square(W)).reshape(HEADS, DIM).sum(axis=1)).repeat(DIM)
SLOW, FAST = 1e-6, 1.0


def stored(arrays):
    return {name: Weight(name, a.shape, str(a.dtype), ArrayTensor(a), name) for name, a in arrays.items()}


def model(bias, *, partial=False, packed=False, constant=False, softcap=0.0, first=FAST, normed=False):
    """Keys x·W + bias after RoPE whose first pair turns by `first`, all others by SLOW; → (module, weights)."""
    batch, seq, past = (tirx.Var(name, "int64") for name in ("batch", "seq", "past"))
    op, arrays = relax.op, {"w": W, "bias": bias.astype("float32")}
    inputs = [
        relax.Var("x", relax.TensorType((batch, seq, HIDDEN), "float32")),
        relax.Var("positions", relax.TensorType((batch, seq), "int64")),
        relax.Var("past", relax.TensorType((batch, HEADS, past, DIM), "float32")),
    ]
    if packed:
        numbers = RNG.integers(0, 16, (HEADS * DIM, HIDDEN))
        scales = np.full((HEADS * DIM, 1), SIZE / 100, "float32")
        arrays |= {"w": nbits.pack(numbers, 4).reshape(HEADS * DIM, 1, HIDDEN // 2), "scales": scales}
    params = {name: relax.Var(name, relax.TensorType(a.shape, str(a.dtype))) for name, a in arrays.items()}
    added = relax.const(arrays["bias"]) if constant else params["bias"]
    bb = relax.BlockBuilder()
    with bb.function("main", [*inputs, *params.values()], attrs={"num_input": 3, "global_symbol": "main"}):
        with bb.dataflow():
            x = bb.emit(rms_norm(inputs[0], relax.const(GAINS), epsilon=1e-6))
            if packed:
                y = matmul_nbits(x, params["w"], params["scales"], bits=4, block=32, k=HIDDEN, n=HEADS * DIM)
            else:
                y = op.matmul(x, params["w"])
            y = bb.emit(op.add(added, bb.emit(y)))
            split = bb.emit(op.reshape(y, (batch, seq, HEADS, DIM)))
            if normed:
                split = bb.emit(rms_norm(split, relax.const(np.ones(DIM, "float32")), epsilon=1e-6))
            k = bb.emit(op.permute_dims(split, [0, 2, 1, 3]))
            turned = DIM // 2 if partial else DIM
            table = relax.const(np.array([first] + [SLOW] * (turned // 2 - 1), "float32"))
            if partial:
                parts = bb.emit(op.split(k, [turned], axis=3))
                head, rest = (bb.emit(relax.TupleGetItem(parts, i)) for i in range(2))
                k = bb.emit(op.concat([bb.emit(rope(head, inputs[1], table)), rest], axis=3))
            else:
                k = bb.emit(rope(k, inputs[1], table))
            out = bb.emit(attention(k, k, k, inputs[2], inputs[2], scale=0.25, softcap=softcap, layer=3))
            result = bb.emit_output(out)
        bb.emit_func_output(result)
    return bb.get(), stored(arrays)


def bias_on(dim, size, head=1):
    bias = np.zeros((HEADS, DIM))
    bias[head, dim] = size
    return bias.reshape(-1)


@pytest.mark.parametrize("constant", [False, True])
def test_a_bias_on_a_pair_that_turns_counts_by_its_length(constant):
    found = biased_layers(*model(bias_on(0, 300.0), constant=constant), length=4096)
    assert list(found) == [3]
    assert found[3] == pytest.approx(30, rel=1e-3)
    assert biased_layers(*model(bias_on(0, 15.0), constant=constant), length=4096) == {}


def test_what_centring_takes_away_does_not_count():
    slow = model(bias_on(1, 300.0))
    assert biased_layers(*slow, length=4096) == {}
    assert biased_layers(*slow, length=4096, centred=False)[3] == pytest.approx(30, rel=1e-3)
    assert biased_layers(*model(bias_on(1, 300.0), softcap=5.0), length=4096)[3] == pytest.approx(30, rel=1e-3)
    # the second number of the first pair lies half a head away
    assert biased_layers(*model(bias_on(DIM // 2, 300.0)), length=4096)


def test_the_length_says_what_turns():
    module = model(bias_on(0, 300.0), first=1e-3)
    assert biased_layers(*module, length=128) == {}
    assert biased_layers(*module, length=32768)[3] == pytest.approx(30, rel=1e-2)


def test_rope_of_a_part_of_the_head():
    assert biased_layers(*model(bias_on(0, 300.0), partial=True), length=4096)
    assert biased_layers(*model(bias_on(DIM // 4, 300.0), partial=True), length=4096)
    assert biased_layers(*model(bias_on(DIM - 1, 300.0), partial=True), length=4096) == {}


def test_weights_of_four_bits():
    module, weights = model(bias_on(0, 300.0), packed=True)
    matrix = nbits.dequantize(weights["w"].numpy(), weights["scales"].numpy(), bits=4, width=HIDDEN)
    size = np.sqrt((np.square(matrix) @ np.square(GAINS)).reshape(HEADS, DIM).sum(axis=1))[1]
    assert biased_layers(module, weights, length=4096)[3] == pytest.approx(300 / size, rel=1e-3)


def test_a_norm_of_the_keys_undoes_the_bias():
    assert biased_layers(*model(bias_on(0, 300.0), normed=True), length=4096) == {}


def test_eight_bits_protect_the_keys():
    plan = {0: ("tq4", "tq2"), 1: ("fp16", "tq3"), 5: ("tq3", "tq3")}
    assert protect_keys(plan, ("tq4", "tq4"), {0: 30.0, 1: 30.0, 2: 30.0}) == {
        0: ("tq8", "tq2"),
        1: ("fp16", "tq3"),
        2: ("tq8", "tq4"),
        5: ("tq3", "tq3"),
    }


def test_an_imported_model_with_a_bias_in_one_layer(tmp_path):
    torch = pytest.importorskip("torch", reason="models are exported with the extra `export`")
    from tqc.frontend import import_model
    from tqc.models.tiny import tiny_model
    from tqc.models.trace import write_onnx

    made = tiny_model("qwen2")
    with torch.no_grad():
        made.model.layers[1].self_attn.k_proj.bias[0] = 500.0  # the first pair turns by one radian a token
    imported = import_model(write_onnx(made, tmp_path))
    assert isinstance(imported.mod, tvm.IRModule)
    assert list(biased_layers(imported.mod, imported.weights, length=4096)) == [1]
