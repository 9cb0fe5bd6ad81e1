"""A CPU schedule for what TVM's own lowering leaves: element-wise functions and reductions of the last axis."""

from __future__ import annotations

import math
from functools import reduce
from operator import mul

from tvm import s_tir, tirx
from tvm.ir import Call, Expr, TensorLoad
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from .cpu_math import VECTORISED
from .cpu_rows import LANES, PARALLEL_ELEMENTS, at, scratch, total

_REDUCTION = 2  # IterVar.CommReduce
_COMBINE = {tirx.Add: lambda a, b: a + b, tirx.Max: tirx.max, tirx.Min: tirx.min}
_BINARY = (
    *(tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Mod, tirx.FloorDiv, tirx.FloorMod, tirx.Min, tirx.Max),
    *(tirx.EQ, tirx.NE, tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.And, tirx.Or),
)
_BRANCHES = "if_then_else"


class _NotOurs(Exception):
    """The function has a form this schedule does not know."""


def schedule_loops(func: tirx.PrimFunc) -> tirx.PrimFunc | None:
    """`func` with vector inner loops, and with parallel outer loops where the tensors turn out large enough.

    Sums may be added in another order, exp, sigmoid and tanh are computed by `cpu_math`; all else is unchanged.
    None if the function has another form than nests of loops around one store.
    """
    try:
        return _Emitter(_inlined(func)).run()
    except _NotOurs:
        return None


def _inlined(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Element-wise steps merged into their readers, except those that start from a reduction: once a row is enough."""
    schedule = s_tir.Schedule(func)
    try:
        blocks = schedule.get_child_blocks(schedule.get_sblock("root"))
    except s_tir.ScheduleError as error:
        raise _NotOurs from error
    reduced: set[tirx.Buffer] = set()
    for handle in blocks:
        block = schedule.get(handle)
        is_reduction = any(var.iter_type == _REDUCTION for var in block.iter_vars)
        if is_reduction or any(region.source in reduced for region in block.reads):
            reduced.update(region.source for region in block.writes)
            continue
        try:
            schedule.compute_inline(handle)
        except s_tir.ScheduleError:
            continue  # it writes a result, which has to stay
    return schedule.mod["main"]


class _Emitter:
    """Writes a function anew, nest by nest."""

    def __init__(self, func: tirx.PrimFunc) -> None:
        self.func = func
        self.root = func.body.block
        self.buffers: dict[tirx.Buffer, tirx.Buffer] = {}

    def run(self) -> tirx.PrimFunc:
        attrs = dict(self.func.attrs or {})
        nests = list(self.root.body) if isinstance(self.root.body, tirx.SeqStmt) else [self.root.body]
        plans = [_Nest(stmt) for stmt in nests]
        with IRBuilder() as builder, T.prim_func(s_tir=True, private="global_symbol" not in attrs):
            T.func_attr({**attrs, "tirx.is_scheduled": True})
            for param in self.func.params:
                T.arg(param.name, param)
            for old in self.root.alloc_buffers:
                new = T.sblock_alloc_buffer(list(old.shape), str(old.dtype))
                self.buffers[old] = IRBuilder.name(old.name, new)
            with T.sblock("loops"):  # TVM's analyses want a block, whatever it holds
                T.reads()
                T.writes()
                for plan in plans:
                    self._nest(plan)
        return builder.get()

    def _nest(self, nest: _Nest) -> None:
        """The nest twice, on all threads and on one, if only the run can tell how many elements there are."""
        extents = [extent for _, extent in nest.loops]
        elements = reduce(mul, extents, tirx.const(1, "int64"))
        rows = nest.loops[: -1 if nest.width else None]
        if isinstance(elements, tirx.IntImm):
            self._rows(nest, rows, parallel=bool(rows) and int(elements) >= PARALLEL_ELEMENTS)
            return
        with T.If(elements >= PARALLEL_ELEMENTS):
            with T.Then():
                self._rows(nest, rows, parallel=bool(rows))
            with T.Else():
                self._rows(nest, rows, parallel=False)

    def _rows(self, nest: _Nest, rows: list, *, parallel: bool) -> None:
        values: dict[tirx.Var, Expr] = {}
        if parallel:
            with T.parallel(tirx.const(0, "int64"), reduce(mul, [extent for _, extent in rows])) as row:
                rest = row
                for var, extent in reversed(rows[1:]):
                    values[var] = IRBuilder.name(var.name, T.Bind(rest % extent))
                    rest = rest // extent
                values[rows[0][0]] = rest
                self._inner(nest, values)
            return

        def loop(depth: int) -> None:
            if depth == len(rows):
                self._inner(nest, values)
                return
            var, extent = rows[depth]
            with T.serial(tirx.const(0, extent.ty.dtype), extent) as index:
                values[var] = IRBuilder.name(var.name, index)
                loop(depth + 1)

        loop(0)

    def _inner(self, nest: _Nest, rows: dict[tirx.Var, Expr]) -> None:
        if nest.operator is not None:
            self._reduce(nest, rows)
            return
        if not nest.width:
            self._store(nest, rows)
            return
        var, _ = nest.loops[-1]
        lanes = 1 if nest.branches else math.gcd(nest.width, LANES)
        with T.serial(_i64(0), _i64(nest.width // lanes)) as chunk:
            if lanes == 1:
                self._store(nest, {**rows, var: chunk})
                return
            with T.vectorized(_i64(0), _i64(lanes)) as lane:
                self._store(nest, {**rows, var: chunk * lanes + lane})

    def _store(self, nest: _Nest, loops: dict[tirx.Var, Expr]) -> None:
        copy = _Copy(nest.bind(loops), self.buffers)
        store = nest.store
        T.buffer_store(copy.buffer(store.buffer), copy(store.value), [copy(index) for index in store.indices])

    def _reduce(self, nest: _Nest, rows: dict[tirx.Var, Expr]) -> None:
        """One sum (maximum, minimum) per lane, combined pairwise at the end."""
        var, _ = nest.loops[-1]
        lanes = math.gcd(nest.width, LANES)
        dtype, combine = str(nest.store.buffer.dtype), nest.operator
        acc = scratch(lanes, dtype)
        start = _Copy({}, {})(nest.init.value)
        T.buffer_store(acc, start if lanes == 1 else T.broadcast(start, lanes), [at(0, lanes)])
        with T.serial(_i64(0), _i64(nest.width // lanes)) as chunk:
            with T.vectorized(_i64(0), _i64(lanes)) as lane:
                copy = _Copy(nest.bind({**rows, var: chunk * lanes + lane}), self.buffers)
                T.buffer_store(acc, combine(acc[lane], copy(nest.term)), [lane])
        copy = _Copy(nest.bind({**rows, var: _i64(0)}), self.buffers)
        store = nest.store
        indices = [copy(index) for index in store.indices]
        T.buffer_store(copy.buffer(store.buffer), total(acc, lanes, combine), indices)


class _Nest:
    """Loops around one block that is one store.

    width: extent of the innermost loop, 0 if it is not constant. operator and term: of a reduction over that loop.
    """

    def __init__(self, stmt: tirx.Stmt) -> None:
        self.loops: list[tuple[tirx.Var, Expr]] = []
        while isinstance(stmt, tirx.For):
            _require(stmt.kind == tirx.ForKind.SERIAL and _is_zero(stmt.min))
            self.loops.append((stmt.loop_var, stmt.extent))
            stmt = stmt.body
        _require(isinstance(stmt, s_tir.SBlockRealize) and _is_true(stmt.predicate) and bool(self.loops))
        block = stmt.block
        _require(isinstance(block.body, tirx.BufferStore) and not block.alloc_buffers and not block.match_buffers)
        self.store, self.init = block.body, block.init
        self.iters = [(iter_var.var, value) for iter_var, value in zip(block.iter_vars, stmt.iter_values, strict=True)]
        self.width = int(self.loops[-1][1]) if isinstance(self.loops[-1][1], tirx.IntImm) else 0
        self.branches = _has_branches(self.store.value)
        self.operator, self.term = None, None
        if any(iter_var.iter_type == _REDUCTION for iter_var in block.iter_vars):
            self._read_reduction(block)

    def _read_reduction(self, block: s_tir.SBlock) -> None:
        over = [value for iter_var, value in zip(block.iter_vars, self.bound(), strict=True) if iter_var.iter_type == 2]
        _require(len(over) == 1 and over[0].same_as(self.loops[-1][0]) and self.width > 0)
        value = self.store.value
        _require(type(value) in _COMBINE and isinstance(self.init, tirx.BufferStore))
        _require(isinstance(self.init.value, tirx.FloatImm | tirx.IntImm) and not self.branches)
        old = value.a
        _require(isinstance(old, TensorLoad) and old.source.same_as(self.store.buffer))
        _require(all(a.same_as(b) for a, b in zip(old.indices, self.store.indices, strict=True)))
        self.operator, self.term = _COMBINE[type(value)], value.b

    def bound(self) -> list[Expr]:
        """What the block's iterators are bound to."""
        return [value for _, value in self.iters]

    def bind(self, loops: dict[tirx.Var, Expr]) -> dict[tirx.Var, Expr]:
        """The block's iterators for given values of the loops."""
        copy = _Copy(loops, {})
        return {var: copy(value) for var, value in self.iters}


class _Copy:
    """Copies an expression with variables and buffers replaced, and libm calls by vector arithmetic."""

    def __init__(self, values: dict[tirx.Var, Expr], buffers: dict[tirx.Buffer, tirx.Buffer]) -> None:
        self.values, self.buffers = values, buffers

    def buffer(self, buffer: tirx.Buffer) -> tirx.Buffer:
        return self.buffers.get(buffer, buffer)

    def __call__(self, expr: Expr) -> Expr:
        if isinstance(expr, tirx.Var):
            return self.values.get(expr, expr)
        if isinstance(expr, tirx.IntImm | tirx.FloatImm):
            return expr
        if isinstance(expr, _BINARY):
            return type(expr)(self(expr.a), self(expr.b))
        if isinstance(expr, tirx.Cast):
            return tirx.Cast(expr.ty.dtype, self(expr.value))
        if isinstance(expr, tirx.Not):
            return tirx.Not(self(expr.a))
        if isinstance(expr, tirx.Select):
            return tirx.Select(self(expr.condition), self(expr.true_value), self(expr.false_value))
        if isinstance(expr, TensorLoad):
            return self.buffer(expr.source)[tuple(self(index) for index in expr.indices)]
        if isinstance(expr, Call):
            return self._call(expr)
        raise _NotOurs(type(expr).__name__)

    def _call(self, call: Call) -> Expr:
        args = [self(arg) for arg in call.args]
        name = call.op.name.rpartition(".")[2] if hasattr(call.op, "name") else ""
        dtype = str(call.ty.dtype)
        if name not in VECTORISED or dtype not in ("float32", "float16"):
            return Call(call.op, args, call.attrs, ret_ty=call.ty)
        if dtype == "float32":
            return VECTORISED[name](args[0])
        return tirx.Cast(dtype, VECTORISED[name](tirx.Cast("float32", args[0])))


def _require(condition: bool) -> None:
    if not condition:
        raise _NotOurs


def _has_branches(expr: object) -> bool:
    """Whether an `if_then_else` guards a part of the expression: vector code would evaluate both sides."""
    if isinstance(expr, Call) and expr.op.name.endswith(_BRANCHES):
        return True
    names = ("a", "b", "value", "condition", "true_value", "false_value")
    parts = [getattr(expr, name) for name in names if isinstance(getattr(expr, name, None), Expr)]
    parts += [*getattr(expr, "args", ()), *getattr(expr, "indices", ())]
    return any(_has_branches(part) for part in parts)


def _is_zero(expr: Expr) -> bool:
    return isinstance(expr, tirx.IntImm) and int(expr) == 0


def _is_true(expr: Expr) -> bool:
    return isinstance(expr, tirx.IntImm) and bool(int(expr))


def _i64(value: int) -> Expr:
    return tirx.const(value, "int64")
