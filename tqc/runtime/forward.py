"""A compiled model without a cache: one function of its own inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import tvm_ffi

from ..artifact.manifest import ForwardTensor, Library, Manifest
from ..errors import SessionError
from .device import Device
from .library import open_library
from .weights import load_weights


class ForwardModel:
    """Not safe for use from several threads at once. `inputs` and `outputs` describe what `forward` takes and gives."""

    def __init__(self, folder: Path, manifest: Manifest, library: Library, device: Device) -> None:
        self.path, self.manifest, self.library = folder, manifest, library
        self.inputs, self.outputs = manifest.forward.inputs, manifest.forward.outputs
        self._device = device
        self._function = open_library(folder / library.file, device.kind, device.index)("forward")
        self._weights = load_weights(folder, manifest, device)
        self._state = tvm_ffi.Array([])

    def forward(self, **inputs: Any) -> dict[str, np.ndarray]:
        """The model's outputs by name, for its inputs by name (arrays of the manifest's types and shapes).

        Indices outside a table are taken as its first or last. Raises SessionError, before anything runs, for inputs
        that are missing, unknown, of another type or shape, or larger than the model's own tables.
        """
        names = [spec.name for spec in self.inputs]
        if set(names) != set(inputs):
            raise SessionError(
                "The inputs are not those of the model", expected=", ".join(names), found=", ".join(inputs) or "none"
            )
        arrays = [_checked(spec, np.asarray(inputs[spec.name])) for spec in self.inputs]
        self._check_sizes(arrays)
        results = self._function(*map(self._device.upload, arrays), self._state, self._weights)
        return {spec.name: self._device.download(result) for spec, result in zip(self.outputs, results, strict=True)}

    def _check_sizes(self, arrays: list[np.ndarray]) -> None:
        sizes: dict[str, tuple[int, str]] = {}
        for spec, array in zip(self.inputs, arrays, strict=True):
            for axis, (size, found) in enumerate(zip(spec.shape, array.shape, strict=True)):
                where = f"{spec.name}, axis {axis}"
                limit = self.manifest.forward.limits.get(size, found) if isinstance(size, str) else size
                if found < 1 or found > limit or (isinstance(size, int) and found != size):
                    expected = str(size) if isinstance(size, int) else f"1 to {max(limit, 1)}"
                    raise SessionError("An input has another size", where=where, expected=expected, found=str(found))
                if isinstance(size, str) and sizes.setdefault(size, (found, where))[0] != found:
                    other, place = sizes[size]
                    raise SessionError(
                        "Inputs differ in a size", where=where, expected=f"{other}, as {place}", found=str(found)
                    )

    def _refuse(self, what: str) -> NoReturn:
        raise SessionError(
            f"A model without a cache cannot {what}",
            where=str(self.path),
            found=f"forward({', '.join(spec.name for spec in self.inputs)})",
            hint="call forward, or compile the model exported with its cache as inputs",
        )

    def prefill(self, *_: Any, **__: Any) -> NoReturn:
        """Raises SessionError."""
        self._refuse("prefill")

    def decode(self, *_: Any, **__: Any) -> NoReturn:
        """Raises SessionError."""
        self._refuse("decode")

    def generate(self, *_: Any, **__: Any) -> NoReturn:
        """Raises SessionError."""
        self._refuse("generate")


def _checked(spec: ForwardTensor, array: np.ndarray) -> np.ndarray:
    if str(array.dtype) != spec.dtype or array.ndim != len(spec.shape):
        shape = f"[{', '.join(map(str, spec.shape))}]"
        raise SessionError(
            "An input has another type or number of axes",
            where=spec.name,
            expected=f"{spec.dtype} {shape}",
            found=f"{array.dtype} {list(array.shape)}",
        )
    return np.ascontiguousarray(array)
