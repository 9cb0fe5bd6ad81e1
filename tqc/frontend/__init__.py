"""ONNX in: reading, canonicalisation, conversion to Relax."""

from .canonical import LayerInfo
from .imported import Imported, import_model
from .report import Report, describe, describe_layer, refusal, report, report_of
from .weights import Cast, Transform, Transpose, Weight

__all__ = [
    "Cast",
    "Imported",
    "LayerInfo",
    "Report",
    "Transform",
    "Transpose",
    "Weight",
    "describe",
    "describe_layer",
    "import_model",
    "refusal",
    "report",
    "report_of",
]
