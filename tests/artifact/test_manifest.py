from __future__ import annotations

import pytest
from pydantic import ValidationError

from tqc.artifact import FORMAT_VERSION, FileEntry, Library, Manifest, StateTensor
from tqc.codec.layout import CacheLayout


def test_bytes_round_trip_and_are_sealed(make):
    manifest = make.manifest()
    again = Manifest.model_validate_json(manifest.to_bytes())
    assert again.manifest_sha256 == manifest.digest() == again.digest()
    assert again.model_copy(update={"manifest_sha256": ""}) == manifest
    assert again.to_bytes() == manifest.to_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"unknown": 1},
        {"vocab_size": "32"},
        {"vocab_size": 0},
        {"format_version": FORMAT_VERSION + 1},
        {"params": ("w", "w")},
        {"layers": ()},
        {"files": {"params.safetensors": FileEntry(size=1, sha256="0" * 64)}},
    ],
)
def test_refuses_contradictions(make, changes):
    with pytest.raises(ValidationError):
        make.manifest(**changes)


@pytest.mark.parametrize(
    "name", ["../model.so", "/lib/model.so", "a/b.so", "a\\b.so", "..", ".hidden", "", "a\0b", "x\n"]
)
def test_file_names_cannot_leave_the_folder(name):
    with pytest.raises(ValidationError):
        Library(file=name, kind="cpu", arch="x")


def test_state_dimensions_are_numbers_or_known_symbols():
    assert StateTensor(name="k", shape=("pages", 2), dtype="uint16").shape == ("pages", 2)
    for shape in (("tokens", 2), (0, 2), (-1,), (True,)):
        with pytest.raises(ValidationError):
            StateTensor(name="k", shape=shape, dtype="uint16")


@pytest.mark.parametrize(("sinks", "recent", "page"), [(4, 128, 64), (0, 0, 64), (4, 0, 16), (0, 100, 32)])
def test_places_of_tokens_are_those_of_the_cache_layout(make, sinks, recent, page):
    cache = make.manifest().cache.model_copy(update={"sinks": sinks, "recent": recent, "page": page})
    layout = CacheLayout(4, 2, 64, sinks=sinks, recent=recent, page=page)
    for length in range(500):
        assert cache.coded(length) == layout.coded(length)
        assert cache.coded(length) <= cache.pages(length) * page


def test_a_shape_is_bound_to_a_batch_and_the_pages_of_a_sequence():
    pool = StateTensor(name="k_codes", shape=("pages", 2, 64), dtype="uint16")
    ring = StateTensor(name="k_codes", shape=("batch", "ring5", 2, 64), dtype="uint16")
    tail = StateTensor(name="tail_k", shape=("batch", 3, 64), dtype="float32")
    assert [spec.bind(4, 9) for spec in (pool, ring, tail)] == [(36, 2, 64), (4, 5, 2, 64), (4, 3, 64)]
    assert ring.bind(4, 2) == (4, 2, 2, 64)  # no sequence has more pages
    assert [spec.paged for spec in (pool, ring, tail)] == [True, True, False]
    assert [spec.ring for spec in (pool, ring, tail)] == [None, 5, None]


@pytest.mark.parametrize("symbol", ["ring", "ring0", "ring-1", "rows", "Pages", ""])
def test_refuses_other_symbols(symbol):
    with pytest.raises(ValidationError):
        StateTensor(name="k", shape=("batch", symbol), dtype="uint16")
