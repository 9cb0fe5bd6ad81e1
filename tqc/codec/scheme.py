"""Names of KV cache schemes: one grammar for the command line, plans, manifests and documents.

side  = "tq1" … "tq8" | "fp16" | "fp32"
text  = side                        both K and V
      | "k:" side ",v:" side        each its own, in any order
      | "k4v3"                      short for k:tq4,v:tq3
"""

from __future__ import annotations

import re
from difflib import get_close_matches

from tqc.errors import CodecError

AVAILABLE = (*(f"tq{bits}" for bits in range(1, 9)), "fp16", "fp32")
PLANNED = (*(f"tqp{bits}" for bits in range(2, 9)), "tq2.5", "tq3.5", "polar", "qjl", "bf16")

_SHORT = re.compile(r"k(\d+)v(\d+)")
_FORMS = f"{', '.join(AVAILABLE)}; k:SCHEME,v:SCHEME; or k4v3 for short"


def check(name: str, *, where: str = "") -> str:
    """`name` if it names a scheme of one side; otherwise raises CodecError with the nearest names."""
    if name in AVAILABLE:
        return name
    if name in PLANNED:
        raise CodecError(
            f"the scheme '{name}' is planned but not built yet",
            where=where,
            expected=f"one of {', '.join(AVAILABLE)}",
            found=name,
        )
    near = get_close_matches(name, AVAILABLE, n=2, cutoff=0.5)
    raise CodecError(
        f"unknown scheme '{name}'",
        where=where,
        expected=f"one of {', '.join(AVAILABLE)}",
        found=name,
        hint=f"did you mean {' or '.join(near)}?" if near else "",
    )


def parse(text: str) -> tuple[str, str]:
    """The schemes of K and of V that `text` names. Raises CodecError with a suggestion if it names none."""
    text = text.strip().lower()
    if short := _SHORT.fullmatch(text):
        k, v = short.groups()
        return check(f"tq{k}", where=f"K in '{text}'"), check(f"tq{v}", where=f"V in '{text}'")
    if ":" not in text and "," not in text:
        return (check(text),) * 2
    sides: dict[str, str] = {}
    for part in text.split(","):
        side, colon, name = (piece.strip() for piece in part.partition(":"))
        if side not in ("k", "v") or not colon or side in sides:
            break
        sides[side] = check(name, where=f"{side.upper()} in '{text}'")
    else:
        if len(sides) == 2:
            return sides["k"], sides["v"]
    raise CodecError("cannot read the scheme of the KV cache", expected=_FORMS, found=f"'{text}'")
