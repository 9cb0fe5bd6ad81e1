"""What the interpreter raises."""

from __future__ import annotations


class PtxError(AssertionError):
    """A kernel did what it must not do, or holds what the interpreter does not know. The message says where and what.

    An AssertionError, because in a test it means that the kernel is wrong.
    """
