"""The schemes that a plan chooses from."""

from __future__ import annotations

from itertools import groupby

from tqc.codec.limits import HEAD_DIM_STEP

_KEYS = ((3, 2, 2, 2), (4, 2, 2, 2), (5, 2, 2, 2), (4, 3, 2, 2), (5, 3, 2, 2), (6, 4, 2, 2))
_KEYS += ((6, 4, 3, 2), (5, 4, 3, 3), (6, 5, 4, 3), (7, 6, 5, 4))
_VALUES = ((3, 2, 2, 2), (4, 2, 2, 2), (4, 3, 3, 3), (5, 4, 4, 4))
"""Bits of four bands, from the most important dims on. Fewer than 2 bits are worse than fewer bands with 2."""

_PLAIN = (2, 3, 4, 5, 6, 8)


def plain_codes() -> tuple[str, ...]:
    """The schemes without bands, which all menus have: their errors point everywhere alike."""
    return tuple(f"tq{bits}" for bits in _PLAIN)


def menu(head_dim: int, *, measured: bool) -> dict[str, tuple[str, ...]]:
    """The schemes of each side, `k` and `v`; bands only if the model was `measured` over a text."""
    plain = plain_codes()
    if not measured or head_dim < 4 * HEAD_DIM_STEP:
        return {"k": plain, "v": plain}
    sizes = _sizes(head_dim)
    return {
        side: (*plain, *(_name(sizes, bits) for bits in of_side)) for side, of_side in (("k", _KEYS), ("v", _VALUES))
    }


def _sizes(head_dim: int) -> tuple[int, ...]:
    """A quarter, a quarter, and the rest in two, in multiples of what kernels work on."""
    quarter = head_dim // 4 // HEAD_DIM_STEP * HEAD_DIM_STEP
    rest = head_dim - 2 * quarter
    third = rest // 2 // HEAD_DIM_STEP * HEAD_DIM_STEP
    return quarter, quarter, third, rest - third


def _name(sizes: tuple[int, ...], bits: tuple[int, ...]) -> str:
    """Neighbours with equal bits are one band; every band has a scale of its own."""
    groups = groupby(zip(bits, sizes, strict=True), key=lambda pair: pair[0])
    return "/".join(f"{sum(size for _, size in group)}@{width}" for width, group in groups)
