from __future__ import annotations

import pytest

from tqc.eval.colours import bits_of, colour, family, ink, share_colour


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tq4", "tq"),
        ("k4v3", "tq"),
        ("tqp3", "tqp"),
        ("tq2.5", "split"),
        ("16@5+16@3+32@2", "bands"),
        ("polar-plain", "polar"),
        ("qjl1o", "qjl"),
        ("k:qjl3,v:tq3", "qjl"),
        ("bf16", "exact"),
        ("mixed 3.5", "plan"),
        ("q4_0", "peer"),
        ("KIVI-4 g64", "peer"),
    ],
)
def test_families(name, expected):
    assert family(name) == expected


def test_bits_from_a_name():
    assert (bits_of("tq4"), bits_of("k3v2"), bits_of("tq2.5"), bits_of("polar")) == (4.0, 2.5, 2.5, 4.0)
    assert bits_of("16@5+16@3+32@2") == 3.0


def test_more_bits_are_darker_and_families_differ():
    tq = [colour(f"tq{bits}") for bits in (1, 2, 3, 4, 8)]
    assert len(set(tq)) == 5
    brightness = [sum(int(text[at : at + 2], 16) for at in (1, 3, 5)) for text in tq]
    assert brightness == sorted(brightness, reverse=True)
    others = ("tq4", "tqp4", "tq3.5", "16@5+48@4", "polar", "qjl2", "fp16", "mixed", "q4_0")
    assert len({colour(name, 4) for name in others}) == len(others)


def test_text_is_readable_on_every_colour():
    assert (ink("#ffffff"), ink("#000000")) == ("#14171c", "#ffffff")
    assert share_colour(0.0) == "#b0472f"
    assert share_colour(1.0) == "#1f7a6d"
    assert len({share_colour(step / 20) for step in range(21)}) == 21
