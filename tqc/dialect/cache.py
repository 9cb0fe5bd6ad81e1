"""`tqc.cache_append` and `tqc.cached_attention`: the paged cache of one layer in the IR.

Both carry the layer's `CacheLayout` as attributes. The state is a tuple of the layout's tensors, in its order; the pass
`lower_to_schedules` writes it in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields

from tvm import relax

from tqc.codec.layout import CacheLayout

from .attention import check_sinks
from .registry import define_op, dtype_of, make_call, tensor_type

_LAYOUT_FIELDS = tuple(field.name for field in fields(CacheLayout))


def layout_of(call: relax.Call) -> CacheLayout:
    """The layout that a `cache_append` or `cached_attention` carries."""
    values = {name: call.attrs[name] for name in _LAYOUT_FIELDS}
    return CacheLayout(**{name: str(v) if isinstance(v, str) else int(v) for name, v in values.items()})


def with_layout(call: relax.Call, layout: CacheLayout, arguments: list[relax.Expr]) -> relax.Call:
    """The same op and options on other arguments and another layout."""
    attrs = {str(key): call.attrs[key] for key in call.attrs.keys()}
    return make_call(call.op, arguments, **(attrs | asdict(layout)))


TURNED_INPUTS = {"tqc.cache_append": ("k", "v"), "tqc.cached_attention": ("q",)}
"""The first operands of the ops, which their kernels may rotate themselves."""


def with_turns(call: relax.Call, arguments: list[relax.Expr], turns: Mapping[str, relax.Call]) -> relax.Call:
    """The same op, which rotates the operands in `turns` itself, or, for `y`, rotates its result back."""
    attrs = {str(key): call.attrs[key] for key in call.attrs.keys()}
    for side, rotation in turns.items():
        attrs[f"turn_{side}"], attrs[f"seed_{side}"] = int(rotation.attrs["rounds"]), int(rotation.attrs["seed"])
    return make_call(call.op, arguments, **attrs)


def turns_of(call: relax.Call) -> dict[str, tuple[int, int]]:
    """(seed, rounds) of every operand, or result, that the op rotates itself."""
    sides = (*TURNED_INPUTS[call.op.name], "y")
    keys = set(map(str, call.attrs.keys()))
    return {
        side: (int(call.attrs[f"seed_{side}"]), int(call.attrs[f"turn_{side}"]))
        for side in sides
        if f"turn_{side}" in keys
    }


def sink_logits_of(call: relax.Call) -> relax.Expr | None:
    """The sink logits of a `cached_attention`, if it has any; the layout's `sinks` are tokens and something else."""
    return call.args[6] if len(call.args) > 6 else None


def _infer_append(call: relax.Call) -> relax.TupleType:
    tensor_type(call.args[0], "k", 4)
    return call.args[5].ty


def _infer_attention(call: relax.Call) -> relax.TensorType:
    q, layout = tensor_type(call.args[0], "q", 4), layout_of(call)
    *rows, dim = q.shape
    if int(dim) != layout.form("k").rows:
        raise TypeError(f"q of {layout.k} keys must have {layout.form('k').rows} numbers a head, found {dim}")
    if (logits := sink_logits_of(call)) is not None:
        check_sinks(logits, q)
    return relax.TensorType((*rows, layout.form("v").rows), dtype_of(q))


APPEND = define_op(
    "cache_append",
    "Writes a chunk's keys and values into the cache: sinks, tail, and the pages that become due.",
    ("k", "v", "length", "new_len", "page_table", "state"),
    _infer_append,
)

CACHED_ATTENTION = define_op(
    "cached_attention",
    "Attention of q over sinks, compressed pages and tail and, in prefill, the chunk's own exact keys and values.",
    ("q", "fresh", "length", "new_len", "page_table", "state", "sink_logits"),
    _infer_attention,
)


def cache_append(
    k: relax.Expr,
    v: relax.Expr,
    length: relax.Expr,
    new_len: relax.Expr,
    page_table: relax.Expr,
    state: relax.Expr,
    *,
    layout: CacheLayout,
    layer: int,
) -> relax.Call:
    """Appends `new_len[b]` tokens of k and v [B, Hk, S, D] behind `length[b]`; returns the state tuple."""
    return make_call(APPEND, [k, v, length, new_len, page_table, state], layer=int(layer), **asdict(layout))


def cached_attention(
    q: relax.Expr,
    fresh: tuple[relax.Expr, relax.Expr] | None,
    length: relax.Expr,
    new_len: relax.Expr,
    page_table: relax.Expr,
    state: relax.Expr,
    sink_logits: relax.Expr | None = None,
    *,
    layout: CacheLayout,
    scale: float,
    softcap: float,
    window: int,
    layer: int,
) -> relax.Call:
    """q over the cache; `fresh` is the chunk's (k, v) [B, Hk, S, D] in prefill, None in decode (already appended).

    q is [B, H, S, rows of the keys' form], the result [B, H, S, rows of the values' form]: head_dim, and behind it what
    a scheme with a sketch adds (`tqc.sketch`).
    `sink_logits` [H] float32 are the `sinks` of `tqc.attention`.
    """
    operands = [q, relax.Tuple(list(fresh or ())), length, new_len, page_table, state]
    return make_call(
        CACHED_ATTENTION,
        operands if sink_logits is None else [*operands, sink_logits],
        scale=float(scale),
        softcap=float(softcap),
        window=int(window),
        layer=int(layer),
        **asdict(layout),
    )
