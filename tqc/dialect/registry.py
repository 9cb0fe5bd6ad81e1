"""How a Relax op of the `tqc` dialect is declared: a name, its arguments, a type rule and a lowering."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import relax
from tvm.ir import _ffi_api


def define_op(
    name: str,
    doc: str,
    arguments: tuple[str, ...],
    infer: Callable[[relax.Call], Any],
    legalize: Callable[[relax.BlockBuilder, relax.Call], relax.Expr] | None = None,
) -> tvm.ir.Op:
    """Registers `tqc.<name>` once and returns the op.

    `infer(call)` returns the type of the result. `legalize(builder, call)` lowers the op to plain Relax; an op without
    it must be gone before TVM's own lowering, the pass `lower_to_schedules` replaces it by a kernel.
    """
    full_name = f"tqc.{name}"
    _ffi_api.RegisterOp(full_name, doc)
    op = tvm.ir.Op.get(full_name)
    op.set_num_inputs(len(arguments))
    for argument in arguments:
        op.add_argument(argument, "Expr", argument)
    tvm.ir.register_op_attr(full_name, "FInferType", lambda call, _context: infer(call))
    tvm.ir.register_op_attr(full_name, "FPurity", True)
    if legalize is not None:
        tvm.ir.register_op_attr(full_name, "FLegalize", legalize)
    return op


def make_call(op: tvm.ir.Op, arguments: list[relax.Expr], **attrs: Any) -> relax.Call:
    """A call of `op` whose options are printed with the IR."""
    return relax.Call(op, arguments, tvm.ir.make_node("ir.DictAttrs", **attrs))


def is_op_call(expr: Any, name: str) -> bool:
    """Whether `expr` is a call of the dialect op `tqc.<name>`."""
    return isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op) and expr.op.name == f"tqc.{name}"


def tensor_type(expr: relax.Expr, argument: str, rank: int | None = None) -> relax.TensorType:
    """The tensor type of an argument; TypeError if it has no static rank or another one."""
    found = expr.ty
    if not isinstance(found, relax.TensorType) or found.shape is None:
        raise TypeError(f"{argument} must be a tensor of known shape, found {found}")
    if rank is not None and len(found.shape) != rank:
        raise TypeError(f"{argument} must have rank {rank}, found shape {found.shape}")
    return found


def dtype_of(ty: relax.TensorType) -> str:
    """The element type as text, such as `float32`."""
    dtype = ty.dtype
    return str(getattr(dtype, "dtype", dtype))


def cast(bb: relax.BlockBuilder, x: relax.Expr, dtype: str) -> relax.Expr:
    """x in `dtype`; no operation if it already is (TVM keeps a cast of float32 to float32 as a copy)."""
    return x if dtype_of(x.ty) == dtype else bb.emit(relax.op.astype(x, dtype))
