"""Runs artifacts. Needs TVM's runtime library and its FFI, nothing of the compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .forward import ForwardModel
    from .session import Session, load

__all__ = ["ForwardModel", "Session", "load"]


def __getattr__(name: str) -> object:
    # TVM's FFI is slow to load, and looking at an artifact does not need it.
    if name in __all__:
        from . import forward, session

        return getattr(forward if name == "ForwardModel" else session, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
