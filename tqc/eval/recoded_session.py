"""A float model whose old tokens pass through a codec: what a cache format does to the answers, without its kernels.

onnxruntime runs the exported model with a float cache. Whenever a page of tokens leaves the exact window, as it would
in a compiled artifact, its keys and values are replaced by what the codec gives back. So formats that `tqc` has no
kernels for, and those that it has, are compared by the same rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from tqc.codec.layout import CacheLayout
from tqc.errors import SessionError
from tqc.eval.onnx_session import OnnxSession

Recode = Callable[[int, str, np.ndarray], np.ndarray]
"""(layer, `k` or `v`, vectors [Hk, page, D] float32) → what is read back of them, the same shape."""


class RecodedSession(OnnxSession):
    """`OnnxSession` with `sinks` first and `recent` newest tokens exact; all others went through `recode` page by page.

    Chunks of more than `page` tokens are refused: their tokens would be read exactly for too long.
    """

    def __init__(
        self,
        path: str | Path | OnnxSession,
        recode: Recode,
        *,
        sinks: int = 4,
        recent: int = 128,
        page: int = 64,
        threads: int = 0,
    ) -> None:
        self._recode = recode
        self._layout = CacheLayout(1, 1, 64, sinks=sinks, recent=recent, page=page)
        super().__init__(path, threads=threads)

    def prefill(self, ids: Sequence[int], *, all_logits: bool = False) -> np.ndarray:
        """As `OnnxSession.prefill`; pages that become due are recoded then. Raises SessionError for a long chunk."""
        page = self._layout.page
        if len(ids) > page:
            raise SessionError("the chunk is longer than a page", expected=f"at most {page}", found=str(len(ids)))
        before = self._layout.coded(self.length)
        logits = super().prefill(ids, all_logits=all_logits)
        after = self._layout.coded(self.length)
        if after > before:
            for name, value in self._past.items():
                vectors = value.numpy()
                layer, side = _place(name)
                for start in range(self._layout.sinks + before, self._layout.sinks + after, page):
                    part = np.s_[0, :, start : start + page]
                    vectors[part] = self._recode(layer, side, vectors[part].astype(np.float32))
                self._past[name] = onnxruntime.OrtValue.ortvalue_from_numpy(vectors)
        return logits


def _place(name: str) -> tuple[int, str]:
    """Layer and side of the input past_key_values.N.key or .value."""
    _, layer, side = name.split(".")
    return int(layer), side[0]
