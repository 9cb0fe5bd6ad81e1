"""Models without a cache: an encoder, a layer or one attention block, as a Relax function of their own inputs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tvm
from tvm import relax, tirx

from tqc.errors import FrontendError

from .build import build
from .expand import EXPANDERS
from .expand.context import Expansion
from .forward_operators import FORWARD_BUILDERS, OWN
from .forward_sizes import evaluate, known, sizes
from .graph import Graph, Input, Node
from .load import LoadedModel
from .names import identifier, parameter_names
from .operators import Operands
from .weights import Weight

_CACHE = re.compile(r"past|present|cache|key_values", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class ForwardTensor:
    """An input or output: its name, element type, and shape with names for the sizes that vary."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, eq=False)
class ImportedForward:
    """A model without a cache in Relax.

    `mod["forward"]` takes `inputs` in order, then the tensors of `weights`, and returns the tuple of `outputs`. Sizes
    of one name are one size; `limits` names the largest that the model's own tables allow.
    """

    mod: tvm.IRModule
    weights: dict[str, Weight]
    limits: dict[str, int]
    inputs: tuple[ForwardTensor, ...]
    outputs: tuple[ForwardTensor, ...]
    dtype: str
    opset: int
    path: Path
    sha256: str


def has_no_cache(model: LoadedModel) -> bool:
    """Whether no input and no output of the model is named like a cache."""
    graph = model.proto.graph
    names = [info.name for info in (*graph.input, *graph.output) if info.name not in model.initializers]
    return not any(_CACHE.search(name) for name in names)


def import_forward(model: LoadedModel) -> ImportedForward:
    """Reads a model without a cache; its masks are kept as they are.

    Sizes that exporters named apart, though they must be equal, are tried as one. Raises FrontendError for operations
    and shapes that are not supported.
    """
    graph = build(model)
    _expand(graph)
    unknown = [node.label for node in graph.nodes if node.kind not in FORWARD_BUILDERS and node.kind not in _SIZES]
    if unknown:
        raise FrontendError(f"Unsupported operations: {len(unknown)}.", found="; ".join(unknown))
    failure = None
    for names in _namings(graph.inputs.values()):
        try:
            converter = _Converter(graph, names)
            mod, weights = converter.convert()
        except FrontendError as error:
            failure = failure or error
            continue
        return _described(model, graph, mod, weights, converter.limits)
    raise failure


_SIZES = frozenset({"Shape", "Size", "ReduceProd"})


def _expand(graph: Graph) -> None:
    expansion = Expansion(graph)
    for node in graph.nodes:
        expansion.begin(node)
        expander = Expansion.keep if node.kind in OWN else EXPANDERS.get(node.kind, Expansion.keep)
        expander(expansion, node)
    graph.replace(expansion.nodes)
    if graph.claims:
        raise FrontendError(
            "An operation for models with a cache, in one without cache inputs.", where=graph.claims[0].node
        )


def _namings(inputs: Iterable[Input]) -> list[dict[tuple[str, int], str]]:
    """Names of the sizes that vary, by input and axis: as given, then more and more of them taken as one."""
    axes = [(i.name, n, s) for i in inputs for n, s in enumerate(i.shape) if isinstance(s, str)]
    given = {(name, n): identifier(s) if s else f"{identifier(name)}_{n}" for name, n, s in axes}
    batch = given | {(name, n): "batch" for name, n, _ in axes if n == 0}
    second = batch | {(name, n): "seq" for name, n, _ in axes if n == 1}
    rest = batch | {(name, n): "seq" for name, n, _ in axes if n > 0}
    return [given, batch, second, rest]


class _Converter:
    """Builds the function; the context of the operators' builders."""

    def __init__(self, graph: Graph, names: dict[tuple[str, int], str]) -> None:
        self._graph, self._names = graph, names
        self._builder = relax.BlockBuilder()
        self._symbols = {name: tirx.Var(name, "int64") for name in names.values()}
        self._values: dict[str, relax.Expr] = {}
        self._sizes: dict[str, np.ndarray] = {}
        self.types = graph.types
        self.limits: dict[str, int] = {}

    def convert(self) -> tuple[tvm.IRModule, dict[str, Weight]]:
        graph, builder = self._graph, self._builder
        params = []
        for entry in graph.inputs.values():
            shape = [
                self._symbols[self._names[entry.name, n]] if isinstance(s, str) else s
                for n, s in enumerate(entry.shape)
            ]
            params.append(relax.Var(identifier(entry.name), relax.TensorType(shape, entry.dtype)))
            self._values[entry.name] = params[-1]
        inputs, weights = len(params), {}
        for tensor, name in parameter_names(graph).items():
            weight = weights[name] = replace(graph.weights[tensor], name=name)
            self._values[tensor] = relax.Var(name, relax.TensorType(weight.shape, weight.dtype))
            params.append(self._values[tensor])
        with builder.function("forward", params, attrs={"num_input": inputs, "num_state": 0}):
            with builder.dataflow():
                for node in graph.nodes:
                    self._build(node)
                results = [self._expr(tensor) for tensor in graph.outputs.values()]
                returned = builder.emit_output(relax.Tuple(results))
            builder.emit_func_output(returned)
        return builder.get(), weights

    def sizes(self, tensor: str) -> np.ndarray | None:
        """The sizes or numbers a tensor holds, None if they depend on the data."""
        return self._sizes.get(tensor, self._graph.constants.get(tensor))

    def limit(self, size: tirx.Var, most: int) -> None:
        """Sizes beyond `most` would leave a table of the model."""
        self.limits[size.name] = min(most, self.limits.get(size.name, most))

    def emit(self, expr: relax.Expr, name: str = "") -> relax.Expr:
        var = self._builder.emit(expr, name)
        if isinstance(var.ty, relax.TensorType) and var.ty.shape is None:
            raise FrontendError("Sizes that cannot be told to be equal.", where=name or str(expr)[:80])
        return var

    def narrowed(self, x: relax.Expr) -> relax.Expr:
        """x in bfloat16."""
        return self.emit(relax.op.astype(x, "bfloat16"))

    def _build(self, node: Node) -> None:
        if self._size_arithmetic(node):
            return
        if node.kind not in FORWARD_BUILDERS:
            raise FrontendError("An operation cannot be converted.", where=node.label)
        constants = [self.sizes(t) if self.sizes(t) is not None and known(self.sizes(t)) else None for t in node.inputs]
        skip = _BY_SIZE.get(node.kind, ())
        exprs = [None if n in skip else self._expr(t) for n, t in enumerate(node.inputs)]
        try:
            built = FORWARD_BUILDERS[node.kind](Operands(node, exprs, constants, self), node)
            result = self.emit(built, identifier(node.outputs[0]))
        except FrontendError:
            raise
        except Exception as error:
            text = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise FrontendError("An operation cannot be converted.", where=node.label, found=text) from error
        if len(node.outputs) == 1:
            self._values[node.outputs[0]] = result
            return
        for index, tensor in enumerate(node.outputs):
            if tensor and isinstance(result.ty, relax.TupleType):
                self._values[tensor] = self.emit(relax.TupleGetItem(result, index))

    def _size_arithmetic(self, node: Node) -> bool:
        """Evaluates a node of sizes and constants, if it is one."""
        if node.kind in ("Shape", "Size"):
            shape = sizes(list(self._expr(node.inputs[0]).ty.shape))
            part = shape[slice(node.attrs.get("start", 0), node.attrs.get("end"))]
            self._keep(node.outputs[0], np.asarray(np.prod(shape), object) if node.kind == "Size" else part)
            return True
        operands = [self.sizes(t) if t else None for t in node.inputs]
        if node.domain or any(t and v is None for t, v in zip(node.inputs, operands, strict=True)):
            return False
        if not node.inputs or (found := evaluate(node, operands, self._graph.opset)) is None:
            return False
        self._keep(node.outputs[0], found)
        return True

    def _keep(self, tensor: str, value: np.ndarray) -> None:
        if value.dtype == object:
            value = sizes(value)
            value = value.astype(np.int64) if known(value) else value
        self._sizes[tensor] = value

    def _expr(self, tensor: str) -> relax.Expr | None:
        if not tensor:
            return None
        if tensor not in self._values:
            self._values[tensor] = self._constant(self.sizes(tensor))
        return self._values[tensor]

    def _constant(self, value: np.ndarray) -> relax.Expr:
        if value.dtype != object:
            return relax.const(np.ascontiguousarray(value), str(value.dtype))
        # A size becomes a tensor as the one element of a range.
        parts = [self.emit(relax.op.arange(size, size + 1, 1, "int64")) for size in value.reshape(-1)]
        whole = self.emit(relax.op.concat(parts, 0)) if len(parts) > 1 else parts[0]
        return whole if value.ndim else self.emit(relax.op.reshape(whole, []))


_BY_SIZE = {"Reshape": (1,), "Expand": (1,), "Slice": (1, 2, 3, 4), "Range": (0, 1, 2), "ConstantOfShape": (0,)}
"""Operands that builders take as sizes."""


def _described(
    model: LoadedModel, graph: Graph, mod: tvm.IRModule, weights: dict[str, Weight], limits: dict[str, int]
) -> ImportedForward:
    func = mod["forward"]

    def tensor(name: str, ty: relax.TensorType) -> ForwardTensor:
        shape = tuple(int(s) if isinstance(s, tirx.IntImm) else _text(s) for s in ty.shape)
        return ForwardTensor(name, str(ty.dtype.dtype), shape)

    inputs = tuple(tensor(name, var.ty) for name, var in zip(graph.inputs, func.params, strict=False))
    outputs = tuple(tensor(name, ty) for name, ty in zip(graph.outputs, func.ret_ty.fields, strict=True))
    floats = [t.dtype for t in (*inputs, *outputs) if t.dtype.startswith("float")]
    return ImportedForward(
        mod,
        weights,
        limits,
        inputs,
        outputs,
        floats[-1] if floats else "float32",
        model.opset,
        model.path,
        model.sha256(),
    )


def _text(size: tirx.Expr) -> str:
    return str(size).replace("T.int64(", "(")
