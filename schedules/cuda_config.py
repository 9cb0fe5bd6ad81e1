"""What the CUDA kernels decide before they are built, checked against the limits of a thread block."""

from __future__ import annotations

from dataclasses import dataclass

from tqc.codec.layout import LANES, CacheLayout
from tqc.errors import TargetError
from tqc.schedules.cuda_codes import table_entries
from tqc.schedules.cuda_encode import scratch_floats
from tqc.schedules.cuda_sketch import sketch_floats

SHARED_BYTES = 48 * 1024
"""Shared memory a block may declare statically, on every GPU."""

DTYPES = ("float16", "float32")
_MAX_ROWS = 32  # more accumulators than this leave the registers
_FLOAT = 4


@dataclass(frozen=True)
class CudaConfig:
    """Decisions of one CUDA kernel.

    `threads` of a block; `splits`: blocks that share the context of one KV head in decode; `query_rows`: queries of one
    block in prefill, each with its whole GQA group (0: 4, or 2 or 1 where more do not fit a block).
    Raises TargetError on a value outside its range.
    """

    threads: int = 128
    splits: int = 32
    query_rows: int = 0

    def __post_init__(self) -> None:
        if self.threads % 32 or not 32 <= self.threads <= 1024:
            _refuse("threads", "a multiple of 32 up to 1024", self.threads)
        if not 1 <= self.splits <= 1024:
            _refuse("splits", "1 to 1024", self.splits)
        if not 0 <= self.query_rows <= _MAX_ROWS:
            _refuse("query_rows", f"0 to {_MAX_ROWS}", self.query_rows)

    def queries(self, layout: CacheLayout) -> int:
        """Queries of one block in prefill."""
        if self.query_rows:
            return self.query_rows
        return next((rows for rows in (4, 2) if self.fits(layout, rows)), 1)

    def k_slices(self, layout: CacheLayout) -> int:
        """Threads that share the rows of one key."""
        return _largest_divisor(layout.head_dim // LANES, self.threads // layout.page)

    def v_slices(self, layout: CacheLayout) -> int:
        """Threads that share the tokens of one row of the values."""
        return _largest_divisor(layout.page // LANES, self.threads // layout.head_dim)

    def attention_bytes(self, layout: CacheLayout, queries: int) -> int:
        """Shared memory of an attention block with `queries` queries, each with its GQA group."""
        k, v = layout.form("k"), layout.form("v")
        queries_and_sums = k.rows + self.v_slices(layout) * v.rows
        scores = (self.k_slices(layout) + 2 + value_scales(layout)) * layout.page
        return _FLOAT * (queries * layout.group * (queries_and_sums + scores + LANES + 2) + table_entries((k, v)))

    def append_bytes(self, layout: CacheLayout) -> int:
        """Shared memory of a block that encodes a page."""
        forms = layout.form("k"), layout.form("v")
        return _FLOAT * (2 * table_entries(forms) + scratch_floats(layout) + sketch_floats(forms))

    def fits(self, layout: CacheLayout, queries: int) -> bool:
        """Whether an attention block of `queries` queries stays within the registers and the shared memory."""
        within_registers = queries == 1 or queries * layout.group <= _MAX_ROWS
        return within_registers and self.attention_bytes(layout, queries) <= SHARED_BYTES

    def check(self, layout: CacheLayout, dtype: str, queries: int = 1) -> None:
        """Raises TargetError if kernels for this layout, activation dtype and number of queries cannot be built."""
        if dtype not in DTYPES:
            _refuse("dtype", " or ".join(DTYPES), dtype)
        if layout.head_dim % LANES:
            _refuse("head_dim", f"a multiple of {LANES}", layout.head_dim)
        if layout.page % LANES:
            _refuse("page", f"a multiple of {LANES}", layout.page)
        if layout.query_heads % layout.kv_heads:
            _refuse("query_heads", f"a multiple of the {layout.kv_heads} KV heads", layout.query_heads)
        if not self.fits(layout, queries):
            _refuse(
                "query_rows × GQA group",
                f"at most {_MAX_ROWS} rows and {SHARED_BYTES} bytes of shared memory",
                f"{queries * layout.group} rows and {self.attention_bytes(layout, queries)} bytes",
            )

    def check_append(self, layout: CacheLayout) -> None:
        """Raises TargetError if a block cannot encode a page of this layout."""
        if self.append_bytes(layout) > SHARED_BYTES:
            _refuse(
                "layout in append",
                f"at most {SHARED_BYTES} bytes of shared memory",
                f"{self.append_bytes(layout)} bytes",
            )


def value_scales(layout: CacheLayout) -> int:
    """Arrays of weights that a tile of values needs: one for each scale of its bands."""
    return max(1, len({band.scale for band in layout.form("v").coded_bands}))


def _largest_divisor(number: int, limit: int) -> int:
    return next(divisor for divisor in range(max(1, min(number, limit)), 0, -1) if number % divisor == 0)


def _refuse(what: str, expected: str, found: object) -> None:
    raise TargetError(f"CUDA kernels cannot take this {what}", expected=expected, found=str(found))
