"""Shape functions compute their sizes in the order of the slots, so that the same model gives the same library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm import tirx

from .base import ModulePass


@dataclass(frozen=True)
class OrderShapeFunctions(ModulePass):
    """Sorts the stores of every function that `VMShapeLower` made by the slot they write.

    TVM walks a hash map of pointers there: the order changes from process to process. A function in which a store
    reads a slot that another one writes is left as it is.
    """

    name: ClassVar[str] = "order-shape-functions"

    def apply(self, mod: tvm.IRModule) -> tvm.IRModule:
        out = tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs)
        for gv, func in mod.functions_items():
            if isinstance(func, tirx.PrimFunc) and "tirx.is_host_func" in (func.attrs or {}):
                out[gv] = _sorted(func)
        return out


def _sorted(func: tirx.PrimFunc) -> tirx.PrimFunc:
    if not isinstance(func.body, tirx.SeqStmt):
        return func
    stores = list(func.body.seq)
    if not all(isinstance(store, tirx.BufferStore) and _slot(store.indices) is not None for store in stores):
        return func
    written = {_slot(store.indices) for store in stores}
    read = set().union(*(_slots_read(store.value) for store in stores))
    if None in read or read & written:
        return func
    stores.sort(key=lambda store: _slot(store.indices))
    return func.with_body(tirx.SeqStmt(stores))


def _slots_read(value: tirx.Expr) -> set[int | None]:
    """Slots that an arithmetic expression loads; None stands for something that is not understood."""
    if isinstance(value, tvm.ir.TensorLoad):
        return {_slot(value.indices)}
    if isinstance(value, tirx.IntImm):
        return set()
    if hasattr(value, "a") and hasattr(value, "b"):
        return _slots_read(value.a) | _slots_read(value.b)
    return {None}


def _slot(indices: list) -> int | None:
    return int(indices[0]) if len(indices) == 1 and isinstance(indices[0], tirx.IntImm) else None
