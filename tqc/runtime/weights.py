"""The weights of an artifact as one tuple argument, without a copy on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tvm_ffi

from ..artifact.manifest import PARAMS, Manifest
from ..artifact.params import read_places, storage_dtype
from .device import Device


def load_weights(folder: Path, manifest: Manifest, device: Device) -> tvm_ffi.Array:
    """The weights in the order of `manifest.params`.

    On the CPU they lie in the mapped file, private to this process but shared with every other one that only reads
    them; the few whose place in the file is not aligned are copied. Raises ArtifactError when the file is damaged.
    """
    path = folder / PARAMS
    places = read_places(path)
    # Copy-on-write, because DLPack refuses read-only arrays.
    mapped = np.asarray(np.memmap(path, np.uint8, mode="c")) if path.stat().st_size else np.zeros(0, np.uint8)
    tensors = []
    for name in manifest.params:
        place = places[name]
        values = mapped[place.offset : place.offset + place.nbytes]
        if place.offset % storage_dtype(place.dtype).itemsize:
            values = values.copy()
        array = values.view(storage_dtype(place.dtype)).reshape(place.shape)
        tensors.append(device.upload(array, place.dtype))
    return tvm_ffi.Array(tensors)
