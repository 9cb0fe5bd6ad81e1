"""What the host does around kernels: the PrimFunc that TVM leaves of a scheduled one, walked with actual arguments.

TVM splits a PrimFunc into kernels and a host function that computes sizes, allocates workspaces and launches. The
latter is caught before TVM packs its arguments, and is small: bindings, allocations, launches one after the other.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import tvm
import tvm_ffi
from ptx_error import PtxError
from tvm.tirx import PrimFunc

AXES = tuple(f"{kind}.{axis}" for kind in ("blockIdx", "threadIdx") for axis in "xyz")
_DYNAMIC = "use_dyn_shared_memory"
_COMPILE = "tvm_callback_cuda_compile"
_FLAGS = ("use_programtic_dependent_launch", "use_cooperative_launch")


@dataclass(frozen=True)
class KernelCall:
    """A launch: arrays by their numbers in `Host.run`'s order, other arguments as numbers."""

    kernel: str
    arguments: list
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    dynamic: int


@dataclass(frozen=True)
class Pointer:
    """The start of an array, `offset` bytes further on."""

    array: np.ndarray
    offset: int = 0


def split(functions: dict[str, PrimFunc], target: tvm.target.Target) -> tuple[dict[str, PrimFunc], str]:
    """The host functions by name, and the CUDA C++ of all kernels."""
    caught: list[tvm.IRModule] = []

    @tvm.instrument.pass_instrument
    class Catch:
        def run_before_pass(self, module: tvm.IRModule, info: tvm.transform.PassInfo) -> None:
            if info.name == "tirx.MakePackedAPI":
                caught.append(module)

    named = {name: function.with_attr("global_symbol", name) for name, function in functions.items()}
    # Where a test has loaded TVM's CUDA runtime, TVM compiles the source too; that is not needed here.
    before = tvm_ffi.get_global_func(_COMPILE)
    tvm_ffi.register_global_func(_COMPILE, lambda _source: b"not compiled", override=True)
    try:
        with tvm.transform.PassContext(instruments=[Catch()]):
            built = tvm.compile(tvm.IRModule(named), target=target)
    finally:
        tvm_ffi.register_global_func(_COMPILE, before, override=True)
    hosts = {variable.name_hint: function for variable, function in caught[0].functions.items()}
    return {name: hosts[name] for name in functions}, built.mod.imports[0].inspect_source("cuda")


def walk(
    host: PrimFunc, arrays: list[np.ndarray], allocate: Callable[[str, np.ndarray], None], launch: Callable
) -> None:
    """Does what `host` does: `allocate(name, array)` for a new workspace, `launch(KernelCall)` for each launch.

    Raises PtxError if shapes or types are not the function's.
    """
    _Walk(allocate, launch).run(host, arrays)


class _Walk:
    """values: numbers and arrays that variables stand for."""

    def __init__(self, allocate: Callable, launch: Callable) -> None:
        self.allocate, self.launch = allocate, launch
        self.values: dict = {}

    def run(self, host: PrimFunc, arrays: list[np.ndarray]) -> None:
        if len(arrays) != len(host.params):
            raise PtxError(f"{len(host.params)} arguments are expected, not {len(arrays)}")
        for variable, array in zip(host.params, arrays, strict=True):
            self.bind(variable, array)
        self.statement(host.body)

    def bind(self, buffer, array: np.ndarray) -> None:
        """A parameter and the dimensions in its shape that are not known yet."""
        name, dtype = str(buffer.name), str(buffer.dtype)
        if array.ndim != len(buffer.shape) or array.dtype != numpy_type(dtype):
            raise PtxError(f"{name} is {dtype} of {len(buffer.shape)} dimensions, not {array.dtype} {array.shape}")
        for size, found in zip(buffer.shape, array.shape, strict=True):
            if type(size).__name__ == "Var" and size not in self.values:
                self.values[size] = found
            elif self.number(size) != found:
                raise PtxError(f"{name} has the shape {array.shape}, but {size} is {self.number(size)}")
        self.values[buffer] = Pointer(array)

    def statement(self, node) -> None:
        match type(node).__name__:
            case "SeqStmt":
                for inner in node.seq:
                    self.statement(inner)
            case "Bind":
                self.values[node.var] = self.value(node.value)
            case "DeclBuffer":
                step = self.number(node.buffer.elem_offset) * numpy_type(str(node.buffer.dtype)).itemsize
                data = self.value(node.data)
                self.values[node.buffer] = Pointer(data.array, data.offset + step)
            case "AllocBuffer":
                size = int(np.prod([self.number(size) for size in node.buffer.shape], dtype=np.int64))
                array = np.empty(size, numpy_type(str(node.buffer.dtype)))
                array.view(np.uint8)[...] = 0xA5
                self.allocate(str(node.buffer.name) or "a workspace", array)
                self.values[node.buffer] = Pointer(array)
            case "IfThenElse":
                taken = node.then_case if self.number(node.condition) else node.else_case
                if taken is not None:
                    self.statement(taken)
            case "AssertStmt":
                if not self.number(node.condition):
                    raise PtxError(f"the host's assertion {node.condition} does not hold")
            case "Evaluate" if str(getattr(node.value, "op", "")).find("call_ffi_kernel") >= 0:
                self.call(node.value)
            case "Evaluate" if type(node.value).__name__ == "IntImm":
                pass
            case kind:
                raise PtxError(f"the interpreter of hosts does not know {kind}: {node}")

    def call(self, node) -> None:
        tags = [_axis(tag) for tag in node.attrs.launch_params]
        sized = [tag for tag in tags if tag not in _FLAGS]
        name, *arguments = node.args
        extents = {}
        if sized:
            arguments, sizes = arguments[: -len(sized)], arguments[-len(sized) :]
            extents = {tag: self.number(size) for tag, size in zip(sized, sizes, strict=True)}
        unknown = set(extents) - {*AXES, _DYNAMIC}
        if unknown:
            raise PtxError(f"the interpreter does not know the launch parameters {unknown}")
        three = [tuple(extents.get(f"{kind}.{axis}", 1) for axis in "xyz") for kind in ("blockIdx", "threadIdx")]
        values = [self.value(argument) for argument in arguments]
        self.launch(KernelCall(str(name.value), values, *three, extents.get(_DYNAMIC, 0)))

    def number(self, node) -> int | float:
        value = self.value(node)
        if isinstance(value, Pointer):
            raise PtxError(f"{node} is no number")
        return value

    def value(self, node):
        """A number or a Pointer."""
        if isinstance(node, int | float):
            return node
        kind = type(node).__name__
        if kind in ("IntImm", "FloatImm"):
            return node.value
        if node in self.values:
            return self.values[node]
        if kind in _BINARY:
            return _BINARY[kind](self.value(node.a), self.value(node.b))
        if kind == "Cast":
            return self.value(node.value)
        if kind == "Not":
            return not self.value(node.a)
        if kind == "Select":
            return self.value(node.true_value if self.value(node.condition) else node.false_value)
        if kind == "Call":
            return self.function(node)
        raise PtxError(f"the interpreter of hosts does not know the expression {node}")

    def function(self, node):
        name = str(node.op.name).removeprefix("tirx.")
        if name == "if_then_else":
            return self.value(node.args[1] if self.value(node.args[0]) else node.args[2])
        values = [self.value(argument) for argument in node.args]
        functions = {
            "buffer_data": lambda data: data,
            "shift_right": operator.rshift,
            "shift_left": operator.lshift,
            "bitwise_and": operator.and_,
            "bitwise_or": operator.or_,
            "likely": lambda value: value,
        }
        if name not in functions:
            raise PtxError(f"the interpreter of hosts does not know the expression {node}")
        return functions[name](*values)


def _axis(tag) -> str:
    """blockIdx.x as it is; of tirx.use_… what follows the point."""
    return str(tag) if str(tag) in AXES else str(tag).split(".")[-1]


def _truncated(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


_BINARY: dict[str, Callable] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "FloorDiv": operator.floordiv,
    "FloorMod": operator.mod,
    "Div": _truncated,
    "Mod": lambda a, b: a - _truncated(a, b) * b,
    "Min": min,
    "Max": max,
    "EQ": operator.eq,
    "NE": operator.ne,
    "LT": operator.lt,
    "LE": operator.le,
    "GT": operator.gt,
    "GE": operator.ge,
    "And": lambda a, b: bool(a) and bool(b),
    "Or": lambda a, b: bool(a) or bool(b),
}


def numpy_type(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name)) if hasattr(ml_dtypes, name) else np.dtype(name)
