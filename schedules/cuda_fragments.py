"""Where the numbers of a page lie, on the device: the arithmetic of `tqc.codec.fragments`."""

from __future__ import annotations

from tvm.ir import Expr

from tqc.codec.fragments import ROWS, STRIP, VALUES, WARP
from tqc.schedules.cuda_builder import divide, i32


def exact_element(side: str, token: Expr, dim: Expr, strips: int) -> Expr:
    """The element that holds (token, dim) in a region of `strips` strips of exact values."""
    strip, in_strip = divide(token, STRIP)
    column, row = divide(dim, ROWS)
    along_m, along_k = (in_strip, row) if side == "k" else (row, in_strip)
    half_m, g = divide(along_m, VALUES)
    half_k, pair = divide(along_k, VALUES)
    t, odd = divide(pair, 2)
    return ((column * strips + strip) * WARP + g * 4 + t) * VALUES + odd + 2 * half_m + 4 * half_k


def value_place(side: str, lane: Expr, strip: int, j: int) -> tuple[Expr, Expr]:
    """(token of the page, row of the column) of a lane's value j in a strip."""
    g, t = divide(lane, 4)
    along_m, along_k = g + VALUES * (j // 2 % 2), t * 2 + (j % 2 + VALUES * (j // 4))
    token, row = (along_m, along_k) if side == "k" else (along_k, along_m)
    return token + i32(STRIP * strip), row


def scale_element(token: Expr) -> Expr:
    """The place of a token's number among the 64 of a scale."""
    strip, in_strip = divide(token, STRIP)
    half, g = divide(in_strip, VALUES)
    return (g * 4 + strip) * 2 + half
