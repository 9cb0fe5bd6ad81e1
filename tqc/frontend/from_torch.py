"""A `torch.export.ExportedProgram` as a loaded model: torch's own ONNX exporter in memory, the weights where they lie.

Large weights are hidden from the exporter's optimiser, which would otherwise store transposed copies of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tqc.errors import FrontendError

from .load import DTYPES, LoadedModel, Tensor
from .program_names import name_interface
from .weights import ArrayTensor

OPSET = 18
"""Opset of the graph in memory: attention, norms and RoPE are plain operations in it."""

NAME = "ExportedProgram"
"""What errors and manifests call a program, which has no file."""

_KEEP = 1024
"""Tensors of at most this many elements are left to the optimiser."""

_HINT = "pip install 'turboquant-compiler[export]'"


@dataclass(frozen=True, eq=False)
class ProgramTensor:
    """A tensor of the program, shared with torch where it lies in host memory."""

    tensor: Any

    def read(self) -> np.ndarray:
        return self.tensor.numpy()


@dataclass(frozen=True)
class LoadedProgram(LoadedModel):
    """A program in the place of a file: `files` is empty."""

    def sha256(self) -> str:
        """Digest of the graph's ONNX form, without names of files and lines, then of each weight by name: its name,
        type and shape as text, and its bytes."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256(self.proto.SerializeToString(deterministic=True))
        for name in sorted(self.initializers):
            tensor = self.initializers[name]
            digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(np.ascontiguousarray(tensor.source.read()))
        return digest.hexdigest()


def is_program(model: object) -> bool:
    """Whether `model` is a `torch.export.ExportedProgram`; torch is not loaded to find out."""
    return any(
        kind.__name__ == "ExportedProgram" and kind.__module__.startswith("torch.") for kind in type(model).__mro__
    )


def load_program(program: Any) -> LoadedProgram:
    """The program as the frontend reads models, its inputs and outputs named as `interface` expects them.

    Raises FrontendError when packages of the extra `export` are missing, when torch cannot convert the program, when a
    size that must vary is fixed in it, and for weights that are not there or of an unsupported type.
    """
    missing = [name for name in ("torch", "onnxscript") if find_spec(name) is None]
    if missing:
        raise FrontendError(
            "Compiling a torch program needs packages that are not installed.", found=", ".join(missing), hint=_HINT
        )
    model = _convert(program)
    for value, name in zip(model.graph.inputs, _input_names(program), strict=True):
        value.name = name
    name_interface(model.graph)
    initializers = {name: _tensor(name, value.const_value) for name, value in _take_weights(model).items()}
    proto = _structure(model)
    return LoadedProgram(Path(NAME), proto, initializers, (), OPSET)


def _convert(program: Any) -> Any:
    import torch
    from onnxscript import optimizer

    try:
        with _quiet(), torch.no_grad():
            flat = _flat(program)
            model = torch.onnx.export(flat, dynamo=True, opset_version=OPSET, optimize=False, verbose=False).model
            with _as_inputs(model.graph, _take_weights(model, _KEEP)):
                optimizer.optimize(model, onnx_shape_inference=False)
    except Exception as error:
        first = (str(error).strip() or "no message").splitlines()[0]
        raise FrontendError(
            "torch cannot convert the program to ONNX.", where=NAME, found=f"{type(error).__name__}: {first}"
        ) from error
    return model


def _input_names(program: Any) -> list[str]:
    """The names that torch made of the arguments of forward and their parts."""
    inputs = (spec for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT")
    return [spec.arg.name for spec in inputs if type(spec.arg).__name__ == "TensorArgument"]


def _flat(program: Any) -> Any:
    """The program with its inputs and outputs as flat tuples.

    torch rebuilds nested arguments when it decomposes a program, and transformers' caches do not survive that.
    """
    from torch.export import ExportedProgram
    from torch.export.exported_program import ModuleCallEntry
    from torch.utils._pytree import tree_flatten

    (whole,) = (entry.signature for entry in program.module_call_graph if entry.fqn == "")
    _, in_spec = tree_flatten(((0,) * whole.in_spec.num_leaves, {}))
    _, out_spec = tree_flatten((0,) * whole.out_spec.num_leaves)
    signature = replace(whole, in_spec=in_spec, out_spec=out_spec, forward_arg_names=None)
    return ExportedProgram(
        root=program.graph_module,
        graph=program.graph,
        graph_signature=program.graph_signature,
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=[ModuleCallEntry("", signature)],
        constants=program.constants,
        verifiers=program.verifiers,
    )


@contextlib.contextmanager
def _as_inputs(graph: Any, weights: dict[str, Any]) -> Iterator[None]:
    """Meanwhile the weights are inputs of the graph, without values."""
    values = {name: weight.const_value for name, weight in weights.items()}
    for weight in weights.values():
        weight.const_value = None
        graph.inputs.append(weight)
    yield
    for name, weight in weights.items():
        graph.inputs.remove(weight)
        weight.const_value = values[name]
        graph.initializers[name] = weight


def _take_weights(model: Any, least: int = 0) -> dict[str, Any]:
    """Removes the initialisers of more than `least` elements from the graph, or all, and returns them by name."""
    initializers = model.graph.initializers
    names = [name for name, value in initializers.items() if not least or math.prod(value.const_value.shape) > least]
    return {name: initializers.pop(name) for name in names}


def _tensor(name: str, tensor: Any) -> Tensor:
    dtype = DTYPES.get(int(tensor.dtype))
    if dtype is None:
        raise FrontendError(
            "A weight of an unsupported element type.",
            where=f"weight {name}",
            expected=", ".join(DTYPES.values()),
            found=tensor.dtype.name,
            hint="Convert the module with .float() or .half() before torch.export.",
        )
    shape = tuple(map(int, tensor.shape))
    raw = getattr(tensor, "raw", None)
    if getattr(raw, "is_meta", False) or type(raw).__name__ == "FakeTensor":
        raise FrontendError(
            "The program has no weights.", where=f"weight {name}", hint="Export the module with its real weights."
        )
    source = ProgramTensor(tensor) if math.prod(shape) > _KEEP else ArrayTensor(np.array(tensor.numpy()))
    return Tensor(shape, dtype, source)


def _structure(model: Any) -> onnx.ModelProto:
    """The graph as a protobuf message, without notes about where in which file an operation was written."""
    from onnxscript import ir

    proto = ir.serde.serialize_model(model)
    del proto.metadata_props[:]
    del proto.graph.metadata_props[:]
    del proto.graph.value_info[:]
    del proto.graph.quantization_annotation[:]
    proto.graph.doc_string = proto.doc_string = proto.producer_version = ""
    for item in (*proto.graph.node, *proto.graph.input, *proto.graph.output):
        item.doc_string = ""
        del item.metadata_props[:]
    return proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on optional packages, which concern no language model."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
