"""What a plan chooses from fits the head_dim."""

from __future__ import annotations

import pytest

from tqc.codec.form import form
from tqc.codec.scheme import check_values
from tqc.compiler.menu import menu


@pytest.mark.parametrize("dim", [32, 64, 80, 96, 128, 192, 256])
@pytest.mark.parametrize("measured", [False, True])
def test_every_scheme_fits(dim: int, measured: bool) -> None:
    for side, names in menu(dim, measured=measured).items():
        assert len(set(names)) == len(names)
        assert {"tq2", "tq4", "tq8"} <= set(names)
        for name in names:
            stored = form(name, dim)
            assert measured or stored.basis == "rotation"
            assert all(band.bits >= 2 for band in stored.bands)
            assert stored.scales == len(stored.bands)
            if side == "v":
                check_values(name)


def test_bands_of_64_dims() -> None:
    names = menu(64, measured=True)
    assert "16@5/16@3/32@2" in names["k"]
    assert "16@3/48@2" in names["v"]
