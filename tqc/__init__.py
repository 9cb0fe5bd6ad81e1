"""A compiler for language models that keep their KV cache compressed while they run."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .compiler.api import compile
    from .runtime import ForwardModel, Session, load

__all__ = ["ForwardModel", "Session", "__version__", "compile", "load"]
__version__ = version("turboquant-compiler")


def __getattr__(name: str) -> object:
    # The runtime loads TVM's FFI; whoever only wants the codec or the version should not wait for it.
    if name in ("ForwardModel", "Session", "load"):
        from . import runtime

        return getattr(runtime, name)
    if name == "compile":
        from .compiler.api import compile

        return compile
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
