"""What the CUDA kernels decide before they are built: values, the rules that they have to keep, and all that keep them.

A configuration of a schedule is a frozen value. `space` lists the configurations of a layout and an architecture that
keep the rules, the default first; `tqc tune` measures them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, product

from tqc.codec.fragments import ROWS as COLUMN
from tqc.codec.fragments import STRIPS, TOKENS
from tqc.codec.layout import CacheLayout
from tqc.errors import TargetError
from tqc.gpu_limits import LIMITS, MOST_REGISTERS, REGISTERS, STATIC_SHARED
from tqc.schedules.cuda_codes import table_entries
from tqc.schedules.cuda_cores import tile_bytes
from tqc.schedules.cuda_encode import scratch_floats
from tqc.schedules.cuda_flash import ROWS
from tqc.schedules.cuda_int8 import fits_int8, int8_query_bytes
from tqc.schedules.cuda_ptx import WARP
from tqc.schedules.cuda_queries import query_bytes
from tqc.schedules.cuda_sides import CodedPages, Tables, page_bytes
from tqc.schedules.cuda_sketch import sketch_floats
from tqc.schedules.cuda_wgmma import GROUP_ROWS
from tqc.schedules.cuda_wgmma import WARPS as GROUP_WARPS

DTYPES = ("float16", "float32")
"""Of queries, keys, values and outputs; the tensor cores take float16."""

SHARED_BYTES = {arch: limits.block_shared for arch, limits in LIMITS.items()}
"""Shared memory of one block."""

PRODUCTS = ("mma", "wgmma")
"""How prefill multiplies, the default first."""

MOST_COLUMNS = 256
"""Of an instruction of a warpgroup."""

READERS = ("float16", "int8")
"""What coded keys may be multiplied as, the default first."""

EXACT_REGISTERS = 40
"""Registers for exact pages that are on their way from global memory while others are multiplied."""

OTHER_REGISTERS = 72
"""Registers for addresses, loop counters and decoding, beside those that hold operands, scores and outputs."""

NEWER_REGISTERS = 12
"""What nvcc 13 takes beyond that in prefill for sm_100 and later."""

FRESH_PAD = 8
"""float16 numbers behind each row of fresh tokens in shared memory, so that eight rows lie in different banks."""


@dataclass(frozen=True)
class DecodeConfig:
    """Decode. `warps` of a block; `stages`: pages of each warp in shared memory, one being read, others on their way;
    `tiles`: times eight query heads that a block has, at most; `blocks`: how many the whole device should get, for
    which the context is split; `most_splits`: of one context; `keys`: what coded keys are multiplied as, float16, or
    int8 with queries that are rounded to int8 (`cuda_int8`)."""

    warps: int = 4
    stages: int = 2
    tiles: int = 2
    blocks: int = 528
    most_splits: int = 128
    keys: str = "float16"

    def __post_init__(self) -> None:
        if self.keys not in READERS:
            refuse("keys", " or ".join(READERS), self.keys)
        _check("warps", self.warps, 1, 16)
        _check("stages", self.stages, 1, 8)
        _check("tiles", self.tiles, 1, 8)
        _check("blocks", self.blocks, 1, 1 << 20)
        _check("most_splits", self.most_splits, 1, 1024)

    @property
    def threads(self) -> int:
        return self.warps * WARP

    def resident(self, layout: CacheLayout) -> int:
        """Blocks of a multiprocessor that registers are shared out for: left to itself the compiler may spill some."""
        exact = any(layout.form(side).exact for side in "kv")
        needed = attention_registers(layout, self.row_tiles(layout)) + EXACT_REGISTERS * exact
        return max(1, REGISTERS // (self.threads * needed))

    def groups(self, layout: CacheLayout) -> int:
        """Blocks that share the query heads of one KV head, each of which decodes its codes."""
        return -(-layout.group // (self.tiles * ROWS))

    def rows(self, layout: CacheLayout) -> int:
        """Query heads of a block."""
        return -(-layout.group // self.groups(layout))

    def row_tiles(self, layout: CacheLayout) -> int:
        """Times eight query rows of a warp."""
        return -(-self.rows(layout) // ROWS)

    def query_bytes(self, layout: CacheLayout) -> int:
        """Operand B of all columns of a block's rows."""
        return query_bytes(layout.form("k").rows, self.row_tiles(layout))

    def int8_bytes(self, layout: CacheLayout) -> int:
        """The same as int8, where keys are."""
        return int8_query_bytes(layout.form("k"), self.row_tiles(layout)) if self.keys == "int8" else 0

    def stage_bytes(self, layout: CacheLayout) -> int:
        """One page of keys and values."""
        return page_bytes(layout.form("k")) + page_bytes(layout.form("v"))

    def warp_bytes(self, layout: CacheLayout) -> int:
        """A warp's own shared memory: scratch, and its stages."""
        return scratch_bytes(layout) + self.stages * self.stage_bytes(layout)

    def merge_bytes(self, layout: CacheLayout) -> int:
        """What the warps of a block add up at the end: rows of outputs, padded against bank conflicts, and sums."""
        return self.warps * ROWS * self.row_tiles(layout) * 4 * (layout.form("v").rows + 4 + 2)

    def shared_bytes(self, layout: CacheLayout) -> int:
        """Shared memory of a block."""
        tables = Tables.bytes_of((layout.form("k"), layout.form("v")))
        queries = self.query_bytes(layout) + self.int8_bytes(layout)
        reading = tables + queries + self.warps * self.warp_bytes(layout)
        return max(reading, self.merge_bytes(layout))

    def check(self, layout: CacheLayout, arch: str = "sm_80") -> None:
        """Raises TargetError if the kernel of this layout does not fit a block of the architecture."""
        check_layout(layout)
        if self.keys == "int8" and not fits_int8(layout.form("k")):
            refuse("scheme of k with int8 keys", "codes of at most 4 bits", layout.k)
        _check_fit("decode", self.shared_bytes(layout), arch, attention_registers(layout, self.row_tiles(layout)))

    @classmethod
    def space(cls, layout: CacheLayout, arch: str) -> Iterator[DecodeConfig]:
        """Configurations that fit, the default first."""
        tiles = (2, 1) if layout.group > ROWS else (1,)
        values = product(READERS, tiles, (4, 2, 8, 1), (2, 3, 4, 1), (4, 2, 6, 8, 1))
        return _fitting((cls(w, s, t, SMS[arch] * n, keys=keys) for keys, t, w, s, n in values), layout, arch)


@dataclass(frozen=True)
class PrefillConfig:
    """Prefill. `warps` of a block; `tiles`: times eight query rows of each warp; `expand`: codes are decoded once for
    the whole block, into shared memory, and not by every warp; `products`: by `mma.sync` of each warp, or by `wgmma` of
    four together (`cuda_wgmma`), which sm_90a has."""

    warps: int = 4
    tiles: int = 2
    expand: bool = True
    products: str = PRODUCTS[0]

    def __post_init__(self) -> None:
        _check("warps", self.warps, 1, 16)
        _check("tiles", self.tiles, 1, 8)
        if self.products not in PRODUCTS:
            refuse("products", " or ".join(PRODUCTS), self.products)
        if self.wgmma and (self.warps % GROUP_WARPS or self.rows != GROUP_ROWS * self.groups or not self.expand):
            refuse("wgmma", "warps by fours, each with two tiles, and `expand`", self)

    def registers(self, layout: CacheLayout, arch: str = "sm_80") -> int:
        """Registers of a thread: an estimate from what it holds."""
        if self.wgmma:  # outputs, scores and probabilities
            return OTHER_REGISTERS + layout.form("v").rows // 2 + TOKENS // 2 + TOKENS // 4
        return attention_registers(layout, self.tiles) + NEWER_REGISTERS * _is_newer(arch)

    @property
    def wgmma(self) -> bool:
        return self.products == "wgmma"

    @property
    def groups(self) -> int:
        """Warpgroups of a block."""
        return self.warps // GROUP_WARPS

    @property
    def threads(self) -> int:
        return self.warps * WARP

    @property
    def rows(self) -> int:
        """Query rows of a block."""
        return self.warps * self.tiles * ROWS

    def queries(self, layout: CacheLayout) -> int:
        """Queries of a block, each with its whole GQA group."""
        return self.rows // layout.group

    def query_bytes(self, layout: CacheLayout) -> int:
        """Operand B of all columns of a block's rows."""
        return query_bytes(layout.form("k").rows, self.warps * self.tiles)

    def buffer_bytes(self, layout: CacheLayout, side: str) -> int:
        """One tile of a side as float16: rows of fresh tokens, exact fragments, or codes that were expanded."""
        form = layout.form(side)
        if self.wgmma:
            return tile_bytes(TOKENS, form.rows)
        coded = form.rows if self.expand and not form.exact else 0
        return 2 * TOKENS * max(layout.head_dim + FRESH_PAD, coded)

    def side_bytes(self, layout: CacheLayout, side: str) -> int:
        """What a tile of a side takes: codes that are not expanded lie where exact tokens do."""
        if self.wgmma:
            return self.buffer_bytes(layout, side) + self.landing_bytes(layout, side)
        buffer, page = self.buffer_bytes(layout, side), page_bytes(layout.form(side))
        return buffer + page if self.expand else max(buffer, page)

    def landing_bytes(self, layout: CacheLayout, side: str) -> int:
        """For `wgmma`, where pages and exact tokens of a side arrive, before they are core matrices."""
        return max(page_bytes(layout.form(side)), tile_bytes(TOKENS, layout.head_dim))

    def scratch_bytes(self, layout: CacheLayout) -> int:
        """For `wgmma`, what the warps put columns together in."""
        return self.warps * scratch_bytes(layout) if self.wgmma else 0

    def shared_bytes(self, layout: CacheLayout) -> int:
        """Shared memory of a block."""
        tables = Tables.bytes_of((layout.form("k"), layout.form("v")))
        tiles = sum(self.side_bytes(layout, side) for side in "kv")
        return self.query_bytes(layout) + tables + tiles + self.scratch_bytes(layout)

    def check(self, layout: CacheLayout, arch: str = "sm_80") -> None:
        """Raises TargetError if the kernel of this layout does not fit a block of the architecture."""
        check_layout(layout)
        if not self.expand and scratch_bytes(layout):
            refuse("scheme without `expand`", "codes in bands", f"{layout.k} and {layout.v}")
        if self.queries(layout) < 1:
            refuse("GQA group", f"at most the {self.rows} rows of a block", layout.group)
        if self.wgmma and arch != "sm_90a":
            refuse("wgmma", "the architecture sm_90a", arch)
        if self.wgmma and layout.form("v").rows > MOST_COLUMNS:
            refuse("wgmma", f"at most {MOST_COLUMNS} numbers of a coded value", layout.form("v").rows)
        registers = self.registers(layout, arch)
        if registers * self.threads > REGISTERS:
            refuse("configuration of prefill", f"at most {REGISTERS} registers of a block", registers * self.threads)
        _check_fit("prefill", self.shared_bytes(layout), arch, registers)

    @classmethod
    def space(cls, layout: CacheLayout, arch: str) -> Iterator[PrefillConfig]:
        """Configurations that fit, the default first: as many rows as there are registers for."""
        values = product((True, False), (4, 8, 2, 1), (4, 3, 2, 1))
        of_warps = (cls(warps, tiles, expand) for expand, warps, tiles in values)
        of_groups = (cls(warps, products="wgmma") for warps in (8, 12, 4) if arch == "sm_90a")
        return _fitting(chain(of_warps, of_groups), layout, arch)


@dataclass(frozen=True)
class AppendConfig:
    """Append. `threads` of a block, which encodes a page of one KV head."""

    threads: int = 128

    def __post_init__(self) -> None:
        _check("threads", self.threads, WARP, 1024)
        if self.threads % WARP:
            refuse("threads", f"a multiple of {WARP}", self.threads)

    def shared_bytes(self, layout: CacheLayout) -> int:
        """Shared memory of a block."""
        forms = layout.form("k"), layout.form("v")
        return 4 * (2 * table_entries(forms) + scratch_floats(layout) + sketch_floats(forms))

    def check(self, layout: CacheLayout, arch: str = "sm_80") -> None:
        """Raises TargetError if the kernel of this layout does not fit a block of the architecture."""
        check_layout(layout)
        if self.shared_bytes(layout) > STATIC_SHARED:
            refuse("layout in append", f"at most {STATIC_SHARED} bytes of shared memory", self.shared_bytes(layout))

    @classmethod
    def space(cls, layout: CacheLayout, arch: str) -> Iterator[AppendConfig]:
        """Configurations that fit, the default first."""
        return _fitting((cls(threads) for threads in (128, 256, 64, 512)), layout, arch)


Config = DecodeConfig | PrefillConfig | AppendConfig

SCHEDULES: dict[str, type[Config]] = {"append": AppendConfig, "decode": DecodeConfig, "prefill": PrefillConfig}

SMS = {arch: limits.multiprocessors for arch, limits in LIMITS.items()}
"""Multiprocessors of the largest GPU of an architecture, for which a context is split by default."""


def default_config(schedule: str, layout: CacheLayout, arch: str) -> Config:
    """The first configuration of `append`, `decode` or `prefill` that fits. Raises TargetError, saying what does not,
    if none does."""
    kind = SCHEDULES[schedule]
    first = next(kind.space(layout, arch), None)
    if first is None:
        kind().check(layout, arch)
        refuse(f"layout in {schedule}", f"one that fits a block of {arch}", layout)
    return first


def attention_registers(layout: CacheLayout, tiles: int) -> int:
    """Registers of a thread of an attention kernel with `tiles` times eight rows: an estimate from what it holds."""
    forms = layout.form("k"), layout.form("v")
    outputs = 4 * (forms[1].rows // COLUMN) * tiles
    scores = 4 * STRIPS * tiles * (2 if forms[0].scales > 1 else 1)
    return OTHER_REGISTERS + outputs + scores + 4 * STRIPS + 4 * tiles


def scratch_bytes(layout: CacheLayout) -> int:
    """Shared memory in which a warp puts the columns of a page together."""
    return max(CodedPages.scratch_bytes(layout.form(side)) for side in "kv")


def check_layout(layout: CacheLayout) -> None:
    """Raises TargetError if no CUDA kernel takes this layout."""
    if layout.order != "fragments":
        refuse("order of pages", "fragments", layout.order)
    layout.check_order()
    if layout.head_dim % COLUMN:
        refuse("head_dim", f"a multiple of {COLUMN}", layout.head_dim)
    if layout.query_heads % layout.kv_heads:
        refuse("query_heads", f"a multiple of the {layout.kv_heads} KV heads", layout.query_heads)
    if layout.exact_dtype != "float16":
        refuse("type of exact tokens", "float16", layout.exact_dtype)
    for side in "kv":
        if layout.form(side).dtype == "float32":
            refuse(f"scheme of {side}", "fp16, bf16 or codes: tensor cores multiply float16", getattr(layout, side))


def check_dtype(dtype: str) -> None:
    """Raises TargetError for activations that no kernel takes."""
    if dtype not in DTYPES:
        refuse("dtype", " or ".join(DTYPES), dtype)


def refuse(what: str, expected: str, found: object) -> None:
    raise TargetError(f"CUDA kernels cannot take this {what}", expected=expected, found=str(found))


def _is_newer(arch: str) -> bool:
    return int(arch.removeprefix("sm_").rstrip("a")) >= 100


def _check(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        refuse(name, f"{least} to {most}", value)


def _check_fit(kernel: str, shared: int, arch: str, registers: int) -> None:
    if shared > SHARED_BYTES[arch]:
        most = f"at most {SHARED_BYTES[arch]} bytes of shared memory on {arch}"
        refuse(f"configuration of {kernel}", most, f"{shared} bytes")
    if registers > MOST_REGISTERS:
        refuse(f"configuration of {kernel}", f"at most {MOST_REGISTERS} registers a thread", f"about {registers}")


def _fitting(configs: Iterator[Config], layout: CacheLayout, arch: str) -> Iterator[Config]:
    for config in configs:
        try:
            config.check(layout, arch)
        except TargetError:
            continue
        yield config
