"""The loops that a scheduled function has; its results are tested with the pass `schedule_cpu`."""

from __future__ import annotations

from tvm import te

from tqc.schedules.cpu_loops import schedule_loops


def loops(func):
    lines = [line.strip() for line in schedule_loops(func).script().splitlines()]
    return [line for line in lines if line.startswith(("if ", "for ", "else"))]


def test_symbolic_rows_are_parallel_if_there_are_enough():
    n = te.var("n", "int64")
    a = te.placeholder((n, 32), "float32", "A")
    func = te.create_prim_func([a, te.compute((n, 32), lambda i, j: a[i, j] * 2, "B")])
    assert loops(func) == [
        "if n * T.int64(32) >= T.int64(32768):",
        "for v in T.parallel(n):",
        "for v_1 in range(T.int64(2)):",
        "for v_2 in T.vectorized(T.int64(16)):",
        "else:",
        "for i, v in T.grid(n, T.int64(2)):",
        "for v_1 in T.vectorized(T.int64(16)):",
    ]


def test_constant_rows_need_no_test():
    a = te.placeholder((4, 48), "float32", "A")
    func = te.create_prim_func([a, te.compute((4, 48), lambda i, j: a[i, j] * 2, "B")])
    assert not any(line.startswith(("if", "for v in T.parallel")) for line in loops(func))


def test_intermediate_steps_are_merged():
    a = te.placeholder((4, 48), "float32", "A")
    b = te.compute((4, 48), lambda i, j: a[i, j] * 2, "B")
    func = te.create_prim_func([a, te.compute((4, 48), lambda i, j: b[i, j] + 1, "C")])
    assert "alloc_buffer" not in schedule_loops(func).script()


def test_a_reduction_of_another_axis_is_not_known():
    a = te.placeholder((16, 32), "float32", "A")
    r = te.reduce_axis((0, 16), "r")
    product = te.compute((32,), lambda j: te.sum(a[r, j], axis=r), "B")
    assert schedule_loops(te.create_prim_func([a, product])) is not None  # the sum's loop is innermost all the same
    both = te.reduce_axis((0, 32), "s")
    total = te.compute((1,), lambda _: te.sum(a[r, both], axis=[r, both]), "B")
    assert schedule_loops(te.create_prim_func([a, total])) is None
