"""Weights as recipes: where the numbers lie and what to do to them, evaluated only when asked."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np


class Transform(Protocol):
    """One recorded step from stored to wanted weight; its repr goes into reports."""

    def apply(self, array: np.ndarray) -> np.ndarray:
        """The transformed array; must not write to its argument."""
        ...


class Source(Protocol):
    """Where a tensor's numbers come from."""

    def read(self) -> np.ndarray:
        """The stored tensor; must not be written to."""
        ...


@dataclass(frozen=True)
class FileTensor:
    """A dense little-endian tensor at `offset` bytes of a file, mapped on each read."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: str

    def read(self) -> np.ndarray:
        if not math.prod(self.shape):
            return np.empty(self.shape, self.dtype)
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)


@dataclass(frozen=True, eq=False)
class ArrayTensor:
    """A tensor already in memory."""

    array: np.ndarray

    def read(self) -> np.ndarray:
        return self.array


@dataclass(frozen=True)
class Transpose:
    """Permutes the axes."""

    perm: tuple[int, ...]

    def apply(self, array: np.ndarray) -> np.ndarray:
        return array.transpose(self.perm)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the result."""
        return tuple(shape[axis] for axis in self.perm)

    def needs(self, box: tuple[slice, ...], _shape: tuple[int, ...]) -> tuple[slice, ...]:
        """See `slabs.Local`."""
        return tuple(box[self.perm.index(axis)] for axis in range(len(box)))


@dataclass(frozen=True)
class Reshape:
    """Gives the tensor another shape of the same size."""

    shape: tuple[int, ...]

    def apply(self, array: np.ndarray) -> np.ndarray:
        return array.reshape(self.shape)


@dataclass(frozen=True)
class Cast:
    """Converts the element type."""

    dtype: str

    def apply(self, array: np.ndarray) -> np.ndarray:
        return array.astype(self.dtype)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the result."""
        return shape

    def needs(self, box: tuple[slice, ...], _shape: tuple[int, ...]) -> tuple[slice, ...]:
        """See `slabs.Local`."""
        return box


@dataclass(frozen=True, eq=False)
class Weight:
    """A named parameter: a source and the transforms that lead to `shape` and `dtype`.

    `name` is the parameter's name in the Relax function; `source_name` the initialiser's in the ONNX file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    source: Source
    source_name: str
    transforms: tuple[Transform, ...] = ()

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def then(self, transform: Transform, *, shape: tuple[int, ...] | None = None, dtype: str | None = None) -> Weight:
        """This weight with one more transform, which yields `shape` and `dtype` (default: unchanged)."""
        return replace(
            self,
            shape=self.shape if shape is None else tuple(shape),
            dtype=dtype or self.dtype,
            transforms=(*self.transforms, transform),
        )

    def numpy(self) -> np.ndarray:
        """Reads the source and applies the transforms; a contiguous array of `shape` and `dtype`.

        Raises ValueError if a transform did not produce what it announced.
        """
        array = self.source.read()
        for transform in self.transforms:
            array = transform.apply(array)
        if array.shape != self.shape or array.dtype != np.dtype(self.dtype):
            raise ValueError(
                f"weight {self.name}: {self.transforms} gave {array.dtype}{array.shape}, "
                f"announced {self.dtype}{self.shape}"
            )
        return np.ascontiguousarray(array)
