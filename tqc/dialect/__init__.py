"""The Relax ops `tqc.*`: what happens to K and V, visible in the IR."""

from .attention import attention
from .norm import rms_norm
from .rope import rope

__all__ = ["attention", "rms_norm", "rope"]
