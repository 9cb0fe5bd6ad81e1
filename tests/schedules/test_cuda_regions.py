"""Which tokens the tiles of a CUDA block are: each cached position once, in the region where the layout puts it."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_driver import CudaSequences, run_probe
from tvm.tirx.script.builder import ir as T

from tqc.codec.layout import LANES, CacheLayout
from tqc.schedules.cuda_builder import blocks, divide, i32, phase, store, when
from tqc.schedules.cuda_cache import Cache
from tqc.schedules.cuda_codes import Books
from tqc.schedules.cuda_regions import CachedTiles, Share, visit_fresh

THREADS, CAPACITY = 64, 160
LAYOUTS = {
    "codes": CacheLayout(2, 2, 32, "tq3", "tq5", sinks=4, recent=16, page=16),
    "no-sinks-no-tail": CacheLayout(1, 1, 32, "tq7", "tq1", sinks=0, recent=0, page=32),
    "exact-many-sinks": CacheLayout(1, 1, 48, "fp16", "fp32", sinks=35, recent=20, page=16, exact_dtype="float16"),
}


def emit_tile(tile, layout: CacheLayout, seen, keys, values, *place) -> None:
    """Counts the tokens of the tile that exist in `seen`, and writes their vectors where they stand."""
    page = layout.page
    with phase(page, THREADS) as token:
        at = T.Bind(tile.base + token)
        with when(at < tile.end):
            store(seen, seen[*place, at] + 1, *place, at)
    for strip in tile.keys.strips:
        with phase(strip.rows // LANES * page, THREADS) as item:
            group, token = divide(item, page)
            at, key = T.Bind(tile.base + token), strip.group(group, token)
            for j in range(LANES):
                with when(at < tile.end):
                    x = scaled(tile.keys, strip, key(i32(j)), token)
                    store(keys, x, *place, at, strip.start + group * LANES + j)
    for strip in tile.values.strips:
        with phase(page // LANES * strip.rows, THREADS) as item:
            group, row = divide(item, strip.rows)
            value = strip.group(group, row)
            for j in range(LANES):
                token = group * LANES + j
                with when(tile.base + token < tile.end):
                    x = scaled(tile.values, strip, value(i32(j)), token)
                    store(values, x, *place, tile.base + token, strip.start + row)


def scaled(side, strip, x, token):
    return x if strip.scale is None else x * side.scale(strip.scale, token)


def visit(run: CudaSequences, held: list[int], oldest: list[int], *, step: int) -> list[np.ndarray]:
    """What `step` blocks a sequence and head see together: [blocks, B, Hk, tokens] counts, and the keys and values."""
    layout, batch = run.layout, len(held)
    places = (step, batch, layout.kv_heads, CAPACITY)
    found = [np.zeros(places, np.int32), *(np.zeros((*places, layout.head_dim), np.float32) for _ in "kv")]

    def emit(table, lengths, firsts, seen, keys, values, *state) -> None:
        named = dict(zip(run.state, state, strict=True))
        cache = Cache(layout, None, None, table, named)
        with blocks(step, layout.kv_heads, batch) as (x, head, b):
            books = Books.declare((layout.form("k"), layout.form("v")), THREADS)
            tiles = CachedTiles(cache, books, b, head, T.Bind(lengths[b]), T.Bind(firsts[b]))
            tiles.visit(Share(i32(x), i32(step)), lambda tile: emit_tile(tile, layout, seen, keys, values, x, b, head))

    control = (run.table, np.array(held, np.int32), np.array(oldest, np.int32))
    run_probe(emit, *control, *found, *run.state.values())
    return found


def check(run: CudaSequences, held: list[int], oldest: list[int], found: list[np.ndarray]) -> None:
    layout, (seen, keys, values) = run.layout, found
    for b, (total, first) in enumerate(zip(held, oldest, strict=True)):
        whole_page = layout.sinks + max(first - layout.sinks, 0) // layout.page * layout.page
        position = np.arange(CAPACITY)
        wanted = (position < total) & ((position < layout.sinks) | (position >= whole_page))
        np.testing.assert_array_equal(seen[:, b].sum(axis=0), np.broadcast_to(wanted, seen[0, b].shape))
        for found_vectors, exact in zip((keys, values), run.held(b, total), strict=True):
            vectors = found_vectors[:, b].sum(axis=0)  # one block wrote each
            np.testing.assert_allclose(vectors[:, wanted], exact[:, wanted[:total]], rtol=1e-6)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_position_is_in_one_tile_and_holds_what_the_cache_holds(name: str) -> None:
    """Lengths around every border: inside the sinks, partial and full pages in the tail and among the codes."""
    layout = LAYOUTS[name]
    first_coded = layout.sinks + layout.recent + layout.page
    held = [0, 1, layout.sinks + 1, first_coded - 1, first_coded, first_coded + layout.page + 3, CAPACITY - 7]
    run = CudaSequences(layout, {}, batch=len(held), capacity=CAPACITY)
    run.fill(*held)
    oldest = [0] * len(held)
    check(run, held, oldest, visit(run, held, oldest, step=1))


@pytest.mark.parametrize("step", [1, 3])
def test_a_window_leaves_out_the_pages_before_it_and_blocks_share_the_rest(step: int) -> None:
    """The oldest position is before the cache, among the sinks, in a coded page, at its edge, in the tail's last."""
    layout = LAYOUTS["codes"]
    oldest, held = [-20, 3, 41, 52, 139, 70], [150, 150, 150, 150, 150, 40]
    run = CudaSequences(layout, {}, batch=len(held), capacity=CAPACITY)
    run.fill(*held)
    found = visit(run, held, oldest, step=step)
    check(run, held, oldest, found)
    assert (found[0].sum(axis=(1, 2, 3)) > 0).all()  # every block has a share


@pytest.mark.parametrize(("step", "first", "stop"), [(1, 0, 5), (4, 2, 13), (4, 3, 5), (3, 6, 6), (2, 7, 4)])
def test_shares_are_disjoint_and_cover_the_tiles(step: int, first: int, stop: int) -> None:
    found = np.zeros((step, 16), np.int32)

    def emit(target) -> None:
        with blocks(step, 1, 1) as (x, _, _):
            share = Share(i32(x), i32(step))
            with T.serial(0, share.count(i32(first), i32(stop))) as i:
                tile = share.tile(i32(first), i)
                with phase(1, 32):
                    store(target, target[x, tile] + 1, x, tile)

    run_probe(emit, found)
    wanted = [int(first <= tile < stop) for tile in range(16)]
    np.testing.assert_array_equal(found.sum(axis=0), wanted)
    per_block = found.sum(axis=1)
    assert per_block.max() - per_block.min() <= 1


def test_the_fresh_chunk_is_visited_up_to_its_stop_and_from_its_window_on() -> None:
    """A chunk of 37 rows ends inside a tile, and may stop before; rows stand at positions from `length` on."""
    layout, rows = LAYOUTS["codes"], 37
    cases = [(0, 0, 37), (9, 0, 37), (9, 20, 18), (50, 67, 37), (50, 66, 33), (50, 0, 0)]  # length, oldest, stop
    rng = np.random.default_rng(0)
    k, v = (rng.standard_normal((len(cases), 2, rows, layout.head_dim), np.float32) for _ in "kv")
    places = (len(cases), 2, CAPACITY)
    seen, keys, values = np.zeros(places, np.int32), *(np.zeros((*places, layout.head_dim), np.float32) for _ in "kv")

    def emit(k, v, numbers, seen, keys, values) -> None:
        with blocks(1, 2, len(cases)) as (_, head, b):
            length, oldest, stop = (T.Bind(numbers[b, i]) for i in range(3))

            def add(tile) -> None:
                emit_tile(tile, layout, seen, keys, values, b, head)

            visit_fresh(k, v, b, head, layout.page, length, oldest, stop, add)

    run_probe(emit, k, v, np.array(cases, np.int32), seen, keys, values)
    for b, (length, oldest, stop) in enumerate(cases):
        first = max(oldest - length, 0) // layout.page * layout.page
        wanted = np.zeros((2, CAPACITY), np.int32)
        wanted[:, length + first : length + stop] = 1
        np.testing.assert_array_equal(seen[b], wanted)
        for found, given in ((keys, k), (values, v)):
            np.testing.assert_array_equal(found[b, :, length + first : length + stop], given[b, :, first:stop])
