"""`import_model`: from an ONNX file or a torch program to a Relax module with its weights left where they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from tqc.errors import FrontendError, TqcError

from .build import build
from .canonical import LayerInfo, canonicalise
from .convert import convert
from .from_torch import NAME, is_program, load_program
from .interface import Interface
from .load import LoadedModel, load
from .operators import BUILDERS
from .weights import Weight


@dataclass(frozen=True, eq=False)
class Imported:
    """A decoder in Relax.

    `mod["main"]` takes input_ids and positions [batch, seq] int64, past_key_n and past_value_n [batch, kv_heads, past,
    head_dim], then the tensors of `weights` in order; it returns logits [batch, seq, vocab_size] and the extended keys
    and values. `dtype` is the cache's; `sha256` the digest of the model file and its external data; `interface` names
    the file's own inputs and outputs; beyond `longest` tokens, if that
    is a number, the file computes something else.
    """

    mod: tvm.IRModule
    weights: dict[str, Weight]
    layers: tuple[LayerInfo, ...]
    vocab_size: int
    dtype: str
    opset: int
    path: Path
    sha256: str
    interface: Interface | None = None
    longest: int | None = None


def open_model(model: str | Path | LoadedModel | Any) -> LoadedModel:
    """An ONNX file, a `torch.export.ExportedProgram` or what is loaded already, as the frontend reads it."""
    if isinstance(model, LoadedModel):
        return model
    return load_program(model) if is_program(model) else load(model)


def import_model(model: str | Path | LoadedModel | Any) -> Imported:
    """Reads a decoder exported with its cache, see `open_model`.

    Raises FrontendError, naming nodes and layers, for everything that is not fully understood.
    """
    try:
        return _import(open_model(model))
    except TqcError:
        raise
    except Exception as error:
        raise FrontendError(
            "The model cannot be imported.",
            where=str(model) if isinstance(model, str | Path) else NAME,
            found=f"{type(error).__name__}: {error}",
            hint="Check that the model runs in onnxruntime; if it does, report it with the exporter's version.",
        ) from error


def _import(model: LoadedModel) -> Imported:
    canonical = canonicalise(build(model), BUILDERS)
    mod, weights = convert(canonical)
    logits, tokens = mod["main"].ret_ty.fields[0], mod["main"].params[0].ty
    if not _a_row_a_token(logits, tokens):
        raise FrontendError("The logits have an unexpected shape.", expected="[batch, seq, vocab]", found=str(logits))
    return Imported(
        mod,
        weights,
        canonical.layers,
        int(logits.shape[2]),
        canonical.interface.layers[0].dtype,
        model.opset,
        model.path,
        model.sha256(),
        canonical.interface,
        canonical.graph.longest,
    )


def _a_row_a_token(logits: relax.TensorType, tokens: relax.TensorType) -> bool:
    """Whether the logits are [batch, seq, a number]: the kernels pick rows by the lengths of the sequences."""
    if logits.shape is None or len(logits.shape) != 3 or not isinstance(logits.shape[2], tvm.tirx.IntImm):
        return False
    same = tvm.sym.Analyzer().can_prove_equal
    return all(same(ours, theirs) for ours, theirs in zip(logits.shape, tokens.shape, strict=False))
