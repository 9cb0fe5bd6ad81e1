"""Errors a user can meet: one class per layer of the system, each with a stable code.

Every message says what is wrong, where, what was expected, what was found and what to do next; the parts that do not
apply are left out. The command line prints the message and exits with a status other than 0, never with a traceback.
"""

from __future__ import annotations


class TqcError(Exception):
    """Base of every error `tqc` raises on purpose.

    `what` is a sentence; `where` an ONNX node, layer, file or field; `expected` and `found` the two sides of the
    mismatch; `hint` the next step.
    """

    code = "TQC"

    def __init__(self, what: str, *, where: str = "", expected: str = "", found: str = "", hint: str = "") -> None:
        self.what, self.where, self.expected, self.found, self.hint = what, where, expected, found, hint
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = [f"[{self.code}] {self.what}"]
        parts += [
            f"  {label}: {text}"
            for label, text in (
                ("where", self.where),
                ("expected", self.expected),
                ("found", self.found),
                ("next", self.hint),
            )
            if text
        ]
        return "\n".join(parts)


class CodecError(TqcError):
    """An unknown scheme, or a head_dim or array a codec cannot take."""

    code = "TQC-CODEC"


class FrontendError(TqcError):
    """An ONNX model that cannot be read or is not fully understood."""

    code = "TQC-FRONTEND"


class PassError(TqcError):
    """A module that a compiler pass cannot transform."""

    code = "TQC-PASS"


class TargetError(TqcError):
    """A target, architecture or toolchain that is unknown or missing."""

    code = "TQC-TARGET"


class ArtifactError(TqcError):
    """An artifact that is missing, truncated, changed, too new or built for another machine."""

    code = "TQC-ARTIFACT"


class SessionError(TqcError):
    """A request the running model refuses: context overflow, wrong batch, values that are not finite."""

    code = "TQC-SESSION"


class ExportError(TqcError):
    """A source model that cannot be exported to ONNX."""

    code = "TQC-EXPORT"
