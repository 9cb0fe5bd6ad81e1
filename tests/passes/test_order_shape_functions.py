"""Stores are sorted by slot unless one depends on another."""

import tvm
from tvm.script import tirx as T

from tqc.passes.order_shape_functions import OrderShapeFunctions


@T.prim_func(private=True, s_tir=True)
def shuffled(H: T.Buffer((T.int64(5),), "int64")):
    T.func_attr({"tirx.is_host_func": True})
    H[T.int64(4)] = T.int64(4) * H[T.int64(0)]
    H[T.int64(2)] = T.int64(7) * H[T.int64(1)]
    H[T.int64(3)] = H[T.int64(0)] * H[T.int64(1)]


@T.prim_func(private=True, s_tir=True)
def dependent(H: T.Buffer((T.int64(4),), "int64")):
    T.func_attr({"tirx.is_host_func": True})
    H[T.int64(3)] = T.int64(4) * H[T.int64(0)]
    H[T.int64(2)] = T.int64(7) * H[T.int64(3)]


def slots(func) -> list[int]:
    after = OrderShapeFunctions()(tvm.IRModule({"shape_func": func}))
    return [int(store.indices[0]) for store in after["shape_func"].body.seq]


def test_stores_are_sorted_by_slot():
    assert slots(shuffled) == [2, 3, 4]


def test_a_store_that_needs_another_stays_behind_it():
    assert slots(dependent) == [3, 2]
