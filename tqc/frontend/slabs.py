"""A weight a part at a time, for those whose copies on the way from stored to wanted would not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np

from .weights import Weight

SLAB = 32 << 20
"""Bytes of a part: a few copies of it are nothing, and reading columns of a matrix in parts this wide costs little."""

Box = tuple[slice, ...]
"""A part of a tensor: a slice with start and stop, and no step, for each axis."""


@runtime_checkable
class Local(Protocol):
    """A transform that can make a part of its result from a part of its argument."""

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the result for an argument of `shape`."""
        ...

    def needs(self, box: Box, shape: tuple[int, ...]) -> Box:
        """The part of an argument of `shape` that `apply` turns into the part `box` of the result.

        `box` is any part along the first axis, whole along the others, or what the next transform needs of it.
        """
        ...

    def apply(self, array: np.ndarray) -> np.ndarray:
        """The transformed array."""
        ...


def slabs(weight: Weight, most: int = SLAB) -> Iterator[np.ndarray]:
    """Contiguous arrays that concatenated along the first axis are `weight.numpy()`.

    Each has at most `most` bytes, or one row. A weight with a transform that is not `Local` comes in one piece.
    Raises ValueError if a transform did not produce what it announced.
    """
    if weight.nbytes <= most or not all(isinstance(transform, Local) for transform in weight.transforms):
        yield weight.numpy()
        return
    shapes = [weight.source.read().shape]
    for transform in weight.transforms:
        shapes.append(transform.shape(shapes[-1]))
    if shapes[-1] != weight.shape:
        raise ValueError(f"weight {weight.name}: {weight.transforms} give {shapes[-1]}, announced {weight.shape}")
    rows = max(1, most * weight.shape[0] // weight.nbytes)
    for start in range(0, weight.shape[0], rows):
        stop = min(start + rows, weight.shape[0])
        yield _part(weight, shapes, (slice(start, stop), *(slice(0, extent) for extent in weight.shape[1:])))


def _part(weight: Weight, shapes: list[tuple[int, ...]], box: Box) -> np.ndarray:
    wanted = tuple(along.stop - along.start for along in box)
    for transform, shape in zip(reversed(weight.transforms), reversed(shapes[:-1]), strict=True):
        box = transform.needs(box, shape)
    # Reading anew each time drops the file's pages that the part before has brought into memory.
    array = weight.source.read()[box]
    for transform in weight.transforms:
        array = transform.apply(array)
    if (array.shape, array.dtype) != (wanted, np.dtype(weight.dtype)):
        raise ValueError(
            f"weight {weight.name}: {weight.transforms} gave {array.dtype}{array.shape}, "
            f"announced {weight.dtype}{wanted}"
        )
    return np.ascontiguousarray(array)
