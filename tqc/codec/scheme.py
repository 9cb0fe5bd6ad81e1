"""Names of KV cache schemes: one grammar for the command line, plans, manifests and documents.

side  = "tq1" … "tq8"              TurboQuant: rotate, Lloyd–Max codes, one scalar
      | "tqp2" … "tqp8"            TurboQuant-prod: the last bit is the sign sketch of what the codes leave
      | "tq2.5" | "tq3.5"          outlier channels apart, with a bit more
      | "polar" | "polar-plain"    PolarQuant 4-2-2-2, with and without the rotation
      | "qjl1" … "qjl3"            QJL, K only: signs of one to three sketches of head_dim rows
      | "qjl1o" … "qjl3o"          the same, outlier channels sketched apart
      | bands                      "16@5+16@3+32@2": dims @ bits in a calibrated basis, most important dims first;
                                   "16@5/16@3+32@2": behind each / a scale of its own
      | coded "-s8"                any of these but polar: scales of one byte, not two, see `short_scale`
      | "fp16" | "bf16" | "fp32"
text  = side                       both K and V
      | "k:" side ",v:" side       each its own, in any order
      | "k4v3"                     short for k:tq4,v:tq3
      | "qjl"                      short for k:qjl3,v:tq3
"""

from __future__ import annotations

import re
from difflib import get_close_matches

from tqc.errors import CodecError

KEYS_ONLY = tuple(f"qjl{size}{outliers}" for size in (1, 2, 3) for outliers in ("", "o"))
NAMED = (
    *(f"tq{bits}" for bits in range(1, 9)),
    *(f"tqp{bits}" for bits in range(2, 9)),
    *("tq2.5", "tq3.5", "polar", "polar-plain"),
    *KEYS_ONLY,
    *("fp16", "bf16", "fp32"),
)
"""Every scheme with a name of its own; bands have none."""

SHORT_SCALES = "-s8"
_LONG_SCALES = ("polar", "polar-plain", "fp16", "bf16", "fp32")
_SHORT = re.compile(r"k(\d+)v(\d+)")
_BANDS = re.compile(r"\d+@\d+([+/]\d+@\d+)*")
_FORMS = f"{', '.join(NAMED)}; bands as 16@5+16@3+32@2; k:SCHEME,v:SCHEME; or k4v3 for short"


def plain(name: str) -> str:
    """The name without what it says of its scales."""
    return name.removesuffix(SHORT_SCALES)


def has_short_scales(name: str) -> bool:
    """Whether scales take one byte."""
    return name.endswith(SHORT_SCALES)


def is_bands(name: str) -> bool:
    """Whether `name` lists bands, as 16@5+16@3+32@2 does."""
    return bool(_BANDS.fullmatch(plain(name)))


def is_measured(name: str) -> bool:
    """Whether vectors enter the cache in a basis that has to be measured: bands, and outlier channels kept apart."""
    named = plain(name)
    return is_bands(named) or named in ("tq2.5", "tq3.5") or (named in KEYS_ONLY and named.endswith("o"))


def check(name: str, *, where: str = "") -> str:
    """`name` if it names a scheme of one side; otherwise raises CodecError with the nearest names."""
    if name in NAMED or is_bands(name):
        return name
    if has_short_scales(name) and plain(name) in NAMED and plain(name) not in _LONG_SCALES:
        return name
    near = get_close_matches(name, NAMED, n=2, cutoff=0.5)
    raise CodecError(
        f"unknown scheme '{name}'",
        where=where,
        expected=f"one of {', '.join(NAMED)}, or bands as 16@5+16@3+32@2",
        found=name,
        hint=f"did you mean {' or '.join(near)}?" if near else "",
    )


def parse(text: str) -> tuple[str, str]:
    """The schemes of K and of V that `text` names. Raises CodecError with a suggestion if it names none."""
    text = text.strip().lower()
    if text == "qjl":
        return "qjl3", "tq3"
    if short := _SHORT.fullmatch(text):
        k, v = short.groups()
        return check(f"tq{k}", where=f"K in '{text}'"), check(f"tq{v}", where=f"V in '{text}'")
    if ":" not in text and "," not in text:
        return check(text), check_values(text)
    sides: dict[str, str] = {}
    for part in text.split(","):
        side, colon, name = (piece.strip() for piece in part.partition(":"))
        if side not in ("k", "v") or not colon or side in sides:
            break
        sides[side] = check(name, where=f"{side.upper()} in '{text}'")
    else:
        if len(sides) == 2:
            return sides["k"], check_values(sides["v"])
    raise CodecError("cannot read the scheme of the KV cache", expected=_FORMS, found=f"'{text}'")


def check_values(name: str) -> str:
    """`name`, unless values cannot be held that way: QJL estimates products with a query, it stores no vector."""
    if plain(name) in KEYS_ONLY:
        raise CodecError(
            f"'{name}' is a scheme of keys only",
            where="V",
            expected="another scheme for the values",
            found=name,
            hint=f"k:{name},v:tq3",
        )
    return name
