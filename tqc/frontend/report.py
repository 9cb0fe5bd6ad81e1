"""What was recognised in a model, as text for people and as data; also of models that are refused."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqc.errors import FrontendError, TqcError

from .canonical import LayerInfo
from .imported import Imported, import_model, open_model
from .load import LoadedModel
from .recognise import Recognised, recognise


@dataclass(frozen=True, eq=False)
class Report:
    """A model file with its layers; `error` is why it is refused, and `reasons` what stopped the layers `missing`."""

    file: str
    layers: tuple[LayerInfo, ...]
    imported: Imported | None = None
    error: TqcError | None = None
    missing: tuple[int, ...] = ()
    reasons: tuple[str, ...] = ()

    def head(self) -> str:
        """One line about the model."""
        if self.imported is None:
            return (
                f"{self.file}: refused; {len(self.layers)} of {len(self.layers) + len(self.missing)} layers understood"
            )
        return _head(self.imported)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        found: dict[str, Any] = {"file": self.file, "accepted": self.error is None}
        if self.imported is not None:
            weights = self.imported.weights.values()
            found |= {
                "opset": self.imported.opset,
                "dtype": self.imported.dtype,
                "vocab_size": self.imported.vocab_size,
                "weights": len(weights),
                "weight_bytes": sum(weight.nbytes for weight in weights),
            }
        layers = [_layer(layer) for layer in self.layers]
        error = None if self.error is None else str(self.error)
        return {**found, "layers": layers, "missing": list(self.missing), "reasons": list(self.reasons), "error": error}


def _layer(layer: LayerInfo) -> dict[str, Any]:
    """What is worth reading of a layer: not the names of its tensors inside the graph, nor every frequency."""
    found = {**asdict(layer), "mask": layer.mask}
    del found["query"], found["residual"]
    if layer.rope is not None:
        del found["rope"]["frequencies"]
    return found


def report_of(imported: Imported) -> Report:
    """The report of a model that was accepted."""
    return Report(imported.path.name, imported.layers, imported)


def report(path: str | Path) -> Report:
    """The report of an ONNX file, accepted or refused."""
    path = Path(path)
    try:
        return report_of(import_model(path))
    except TqcError as error:
        return refusal(path, error)


def refusal(model: Path | LoadedModel, error: TqcError) -> Report:
    """The report of a model that was refused with `error`."""
    try:
        found = recognise(open_model(model))
    except FrontendError:
        found = Recognised()  # it cannot even be read, and `error` says why
    return Report(Path(getattr(model, "path", model)).name, found.layers, None, error, found.missing, found.reasons)


def describe_layer(layer: LayerInfo) -> str:
    """One line: heads, head_dim, scale, softcap and sinks if there are any, mask, rope, cache, node."""
    parts = [
        f"layer {layer.layer}",
        f"{layer.query_heads} query heads",
        f"{layer.kv_heads} KV heads",
        f"head_dim {layer.head_dim}",
        f"scale {layer.scale:.6g}",
    ]
    if layer.softcap:
        parts.append(f"softcap {layer.softcap:g}")
    if layer.sinks:
        parts.append("sinks")
    parts += [layer.mask, f"rope ({layer.rope})" if layer.rope else "no rope"]
    if any(layer.past):
        parts.append(f"cache {describe_cache(layer)}")
    return ", ".join([*parts, f"at {layer.node}"])


def describe_cache(layer: LayerInfo) -> str:
    """Names of the cache's inputs and outputs: `past.0.key, past.0.value → present.0.key, present.0.value`."""
    return f"{', '.join(layer.past)} → {', '.join(layer.present)}"


def describe(imported: Imported) -> str:
    """A header line for the model, then one line per layer."""
    return "\n".join([_head(imported), *map(describe_layer, imported.layers)])


def _head(imported: Imported) -> str:
    size = sum(weight.nbytes for weight in imported.weights.values())
    return (
        f"{imported.path.name}: opset {imported.opset}, {imported.dtype} cache, vocabulary {imported.vocab_size}, "
        f"{len(imported.layers)} layers, {len(imported.weights)} weights of {size / 1e6:.1f} MB"
    )
