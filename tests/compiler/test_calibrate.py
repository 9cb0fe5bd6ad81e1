"""Key means of a model whose keys are known."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from tqc.compiler.calibrate import MAX_SKIP, MAX_TOKENS, built_in_text, measure_key_means
from tqc.compiler.pieces import cut
from tqc.errors import FrontendError
from tqc.frontend.build import build
from tqc.frontend.interface import bind
from tqc.frontend.load import load

WORDS = ("a", "b", "c", "d", "e")
KEYS = np.random.default_rng(0).standard_normal((len(WORDS), 32)).astype("float32")


@pytest.fixture
def model(tmp_path):
    """A model of one layer with 2 KV heads of 16: the key of a token is a row of a table, whatever its position."""
    _write(tmp_path / "model.onnx", KEYS)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "model.onnx"


def _write(path, keys, past="past_key_values.0.key", present="present.0.key"):
    tensors = [numpy_helper.from_array(keys, "table"), numpy_helper.from_array(np.array([0, -1, 2, 16]), "split")]
    past_value, present_value = (_value_of(name) for name in (past, present))
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Reshape", ["rows", "split"], ["heads"]),
        helper.make_node("Transpose", ["heads"], ["fresh"], perm=[0, 2, 1, 3]),
        helper.make_node("Concat", [past, "fresh"], [present], axis=2),
        helper.make_node("Concat", [past_value, "fresh"], [present_value], axis=2),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "keys",
        [
            value("input_ids", TensorProto.INT64, ["batch", "seq"]),
            *(value(name, TensorProto.FLOAT, ["batch", 2, "past", 16]) for name in (past, past_value)),
        ],
        [
            value("rows", TensorProto.FLOAT, ["batch", "seq", 32]),
            *(value(name, TensorProto.FLOAT, ["batch", 2, "total", 16]) for name in (present, present_value)),
        ],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def _value_of(name):
    """The name of the values' tensor beside that of the keys': only the last `key` is replaced."""
    return "value".join(name.rsplit("key", 1))


def measure(model, text, **options):
    return measure_key_means(model, bind(build(load(model))), text, **options)


def test_the_mean_leaves_out_the_first_tokens(model):
    result = measure(model, "a b c d d e", skip=2)
    truth = KEYS[[2, 3, 3, 4]].reshape(4, 2, 16).mean(0)
    assert list(result.means) == [0]
    assert result.tokens == 4
    np.testing.assert_allclose(result.means[0], truth, atol=1e-6)


@pytest.mark.parametrize("names", [("past_0_key", "present_0_key"), ("past_key_0", "present_key_0")])
def test_the_cache_may_have_any_name_the_frontend_takes(model, names):
    expected = measure(model, "a b c d d e", skip=2).means[0]
    _write(model, KEYS, *names)
    np.testing.assert_array_equal(measure(model, "a b c d d e", skip=2).means[0], expected)


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 0), ("fp16", 2e-3)])
def test_the_result_does_not_depend_on_the_pieces(tiny_onnx, dtype, tolerance):
    path = tiny_onnx(arch="llama", dtype=dtype)
    whole = measure(path, built_in_text(), skip=4).means
    interface, wanted = bind(build(load(path))), ["present.0.key", "present.1.key"]
    assert len(cut(load(path), wanted, 1)) >= 10 > len(cut(load(path), wanted)) == 1
    pieces = measure_key_means(path, interface, built_in_text(), skip=4, limit=1).means
    for layer in range(2):
        np.testing.assert_allclose(pieces[layer], whole[layer], rtol=0, atol=tolerance)


def test_a_long_text_is_cut(model):
    assert measure(model, "b " * 2000, skip=4).tokens == MAX_TOKENS - 4


def test_many_sinks_leave_enough_of_the_text(model):
    assert measure(model, "b " * 2000, skip=MAX_TOKENS).tokens == MAX_TOKENS - MAX_SKIP


def test_without_a_tokenizer_there_is_nothing_to_measure(model):
    (model.parent / "tokenizer.json").unlink()
    assert measure(model, "a b c", skip=0) is None


def test_reject_a_short_text(model):
    with pytest.raises(FrontendError, match="too short"):
        measure(model, "a b c", skip=4)


def test_reject_a_damaged_tokenizer(model):
    (model.parent / "tokenizer.json").write_text('{"version": "1.0", ')
    with pytest.raises(FrontendError, match="tokenizer is not understood"):
        measure(model, "a b c", skip=0)


def test_reject_the_tokenizer_of_another_model(model):
    Tokenizer(models.WordLevel({"a": 99}, unk_token="a")).save(str(model.parent / "tokenizer.json"))
    with pytest.raises(FrontendError, match="belongs to this model"):
        measure(model, "a", skip=-1)


def test_reject_keys_that_are_not_finite(model):
    broken = KEYS.copy()
    broken[1, 20] = np.nan
    _write(model, broken)
    with pytest.raises(FrontendError, match="not finite"):
        measure(model, "a b c d", skip=0)


def test_the_built_in_text_is_long_enough():
    assert len(built_in_text().split()) > MAX_TOKENS
