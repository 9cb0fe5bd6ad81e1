"""`get` and what all codecs share."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tqc import codec
from tqc.codec import scheme
from tqc.errors import CodecError


@pytest.mark.parametrize("dim", [32, 112, 512])
@pytest.mark.parametrize("name", scheme.NAMED)
def test_every_scheme(name: str, dim: int) -> None:
    made = codec.get(name, dim)
    x = np.random.default_rng(0).standard_normal((2, 3, dim))
    encoded = made.encode(x)
    assert made.name == name
    assert encoded.nbytes == 6 * made.bytes_per_vector
    assert all(isinstance(getattr(encoded, field.name), np.ndarray) for field in dataclasses.fields(encoded))
    assert np.sum((made.decode(encoded) - x) ** 2) / np.sum(x**2) < 0.8


def test_options_reach_the_codec() -> None:
    x = np.random.default_rng(0).standard_normal((4, 64))
    default, seeded, plain = (codec.get("tq2", 64, **options) for options in ({}, {"seed": 1}, {"scalar": "plain"}))
    assert (default.encode(x).codes != seeded.encode(x).codes).any()
    assert (default.encode(x).scale > plain.encode(x).scale).all()
    for name in ("tq4", "tqp2", "polar"):
        once, twice = (codec.get(name, 64, rounds=rounds).encode(x).codes for rounds in (1, 2))
        assert (once != twice).any()
    made = [codec.get("qjl1", 64, gaussian=gaussian).encode(x).codes for gaussian in (False, True)]
    assert (made[0] != made[1]).any()
    turned = codec.get("64@4", 64, matrix=np.eye(64)[::-1])
    np.testing.assert_allclose(turned.to_basis(x), x[:, ::-1], atol=1e-6)


@pytest.mark.parametrize("name", ["tq4", "tqp3", "qjl1", "polar", "fp16"])
def test_reject_a_basis_that_nothing_would_use(name: str) -> None:
    with pytest.raises(CodecError, match="takes no basis"):
        codec.get(name, 64, matrix=np.eye(64))


@pytest.mark.parametrize("name", ["tq4", "fp16"])
@pytest.mark.parametrize("dim", [-64, 0, 8, 72, 528])
def test_reject_head_dim(name: str, dim: int) -> None:
    with pytest.raises(CodecError, match="multiple of 16 from 16 to 512") as caught:
        codec.get(name, dim)
    assert caught.value.found == str(dim)


def test_reject_names_of_pairs_and_of_nothing() -> None:
    with pytest.raises(CodecError, match="unknown scheme 'k4v3'"):
        codec.get("k4v3", 64)
    with pytest.raises(CodecError, match="did you mean tq4"):
        codec.get("tq44", 64)
