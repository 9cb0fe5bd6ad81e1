"""Runs artifacts. Needs TVM's runtime library and its FFI, nothing of the compiler."""

from .session import Session, load

__all__ = ["Session", "load"]
