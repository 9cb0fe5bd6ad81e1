"""A float model whose old tokens pass through a codec: what a cache format does to the answers, without its kernels.

An artifact with an exact cache runs the model. Whenever a page of tokens leaves the exact window, as it would in an
artifact of the format, its keys and values are replaced by what the codec gives back. So formats that `tqc` has no
kernels for, and those that it has, are compared by the same rules.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence

import numpy as np

from tqc.codec.layout import CacheLayout
from tqc.errors import SessionError
from tqc.runtime.kv_bytes import KvBytes
from tqc.runtime.session import Session

Recode = Callable[[int, str, np.ndarray], np.ndarray]
"""(layer, `k` or `v`, vectors [Hk, page, D] float32) → what is read back of them, the same shape."""


class RecodedSession:
    """`session` with `sinks` first and `recent` newest tokens exact; all others went through `recode` page by page.

    `session` holds one sequence in an artifact that was compiled with `--kv fp32 --sinks 0 --recent 0`, so that every
    token lies in a page. Chunks of more than `page` tokens are refused: their tokens would be exact for too long.
    """

    def __init__(self, session: Session, recode: Recode, *, sinks: int = 4, recent: int = 128, page: int = 64) -> None:
        """Raises SessionError for another artifact."""
        cache, layers = session.manifest.cache, session.manifest.layers
        exact = all((layer.k, layer.v) == ("fp32", "fp32") for layer in layers)
        rings = any(spec.ring for specs in cache.state for spec in specs)
        if not exact or cache.sinks or cache.recent or rings or session.batch != 1:
            raise SessionError(
                "This artifact cannot be recoded",
                where=str(session.path),
                expected="one sequence, no sliding windows, --kv fp32 --sinks 0 --recent 0",
            )
        self._session, self._recode, self._page = session, recode, cache.page
        self._layout = CacheLayout(1, 1, 64, sinks=sinks, recent=recent, page=page)
        pointers, pages = iter(session.state_pointers()), cache.pages(session.max_context)
        self._state = [
            {spec.name: _writable(next(pointers), spec.bind(1, pages)) for spec in specs} for specs in cache.state
        ]

    @property
    def kv_bytes(self) -> KvBytes:
        """Bytes of the exact cache."""
        return self._session.kv_bytes

    def reset(self) -> None:
        """Empties the cache."""
        self._session.reset()

    def decode(self, ids: Sequence[int]) -> np.ndarray:
        """Appends one token; its logits (1, vocab)."""
        return self.prefill(ids)

    def prefill(self, ids: Sequence[int], *, all_logits: bool = False) -> np.ndarray:
        """Appends tokens; float logits (len(ids), vocab) with `all_logits`, else (1, vocab) of the last one.

        Pages that become due are recoded then. Raises SessionError for a long chunk.
        """
        page = self._layout.page
        if len(ids) > page:
            raise SessionError("the chunk is longer than a page", expected=f"at most {page}", found=str(len(ids)))
        before = self._layout.coded(self._session.length[0])
        logits = self._session.prefill(list(ids), all_logits=all_logits)
        after = self._layout.coded(self._session.length[0])
        for start in range(self._layout.sinks + before, self._layout.sinks + after, page):
            self._pass(range(start, min(start + page, self._layout.sinks + after)))
        return logits[0] if all_logits else logits

    def _pass(self, positions: range) -> None:
        """Puts the tokens at these positions through the codec."""
        places = [divmod(position, self._page) for position in positions]
        table, filled = self._session.page_table[0], self._session.length[0] // self._page
        for layer, place in enumerate(self._session.manifest.layers):
            for side in "kv":
                names = f"{side}_codes", f"tail_{side}"
                pages, tail = (self._vectors(layer, side, name, place.head_dim) for name in names)
                slots = [(table[page], slice(None), offset) for page, offset in places]
                vectors = np.stack([pages[slot] for slot in slots], axis=1)
                for slot, (page, offset), vector in zip(
                    slots, places, self._recode(layer, side, vectors).swapaxes(0, 1), strict=True
                ):
                    pages[slot] = vector
                    if page == filled:  # a page that is not full is written again, from here
                        tail[0, :, page % tail.shape[2], offset] = vector

    def _vectors(self, layer: int, side: str, name: str, head_dim: int) -> np.ndarray:
        """A view of pages or of the tail: [..., token, head_dim]."""
        array = self._state[layer][name]
        if name.startswith("tail"):
            return array.swapaxes(-1, -2) if side == "k" else array
        shape = (head_dim, self._page) if side == "k" else (self._page, head_dim)
        values = array.reshape(*array.shape[:-1], *shape)
        return values.swapaxes(-1, -2) if side == "k" else values


def _writable(pointer: int, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 numbers of a CPU tensor; NumPy's own view of one cannot be written."""
    memory = (ctypes.c_float * math.prod(shape)).from_address(pointer)
    return np.frombuffer(memory, np.float32).reshape(shape)
