"""The Relax ops `tqc.*`: what happens to K and V, visible in the IR."""

from .attention import attention
from .basis import change_basis
from .cache import cache_append, cached_attention, layout_of
from .kv_codes import kv_codes
from .kv_quantize import kv_quantize
from .nbits import gather_nbits, matmul_nbits
from .norm import rms_norm
from .registry import is_op_call
from .rope import rope
from .rotate import rotate
from .sequence import last_token, positions
from .sign_sketch import sign_sketch, sign_values
from .sketch import sketch

__all__ = [
    "attention",
    "cache_append",
    "cached_attention",
    "change_basis",
    "gather_nbits",
    "is_op_call",
    "kv_codes",
    "kv_quantize",
    "last_token",
    "layout_of",
    "matmul_nbits",
    "positions",
    "rms_norm",
    "rope",
    "rotate",
    "sign_sketch",
    "sign_values",
    "sketch",
]
