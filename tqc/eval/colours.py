"""One colour for each scheme, the same in every chart: a hue for a family, darker for more bits.

All are of middle lightness, so that they stand out from a white page and from a dark one.
"""

from __future__ import annotations

import math
import re

from tqc.codec import scheme
from tqc.errors import CodecError

# (at 1 bit, at 8 bits)
RAMPS = {
    "tq": ("#a8d4ff", "#1048a6"),
    "tqp": ("#d9b3fa", "#6a2bb0"),
    "split": ("#84dccb", "#08705f"),
    "bands": ("#b4da7e", "#3d7a12"),
    "polar": ("#f7bd77", "#b4600c"),
    "qjl": ("#f59db0", "#a81f45"),
    "exact": ("#a3a8b1", "#6b717b"),
    "plan": ("#f08bd0", "#a3158a"),
    "peer": ("#c9b18a", "#7d6135"),
}
FAMILIES = {
    "tq": "TurboQuant",
    "tq pair": "TurboQuant, K and V apart",
    "tqp": "TurboQuant-prod (sign sketch)",
    "split": "outlier channels apart",
    "bands": "bands by importance",
    "polar": "PolarQuant",
    "qjl": "QJL",
    "exact": "exact",
    "plan": "mixed layers",
    "peer": "other formats",
    "q_0": "llama.cpp q4_0, q8_0",
    "kivi": "KIVI, groups of 32",
    "kivi-64": "KIVI, groups of 64",
}
LOW, HIGH = (176, 71, 47), (31, 122, 109)
"""Of a share that was found: none and all."""
_MIDDLE = (233, 200, 112)


def family(name: str) -> str:
    """The family of a scheme of one side or of both (that of K then); `plan` for `mixed`, `peer` for unknown names.

    Only the first word counts, so a name may go on: `tq4 (not centred)`.
    """
    name = name.split()[0] if name.split() else ""
    if name == "mixed":
        return "plan"
    try:
        side = scheme.parse(name)[0]
    except CodecError:
        try:
            side = scheme.check(name)
        except CodecError:
            return "peer"
    if side in ("fp16", "bf16", "fp32"):
        return "exact"
    if scheme.is_bands(side):
        return "bands"
    if "." in side:
        return "split"
    return re.match(r"[a-z]+", side)[0]


def bits_of(name: str) -> float:
    """About how many bits a number has, from a scheme's name alone; 4 if it does not say."""
    name = name.removeprefix("mixed ").split(" ")[0].replace(scheme.SHORT_SCALES, "")
    if bands := re.findall(r"(\d+)@(\d+)", name):
        rows = sum(int(rows) for rows, _ in bands)
        return sum(int(rows) * int(bits) for rows, bits in bands) / max(1, rows)
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", name)]
    return sum(numbers) / len(numbers) if numbers else 4.0


def colour(name: str, bits: float | None = None) -> str:
    """`#rrggbb` of a scheme; `bits` if they are known better than from the name."""
    light, dark = (_rgb(end) for end in RAMPS[family(name)])
    # Steepest between 2 and 5 bits, where the schemes are that people compare.
    shade = 1 / (1 + math.exp(0.9 * (3.2 - (bits_of(name) if bits is None else bits))))
    return _hex(_between(light, dark, shade))


def share_colour(share: float) -> str:
    """`#rrggbb` of a share between 0 and 1: rust, sand, teal, which readers without red or green tell apart, too."""
    ends = (LOW, _MIDDLE) if share < 0.5 else (_MIDDLE, HIGH)
    return _hex(_between(*ends, share * 2 % 1 if share < 1 else 1.0))


def ink(background: str) -> str:
    """The colour of text that is read best on a background: nearly black or white, by WCAG's contrast."""
    light = _luminance(_rgb(background))
    return "#ffffff" if 1.05 / (light + 0.05) > (light + 0.05) / 0.0575 else "#14171c"


def _luminance(rgb: tuple[int, ...]) -> float:
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (part / 255 for part in rgb)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _rgb(text: str) -> tuple[int, ...]:
    return tuple(int(text[at : at + 2], 16) for at in (1, 3, 5))


def _between(low: tuple[int, ...], high: tuple[int, ...], where: float) -> tuple[int, ...]:
    return tuple(round(a + (b - a) * where) for a, b in zip(low, high, strict=True))


def _hex(rgb: tuple[int, ...]) -> str:
    return "#" + "".join(f"{part:02x}" for part in rgb)
