"""Dimensions as products of batch, seq and past, fitted to what probes saw."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .setting import Setting

BATCH, SEQ, PAST, TOTAL = "batch", "seq", "past", "total"

_PRODUCTS = ((), (BATCH,), (SEQ,), (PAST,), (TOTAL,), (BATCH, SEQ), (BATCH, TOTAL), (SEQ, TOTAL), (BATCH, PAST))


@dataclass(frozen=True)
class Dim:
    """`factor` times the product of `symbols`; total is past + seq."""

    factor: int
    symbols: tuple[str, ...] = ()

    def at(self, setting: Setting) -> int:
        return self.factor * math.prod(getattr(setting, symbol) for symbol in self.symbols)

    def __str__(self) -> str:
        parts = [str(self.factor)] if self.factor != 1 or not self.symbols else []
        return "*".join([*parts, *self.symbols])


def fit(sizes: list[int], settings: list[Setting]) -> Dim | None:
    """The one product that gives each size at its setting, None if there is none."""
    for symbols in _PRODUCTS:
        factor, rest = divmod(sizes[0], Dim(1, symbols).at(settings[0]))
        dim = Dim(factor, symbols)
        if not rest and all(dim.at(setting) == size for size, setting in zip(sizes, settings, strict=True)):
            return dim
    return None


def fit_shape(shapes: list[tuple[int, ...]], settings: list[Setting]) -> tuple[Dim, ...] | None:
    """A Dim for each axis, None if the rank varies or an axis has no fit."""
    if len({len(shape) for shape in shapes}) != 1:
        return None
    dims = tuple(fit(list(sizes), settings) for sizes in zip(*shapes, strict=True))
    return None if None in dims else dims
