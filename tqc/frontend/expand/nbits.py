"""MatMulNBits and GatherBlockQuantized: the weight stays as it is stored, in 4 or 8 bits.

Source: onnxruntime, docs/ContribOperators.md. Both become nodes over one form of the weight (`tqc.codec.nbits`), so
that a tied embedding and its vocabulary matrix are the same tensor.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from tqc.codec import nbits
from tqc.frontend.graph import Node
from tqc.frontend.load import HALF_BYTES
from tqc.frontend.nbits_weights import CutBlocks, SplitRows
from tqc.frontend.weights import ArrayTensor, Reshape, Weight

from .context import Expansion

_FLOATS = ("float32", "float16", "bfloat16")


def matmul_nbits(e: Expansion, node: Node) -> None:
    """com.microsoft::MatMulNBits → tqc::MatMulNBits and, with a bias, an Add."""
    x, packed, scales, points, group_index, bias = (node.inputs + [""] * 6)[:6]
    if group_index:
        e.refuse("MatMulNBits with g_idx is not supported.", found=f"g_idx {group_index}")
    if node.attrs.get("weight_prepacked"):
        e.refuse("MatMulNBits with a weight laid out for one GPU is not supported.", expected="weight_prepacked 0")
    n, k = int(node.attrs["N"]), int(node.attrs["K"])
    bits, block = _format(e, node)
    blocks = -(-k // block)
    operands = [
        _part(e, packed, ("uint8",), (n, blocks, block * bits // 8)),
        _part(e, scales, _FLOATS, (n, blocks)),
    ]
    if points:
        is_packed = _stored(e, points, ("uint8", *_FLOATS)).dtype == "uint8"
        operands.append(_part(e, points, (), (n, -(-blocks * bits // 8) if is_packed else blocks)))
    attrs = {"bits": bits, "block": block, "k": k, "n": n}
    output = None if bias else node.outputs[0]
    y = e.add("MatMulNBits", [x, *operands], attrs=attrs, domain="tqc", output=output)
    if bias:
        e.add("Add", [y, bias], output=node.outputs[0])


def gather_block_quantized(e: Expansion, node: Node) -> None:
    """com.microsoft::GatherBlockQuantized of rows that are quantized along themselves → tqc::GatherNBits."""
    data, indices, scales, points = (node.inputs + [""] * 4)[:4]
    stored = _stored(e, data, ("uint8", "int4", "uint4"))
    if stored.dtype != "uint8" and node.attrs.get("bits", 4) != 4:
        e.refuse("The element type and the attribute bits differ.", found=f"{stored.dtype}, {node.attrs['bits']} bits")
    bits, block = _format(e, node, block=128)
    shape = _shape(e, data)
    axes = [node.attrs.get(name, default) for name, default in (("gather_axis", 0), ("quantize_axis", 1))]
    if len(shape) != 2 or [axis % 2 for axis in axes] != [0, 1]:
        e.refuse(
            "GatherBlockQuantized is supported for rows of a matrix only.",
            expected="rank 2, gather_axis 0, quantize_axis 1",
            found=f"rank {len(shape)}, gather_axis {axes[0]}, quantize_axis {axes[1]}",
        )
    rows, width = shape[0], shape[1] * 8 // bits if stored.dtype == "uint8" else shape[1]
    blocks, size = -(-width // block), block * bits // 8
    packed = _whole_rows(stored, rows, width)
    if packed.shape != (rows, blocks, size):  # the weight of a product has this shape already
        cut, packed = CutBlocks(size), _as(e, packed, (rows, packed.nbytes // rows))
        packed = packed.then(cut, shape=cut.shape(packed.shape))
    operands = [_put(e, packed), indices, _part(e, scales, _FLOATS, (rows, blocks))]
    shape = (rows, -(-blocks * bits // 8))
    if points:
        zero = _whole_rows(_stored(e, points, (stored.dtype,)), rows, blocks)
        operands.append(_put(e, _as(e, zero, shape)))
    elif stored.dtype == "uint4":  # whose zero point is 0 where none is given, not the middle of the range
        zero = Weight(f"{stored.name}/zero", shape, "uint8", ArrayTensor(np.zeros(shape, np.uint8)), stored.name)
        operands.append(_put(e, zero))
    attrs = {"bits": bits, "block": block, "rows": rows, "width": width}
    dtype = e.graph.types[operands[2]].replace("bfloat16", "float32")  # the type it is computed in
    e.add("GatherNBits", operands, attrs=attrs, domain="tqc", dtype=dtype, output=node.outputs[0])


def _format(e: Expansion, node: Node, block: int = 0) -> tuple[int, int]:
    bits, block = int(node.attrs.get("bits", 4)), int(node.attrs.get("block_size", block))
    if bits not in nbits.BITS or block not in nbits.BLOCKS:
        e.refuse(
            "Unsupported block quantization.",
            expected=f"bits of {nbits.BITS}, block_size of {nbits.BLOCKS}",
            found=f"{bits} bits in blocks of {block}",
        )
    return bits, block


def _source(e: Expansion, tensor: str) -> str:
    """The stored tensor behind reshapes, as model builders put them between a vocabulary matrix and its embedding."""
    while (node := e.graph.producer.get(tensor)) and node.kind in ("Reshape", "Identity"):
        tensor = node.inputs[0]
    return tensor


def _shape(e: Expansion, tensor: str) -> tuple[int, ...]:
    """The shape of a stored tensor, or of a Reshape of it."""
    node = e.graph.producer.get(tensor)
    source = _stored(e, tensor)
    if node is None or node.kind != "Reshape":
        return source.shape if node is None else _shape(e, node.inputs[0])
    target = e.value(node.inputs[1])
    if target is None:
        e.refuse("A weight is reshaped to a shape that is not constant.", found=tensor)
    before, size = _shape(e, node.inputs[0]), math.prod(source.shape)
    found = [before[i] if extent == 0 else int(extent) for i, extent in enumerate(target)]
    known = math.prod(extent for extent in found if extent != -1)
    return tuple(size // max(known, 1) if extent == -1 else extent for extent in found)


def _stored(e: Expansion, tensor: str, dtypes: tuple[str, ...] = ()) -> Weight:
    """The weight or constant behind `tensor`. Raises FrontendError if it is neither or of another type."""
    name = _source(e, tensor)
    weight = e.weight(name)
    if weight is None:
        array = e.value(name)
        if array is None:
            e.refuse("A quantized weight must be an initialiser.", found=tensor)
        weight = Weight(name, array.shape, str(array.dtype), ArrayTensor(array), name)
    if dtypes and weight.dtype not in dtypes:
        expected, found = ", ".join(dtypes), f"{weight.dtype} of {tensor}"
        e.refuse("A part of a quantized weight has an unsupported type.", expected=expected, found=found)
    return weight


def _whole_rows(weight: Weight, rows: int, width: int) -> Weight:
    """Half bytes as unsigned ones, every row in bytes of its own; other weights as they are."""
    if weight.dtype not in HALF_BYTES.values():
        return weight
    split = SplitRows(rows, width, weight.dtype == "int4")
    return weight.then(split, shape=(rows, -(-width // 2)), dtype="uint8")


def _as(e: Expansion, weight: Weight, shape: tuple[int, ...]) -> Weight:
    """`weight` in `shape`. Raises FrontendError if it has another size."""
    if weight.shape == shape:
        return weight
    if math.prod(weight.shape) != math.prod(shape):
        e.refuse(
            "A part of a quantized weight has the wrong shape.",
            expected=str(list(shape)),
            found=f"{weight.source_name} {list(weight.shape)}",
        )
    return weight.then(Reshape(shape), shape=shape)


def _part(e: Expansion, tensor: str, dtypes: tuple[str, ...], shape: tuple[int, ...]) -> str:
    """The name of a weight of the graph that is `tensor` in `shape`."""
    return _put(e, _as(e, _stored(e, tensor, dtypes), shape))


def _put(e: Expansion, weight: Weight) -> str:
    """Adds a weight to the graph, under a name of its own unless it is one of the graph's already."""
    if e.weight(weight.name) is not weight:
        weight = replace(weight, name=f"{weight.name}/{'x'.join(map(str, weight.shape))}")
        e.graph.weights[weight.name] = weight
        e.graph.types[weight.name] = weight.dtype
    return weight.name


EXPANDERS = {
    "com.microsoft::MatMulNBits": matmul_nbits,
    "com.microsoft::GatherBlockQuantized": gather_block_quantized,
}
