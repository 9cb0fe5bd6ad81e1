"""What all codecs and all encoded vectors share."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tqc import codec
from tqc.errors import CodecError


def test_encoded_cannot_be_rebound() -> None:
    encoded = codec.get("tq4", 64).encode(np.zeros(64))
    with pytest.raises(dataclasses.FrozenInstanceError):
        encoded.scale = np.zeros(())


def test_bytes_are_those_of_all_fields() -> None:
    encoded = codec.get("tq4", 64).encode(np.zeros((5, 64)))
    assert encoded.nbytes == encoded.codes.nbytes + encoded.scale.nbytes == 5 * 34


@pytest.mark.parametrize("name", ["tq4", "fp16", "fp32"])
@pytest.mark.parametrize("x", [np.zeros((3, 80)), np.zeros((64, 3)), np.zeros((3, 64), int), np.array(1.0)])
def test_reject_other_arrays(name: str, x: np.ndarray) -> None:
    with pytest.raises(CodecError, match=r"floats of shape \(\.\.\., 64\)") as caught:
        codec.get(name, 64).encode(x)
    assert str(x.shape) in caught.value.found
