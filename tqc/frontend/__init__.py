"""ONNX in: reading, canonicalisation, conversion to Relax."""

from .canonical import LayerInfo
from .imported import Imported, import_model
from .weights import Cast, Transform, Transpose, Weight

__all__ = ["Cast", "Imported", "LayerInfo", "Transform", "Transpose", "Weight", "import_model"]
