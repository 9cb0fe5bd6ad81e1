"""Ways in which an ONNX file can be damaged, each drawn from a random generator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

Change = Callable[[onnx.ModelProto, np.random.Generator], None]


def _pick(random: np.random.Generator, items):
    return items[int(random.integers(len(items)))]


def _node(model, random, *ops: str) -> onnx.NodeProto:
    found = [node for node in model.graph.node if not ops or node.op_type in ops]
    return _pick(random, found or list(model.graph.node))


def _delete_node(model, random):
    del model.graph.node[int(random.integers(len(model.graph.node)))]


def _duplicate_node(model, random):
    model.graph.node.add().CopyFrom(_node(model, random))


def _shuffle_nodes(model, random):
    nodes = list(model.graph.node)
    order = random.permutation(len(nodes))
    del model.graph.node[:]
    model.graph.node.extend(nodes[i] for i in order)


def _attribute(model, random):
    having = [a for node in model.graph.node for a in node.attribute]
    attribute = _pick(random, having)
    if attribute.type == AttributeProto.INT:
        attribute.i = int(_pick(random, [attribute.i + 1, -attribute.i, 0, -1, 1 << 40]))
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = float(_pick(random, [attribute.f * 2, -attribute.f, 0.0, np.nan, np.inf]))
    elif attribute.type == AttributeProto.INTS and attribute.ints:
        attribute.ints[int(random.integers(len(attribute.ints)))] = int(_pick(random, [-1, 0, 1, 7, 1 << 40]))
    elif attribute.type == AttributeProto.TENSOR:
        _tensor(attribute.t, random)
    elif attribute.type == AttributeProto.STRING:
        attribute.s = bytes(_pick(random, [b"", b"\xff", b"other"]))


def _tensor(tensor, random):
    try:
        array = np.array(numpy_helper.to_array(tensor))
    except Exception:
        return
    if not array.size:
        return
    flat = array.reshape(-1)
    values = [0, 1, -1, 2] if array.dtype.kind in "iu" else [np.nan, np.inf, 0.0, -2.0]
    with np.errstate(all="ignore"):
        flat[int(random.integers(flat.size))] = np.array(_pick(random, values)).astype(array.dtype)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _value_of_a_tensor(model, random):
    """Small tensors: sizes, indices, scales, weights of norms."""
    inline = [t for t in model.graph.initializer if t.data_location != TensorProto.EXTERNAL and np.prod(t.dims) < 5000]
    constants = [node.attribute[0].t for node in model.graph.node if node.op_type == "Constant" and node.attribute]
    if inline or constants:
        _tensor(_pick(random, inline + constants), random)


def _dims_of_a_tensor(model, random):
    tensor = _pick(random, list(model.graph.initializer))
    if tensor.dims:
        tensor.dims[int(random.integers(len(tensor.dims)))] = int(_pick(random, [0, 1, -1, 3, 1 << 31, 1 << 62]))


def _transposed_dims(model, random):
    matrices = [t for t in model.graph.initializer if len(t.dims) == 2]
    if matrices:
        tensor = _pick(random, matrices)
        tensor.dims[:] = list(tensor.dims)[::-1]


def _type_of_a_tensor(model, random):
    _pick(random, list(model.graph.initializer)).data_type = int(_pick(random, [0, 1, 2, 6, 7, 10, 11, 16, 99]))


def _swap_tensors(model, random):
    """Two initialisers trade names."""
    a, b = (_pick(random, list(model.graph.initializer)) for _ in range(2))
    a.name, b.name = b.name, a.name


def _opset(model, random):
    _pick(random, list(model.opset_import)).version = int(_pick(random, [0, 1, 11, 13, 14, 17, 18, 21, 26, 99]))


def _operation(model, random):
    swaps = ["Add", "Sub", "Mul", "Div", "Sin", "Cos", "Neg", "Tanh", "Softmax", "Identity", "Nonsense", "Relu", "Max"]
    _node(model, random).op_type = str(_pick(random, swaps))


def _domain(model, random):
    _node(model, random).domain = str(_pick(random, ["com.microsoft", "tqc", "nowhere"]))


def _rename_input(model, random):
    values = [*model.graph.input, *model.graph.output]
    _pick(random, values).name = str(
        _pick(random, ["", "input_ids", "past_key_values.9.key", "present.0.key", "thing"])
    )


def _swap_inputs(model, random):
    """Two graph inputs trade names: their readers now get the other."""
    a, b = (_pick(random, list(model.graph.input)) for _ in range(2))
    a.name, b.name = b.name, a.name


def _swap_outputs(model, random):
    a, b = (_pick(random, list(model.graph.output)) for _ in range(2))
    a.name, b.name = b.name, a.name


def _input_dims(model, random):
    dims = _pick(random, list(model.graph.input)).type.tensor_type.shape.dim
    if dims:
        dim = _pick(random, list(dims))
        if random.random() < 0.5:
            dim.dim_value = int(_pick(random, [0, 1, 2, 3, 16, 48, 1 << 40]))
        else:
            dim.dim_param = str(_pick(random, ["", "x", "batch"]))


def _input_type(model, random):
    kinds = [0, 1, 6, 7, 9, 10, 16]
    _pick(random, list(model.graph.input)).type.tensor_type.elem_type = int(_pick(random, kinds))


def _edge(model, random):
    """An operand becomes another tensor."""
    node = _node(model, random)
    names = [t for n in model.graph.node for t in n.output] + [t.name for t in model.graph.initializer]
    if node.input:
        node.input[int(random.integers(len(node.input)))] = str(_pick(random, names))


def _swap_operands(model, random):
    node = _node(model, random, "Sub", "Div", "MatMul", "Concat", "Where", "Pow", "Gather", "Range", "Less", "Greater")
    if len(node.input) > 1:
        node.input[0], node.input[1] = node.input[1], node.input[0]


def _cycle(model, random):
    first, second = (_node(model, random) for _ in range(2))
    if first.input and second.output:
        first.input[0] = second.output[0]
        if second.input:
            second.input[0] = first.output[0]


def _empty_name(model, random):
    node = _node(model, random)
    names = node.input if random.random() < 0.5 and node.input else node.output
    names[int(random.integers(len(names)))] = ""


def _surplus_operand(model, random):
    node = _node(model, random)
    node.input.extend([node.input[0]] * int(random.integers(1, 9)) if node.input else ["nothing"])


def _fewer_operands(model, random):
    node = _node(model, random)
    del node.input[int(random.integers(len(node.input) or 1)) :]


def _duplicate_output(model, random):
    first, second = (_node(model, random) for _ in range(2))
    first.output[0] = second.output[0]


def _drop_output(model, random):
    del model.graph.output[int(random.integers(len(model.graph.output)))]


def _duplicate_graph_output(model, random):
    model.graph.output.add().CopyFrom(_pick(random, list(model.graph.output)))


def _drop_input(model, random):
    del model.graph.input[int(random.integers(len(model.graph.input)))]


def _external(model, random):
    """Data said to lie elsewhere: another place of the file, another file, outside the folder."""
    outside = [t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    if not outside:
        tensor = _pick(random, list(model.graph.initializer))
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=str(_pick(random, ["model.onnx", "../model.onnx", "", "x"])))
        return
    entry = _pick(random, list(_pick(random, outside).external_data))
    entry.value = str(_pick(random, ["0", "-4", "12", str(1 << 50), "x", "../model.onnx.data", "", "model.onnx"]))


def _constant_scale(model, random):
    """A node multiplies the logits or a layer by NaN or by two."""
    node = _node(model, random, "MatMul", "Softmax", "Add", "Mul")
    fresh = f"{node.output[0]}/scaled"
    value = np.float32(_pick(random, [np.nan, 2.0, -1.0]))
    model.graph.initializer.append(numpy_helper.from_array(value, "corrupt"))
    name, node.output[0] = node.output[0], fresh
    model.graph.node.insert(list(model.graph.node).index(node) + 1, helper.make_node("Mul", [fresh, "corrupt"], [name]))


CHANGES: dict[str, Change] = {
    change.__name__.strip("_"): change
    for change in (
        *(_delete_node, _duplicate_node, _shuffle_nodes, _attribute, _value_of_a_tensor, _dims_of_a_tensor),
        *(_transposed_dims, _type_of_a_tensor, _swap_tensors, _opset, _operation, _domain, _rename_input),
        *(_swap_inputs, _swap_outputs, _input_dims, _input_type, _edge, _swap_operands, _cycle, _empty_name),
        *(_surplus_operand, _fewer_operands, _duplicate_output, _drop_output, _duplicate_graph_output, _drop_input),
        *(_external, _constant_scale),
    )
}
BYTES = ("flip", "truncate", "insert")
KINDS = (*BYTES, *CHANGES)


def _corrupt_bytes(kind: str, data: bytes, random: np.random.Generator) -> bytes:
    at = int(random.integers(len(data)))
    if kind == "truncate":
        return data[:at]
    if kind == "insert":
        return data[:at] + random.bytes(int(random.integers(1, 9))) + data[at:]
    damaged = bytearray(data)
    for place in random.integers(0, len(data), int(random.integers(1, 5))):
        damaged[place] ^= 1 << int(random.integers(8))
    return bytes(damaged)


def corrupt(source: Path, target: Path, kind: str, seed: int) -> None:
    """Writes a damaged copy of `source`, whose external data must lie beside `target` already."""
    random = np.random.default_rng(seed)
    if kind in BYTES:
        target.write_bytes(_corrupt_bytes(kind, source.read_bytes(), random))
        return
    model = onnx.load(str(source), load_external_data=False)
    CHANGES[kind](model, random)
    target.write_bytes(model.SerializeToString())
