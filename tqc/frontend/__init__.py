"""ONNX in: reading, canonicalisation, conversion to Relax."""

from .canonical import LayerInfo
from .imported import Imported, import_model
from .report import describe, describe_layer
from .weights import Cast, Transform, Transpose, Weight

__all__ = [
    "Cast",
    "Imported",
    "LayerInfo",
    "Transform",
    "Transpose",
    "Weight",
    "describe",
    "describe_layer",
    "import_model",
]
