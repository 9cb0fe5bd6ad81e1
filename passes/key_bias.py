"""Which layers add so large a bias to their keys that few bits cannot hold them (Qwen2 and 2.5).

A key is RoPE_t(W·x + b). Codes have an error in proportion to the whole key, so that a bias of thirty times the length
of W·x costs five bits of what tells tokens apart. Centring takes away only the part of RoPE_t(b) that does not turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir.expr import Constant

from tqc.codec import nbits
from tqc.dialect import is_op_call

LIMIT = 2.0
"""Ratio from which on a bias counts: it then costs more than a bit, log₂ √(1 + ratio²)."""

PROTECTED = "tq8"

_PASSED = frozenset("permute_dims reshape astype expand_dims squeeze".split())


@dataclass(frozen=True)
class _Key:
    """Where the keys of a layer come from: x·weight + bias, turned by `frequencies` [D] radians a token and dim."""

    product: relax.Call
    bias: relax.Expr
    frequencies: np.ndarray


def biased_layers(
    mod: tvm.IRModule,
    weights: Mapping[str, Any],
    *,
    length: int,
    centred: bool = True,
    limit: float = LIMIT,
) -> dict[int, float]:
    """Layer → ‖bias‖ against the length of W·x in its worst KV head, for layers where that is more than `limit`.

    `mod` is an imported model with `tqc.attention`, whose parameters `weights` holds. W·x is as long as it is on
    average for independent components of x of the size that the norm before gives them. If `centred`, the mean of
    RoPE_t(b) over `length` positions does not count: it is subtracted with the key mean. Layers with a softcap or sink
    logits are not centred. Keys of another form than a product and a sum, or with a norm of their own behind it, are
    not biased.
    """
    func = mod["main"]
    values = {b.var: b.value for block in func.body.blocks for b in block.bindings}
    found = {}
    for call in values.values():
        if not is_op_call(call, "attention"):
            continue
        key, (_, kv_heads, _, dim) = _key(values, call.args[1]), call.args[1].ty.shape
        if key is None:
            continue
        bias = array_of(key.bias, weights).astype(np.float64).reshape(int(kv_heads), int(dim))
        is_centred = centred and not float(call.attrs["softcap"]) and len(call.args) == 5
        stays = _mean_turn(key.frequencies, length) if is_centred else np.zeros(int(dim))
        left = np.square(bias) * (1 - np.square(stays))
        sizes = mean_squares(values, key.product, weights).reshape(int(kv_heads), int(dim)).sum(axis=1)
        ratio = float(np.sqrt(left.sum(axis=1) / np.maximum(sizes, np.finfo(np.float64).tiny)).max())
        if ratio > limit:
            found[int(call.attrs["layer"])] = ratio
    return found


def protect_keys(
    plan: Mapping[int, tuple[str, str]], default: tuple[str, str], layers: Mapping[int, float]
) -> dict[int, tuple[str, str]]:
    """`plan` with 8-bit keys in `layers`, where they are coded in fewer bits; what is exact already stays."""
    exact = ("fp16", "bf16", "fp32", PROTECTED)
    changed = {layer: plan.get(layer, default) for layer in layers}
    return {**plan, **{n: (k if k in exact else PROTECTED, v) for n, (k, v) in changed.items()}}


def _key(values: Mapping[relax.Var, relax.Expr], k: relax.Expr) -> _Key | None:
    """Goes from the keys of an attention back to the sum of a product and a bias."""
    frequencies = np.zeros(int(k.ty.shape[3]))
    while True:
        value = values.get(k)
        name = getattr(getattr(value, "op", None), "name", "")
        if name == "tqc.rope":
            frequencies, k = _of_dims(value), value.args[0]
        elif name == "relax.concat":
            parts = [_part(values, part) for part in value.args[0].fields]
            if any(part is None or not part[1].same_as(parts[0][1]) for part in parts):
                return None
            frequencies, k = np.concatenate([part[0] for part in parts]), parts[0][1]
        elif name.removeprefix("relax.") in _PASSED:
            k = value.args[0]
        elif name == "relax.add":
            biases = [i for i, side in enumerate(value.args) if side not in values and len(side.ty.shape) == 1]
            if len(biases) != 1:
                return None
            product = value.args[1 - biases[0]]
            while product in values and getattr(values[product].op, "name", "") in ("relax.astype", "relax.reshape"):
                product = values[product].args[0]
            product = values.get(product)
            if (
                is_op_call(product, "matmul_nbits")
                or getattr(getattr(product, "op", None), "name", "") == "relax.matmul"
            ):
                return _Key(product, value.args[biases[0]], frequencies)
            return None
        else:
            return None


def _part(values: Mapping[relax.Var, relax.Expr], part: relax.Expr) -> tuple[np.ndarray, relax.Expr] | None:
    """(frequencies, what it was cut from) of a part of the keys, for RoPE of some dims only."""
    frequencies, value = np.zeros(int(part.ty.shape[3])), values.get(part)
    if is_op_call(value, "rope"):
        frequencies, value = _of_dims(value), values.get(value.args[0])
    if isinstance(value, relax.TupleGetItem):
        value = values.get(value.tuple_value)
    if getattr(getattr(value, "op", None), "name", "") not in ("relax.strided_slice", "relax.split"):
        return None
    return frequencies, value.args[0]


def _of_dims(rope: relax.Call) -> np.ndarray:
    """Radians a token of every dim that a RoPE turns; infinite where they are not known, as no mean is left of it."""
    table, dim = rope.args[2], int(rope.args[0].ty.shape[3])
    if not isinstance(table, Constant):
        return np.full(dim, np.inf)
    frequencies = table.value.numpy().astype(np.float64)
    return np.repeat(frequencies, 2) if bool(rope.attrs["interleaved"]) else np.tile(frequencies, 2)


def _mean_turn(frequencies: np.ndarray, length: int) -> np.ndarray:
    """|mean of exp(iθt) over t < length|, of every frequency θ."""
    half = np.where(np.isfinite(frequencies), frequencies, np.pi) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.abs(np.sin(length * half) / (length * np.sin(half)))
    mean = np.where(np.sin(half) == 0, 1.0, mean)
    return np.where(np.isfinite(frequencies), mean, 0.0)


def mean_squares(values: Mapping[relax.Var, relax.Expr], product: relax.Call, weights: Mapping[str, Any]) -> np.ndarray:
    """Mean square of every number of x·W, for independent components of x of the size that its norm gives them."""
    x = product.args[0]
    while x in values and getattr(values[x].op, "name", "") in ("relax.astype", "relax.reshape"):
        x = values[x].args[0]
    gains = array_of(values[x].args[1], weights).astype(np.float64) if is_op_call(values.get(x), "rms_norm") else None
    if is_op_call(product, "matmul_nbits"):
        stored = [array_of(arg, weights) for arg in product.args[1:]]
        matrix = nbits.dequantize(*stored, bits=int(product.attrs["bits"]), width=int(product.attrs["k"])).T
    else:
        weight, turned = product.args[1], False
        if weight in values and getattr(values[weight].op, "name", "") == "relax.permute_dims":
            weight, turned = values[weight].args[0], True
        matrix = array_of(weight, weights)
        matrix = matrix.T if turned else matrix
    squares = np.square(matrix.astype(np.float64))
    return squares.sum(axis=0) if gains is None else np.square(gains) @ squares


def array_of(expr: relax.Expr, weights: Mapping[str, Any]) -> np.ndarray:
    """The numbers of a constant or of a parameter."""
    return expr.value.numpy() if isinstance(expr, Constant) else weights[expr.name].numpy()
