"""MatMulNBits and GatherBlockQuantized: what the expansion's weights stand for is what onnxruntime computes."""

import ml_dtypes
import numpy as np
import pytest
from nbits_weights import FORMATS, make_weight

from tqc.codec import nbits
from tqc.errors import FrontendError
from tqc.frontend.expand import EXPANDERS
from tqc.frontend.graph import Node
from tqc.frontend.weights import ArrayTensor, Weight

RNG = np.random.default_rng(0)
MATMUL, GATHER = "com.microsoft::MatMulNBits", "com.microsoft::GatherBlockQuantized"


def dense(made, names, bits, width):
    """The weight behind the names of packed, scales and zero points."""
    return nbits.dequantize(*(made.graph.weights[name].numpy() for name in names if name), bits=bits, width=width)


def product(bench, weight, x, *, bias=None, **attrs):
    n, k = weight.dense.shape
    constants = dict(weight.arrays) | ({"bias": bias} if bias is not None else {})
    names = [
        "x",
        "packed",
        "scales",
        "zero_points" if "zero_points" in constants else "",
        "",
        "bias" * ("bias" in constants),
    ]
    attrs = {"K": k, "N": n, "bits": weight.options["bits"], "block_size": weight.options["block"]} | attrs
    return bench({"x": x}, constants, MATMUL, names, **attrs)


def computed(made):
    """What the expansion of a product computes."""
    node = made.expansion.nodes[0]
    x, *weight = node.inputs
    y = made.feeds[x].astype(np.float32) @ dense(made, weight, node.attrs["bits"], node.attrs["k"]).T
    return y + made.constants["bias"] if "bias" in made.constants else y


KNOWN_TO_ORT = [form for form in FORMATS if (form["bits"], form.get("points")) != (8, "float")]


@pytest.mark.parametrize("form", KNOWN_TO_ORT)
def test_product(bench, form):
    made = product(bench, make_weight(24, 80, **form), RNG.standard_normal((2, 3, 80), np.float32))
    assert made.expand() == ["tqc::MatMulNBits"]
    (node,) = made.expansion.nodes
    assert node.attrs == {"bits": form["bits"], "block": form["block"], "k": 80, "n": 24}
    np.testing.assert_allclose(computed(made), made.original()[0], rtol=0, atol=1e-4)
    assert made.graph.types["y"] == "float32"


def test_a_last_block_that_is_not_full(bench):
    made = product(bench, make_weight(8, 50, bits=4, block=32), RNG.standard_normal((2, 50), np.float32))
    made.expand()
    np.testing.assert_allclose(computed(made), made.original()[0], rtol=0, atol=1e-4)


def test_half_precision_keeps_its_scales(bench):
    weight = make_weight(24, 64, bits=4, block=32, dtype="float16")
    made = product(bench, weight, RNG.standard_normal((2, 64)).astype(np.float16))
    made.expand()
    assert made.graph.types["y"] == "float16"
    assert made.graph.weights[made.expansion.nodes[0].inputs[2]].dtype == "float16"
    np.testing.assert_allclose(computed(made), made.original()[0], rtol=0, atol=0.05)


def test_a_bias_becomes_an_addition_and_the_accuracy_level_does_not_matter(bench):
    weight, bias = make_weight(24, 64, bits=4, block=32), RNG.standard_normal(24, np.float32)
    made = product(bench, weight, RNG.standard_normal((2, 64), np.float32), bias=bias, accuracy_level=1)
    assert made.expand() == ["tqc::MatMulNBits", "Add"]
    np.testing.assert_allclose(computed(made), made.original()[0], rtol=0, atol=1e-4)


def test_scales_and_zero_points_may_be_flat(bench):
    weight = make_weight(24, 96, bits=4, block=32, points="uint8")
    flat = {name: a if name == "packed" else a.reshape(-1) for name, a in weight.arrays.items()}
    made = product(bench, type(weight)(flat, weight.options, weight.dense), RNG.standard_normal((2, 96), np.float32))
    made.expand()
    _, *names = made.expansion.nodes[0].inputs
    np.testing.assert_array_equal(dense(made, names, 4, 96), weight.dense)


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"bits": 2}, "Unsupported block quantization"),
        ({"block_size": 512}, "Unsupported block quantization"),
        ({"N": 25}, "wrong shape"),
        ({"weight_prepacked": 1}, "laid out for one GPU"),
    ],
)
def test_what_is_not_understood_is_refused(bench, attrs, message):
    made = product(bench, make_weight(24, 64, bits=4, block=32), np.zeros((1, 64), np.float32), **attrs)
    with pytest.raises(FrontendError, match=message) as caught:
        made.expand()
    assert "composite" in caught.value.where


def test_operands_that_are_refused(bench):
    made = product(bench, make_weight(24, 64, bits=4, block=32), np.zeros((1, 64), np.float32))
    made.node.inputs[4] = "g_idx"
    with pytest.raises(FrontendError, match="g_idx"):
        made.expand()
    made.node.inputs[4], made.node.inputs[1] = "", "x"
    with pytest.raises(FrontendError, match="must be an initialiser"):
        made.expand()
    made.node.inputs[1] = "scales"
    with pytest.raises(FrontendError, match="unsupported type"):
        made.expand()


def rows(bench, arrays, ids, **attrs):
    names = ["packed", "ids", "scales", *(["zero_points"] if "zero_points" in arrays else [])]
    made = bench({"ids": ids}, arrays, GATHER, names, **attrs)
    for name in ("packed", "zero_points"):
        if (stored := arrays.get(name)) is not None and stored.dtype in (ml_dtypes.int4, ml_dtypes.uint4):
            packed = nbits.pack(stored.reshape(-1).astype(np.int8).view(np.uint8) & 15, 4)
            del made.graph.constants[name]
            made.graph.weights[name] = Weight(name, stored.shape, str(stored.dtype), ArrayTensor(packed), name)
    return made


def gathered(made):
    (node,) = made.expansion.nodes
    packed, ids, *rest = node.inputs
    return dense(made, [packed, *rest], node.attrs["bits"], node.attrs["width"])[made.feeds[ids]]


@pytest.mark.parametrize("form", [form for form in FORMATS if form.get("points") != "float"])
@pytest.mark.parametrize("width", [64, 80])
def test_rows_of_bytes(bench, form, width):
    weight = make_weight(24, width, **form)
    bits = form["bits"]
    flat = weight.arrays["packed"].reshape(24, -1)[:, : width * bits // 8]
    made = rows(
        bench, weight.arrays | {"packed": flat}, RNG.integers(0, 24, (2, 3)), bits=bits, block_size=form["block"]
    )
    assert made.expand() == ["tqc::GatherNBits"]
    assert made.expansion.nodes[0].attrs == {"bits": bits, "block": form["block"], "rows": 24, "width": width}
    np.testing.assert_allclose(gathered(made), made.original()[0], rtol=1e-6)
    assert made.graph.types["y"] == "float32"


@pytest.mark.parametrize("dtype", ["int4", "uint4"])
@pytest.mark.parametrize("points", [False, True])
@pytest.mark.parametrize("width", [32, 47])
def test_rows_of_half_bytes(bench, dtype, points, width):
    low = -8 if dtype == "int4" else 0
    blocks = -(-width // 16)
    arrays = {
        "packed": RNG.integers(low, low + 16, (5, width)).astype(dtype),
        "scales": RNG.uniform(0.5, 2, (5, blocks)).astype(np.float32),
    }
    if points:
        arrays["zero_points"] = RNG.integers(low, low + 16, (5, blocks)).astype(dtype)
    made = rows(bench, arrays, np.array([[4, 0], [3, 1]]), block_size=16)
    made.expand()
    np.testing.assert_allclose(gathered(made), made.original()[0], rtol=1e-6)


def test_an_embedding_tied_through_reshapes_is_the_vocabulary_matrix(bench):
    weight = make_weight(24, 64, bits=4, block=32)
    made = product(bench, weight, np.zeros((1, 64), np.float32))
    made.expand()
    made.graph.constants["shape"] = np.array([24, -1])
    made.expansion.keep(Node("Reshape", ["packed", "shape"], ["flat"]))
    gather = Node("GatherBlockQuantized", ["flat", "ids", "scales"], ["rows"], {"block_size": 32}, "g", "com.microsoft")
    made.expansion.begin(gather)
    EXPANDERS[gather.kind](made.expansion, gather)
    first, last = made.expansion.nodes[0], made.expansion.nodes[-1]
    assert (last.inputs[0], last.inputs[2]) == (first.inputs[1], first.inputs[2])
    assert last.attrs["width"] == 64


@pytest.mark.parametrize("attrs", [{"gather_axis": 1}, {"quantize_axis": 0}, {"block_size": 24}, {"bits": 2}])
def test_other_gathers_are_refused(bench, attrs):
    arrays = {"packed": np.zeros((4, 32), np.uint8), "scales": np.zeros((4, 2), np.float32)}
    with pytest.raises(FrontendError, match=r"supported for rows|Unsupported block"):
        rows(bench, arrays, np.array([0]), **({"block_size": 32} | attrs)).expand()
