"""A compiled model with its cache: prefill, decode, generate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import tvm_ffi

from ..artifact.manifest import Library, Manifest
from ..artifact.params import storage_dtype
from ..artifact.verify import verify as verify_artifact
from ..artifact.versions import check_versions
from ..errors import SessionError
from . import generate as generation
from .cpu import check_host, choose_cpu
from .cuda import choose_cuda
from .device import Device, RuntimeDevice, as_dtype, open_device
from .forward import ForwardModel
from .inputs import Inputs
from .kv_bytes import KvBytes, measure
from .library import open_library
from .pages import PageTable
from .requests import Ids, check_vocabulary, prompt_rows, step_ids
from .sampling import Sampling
from .weights import load_weights

PREFILL_CHUNK = 512
"""Tokens of one sequence that a prefill call takes at a time."""


def load(
    path: str | Path,
    device: str = "cpu",
    *,
    batch: int = 1,
    max_context: int | None = None,
    verify: bool = True,
    prefill_chunk: int = PREFILL_CHUNK,
) -> Session | ForwardModel:
    """Opens the artifact `path` on `device` (`cpu`, `cuda`, `cuda:N`) for `batch` sequences.

    `max_context` is the longest sequence in tokens, at most and by default the one the artifact was compiled for; the
    cache for it is reserved now and never moves. `verify=False` skips the digests of the files (sizes are always
    checked). Raises ArtifactError when the artifact is damaged or does not fit this machine, before any of its code is
    mapped, and SessionError when the device is missing or the numbers are out of range. A model that was compiled
    without a cache is a ForwardModel, for which there is nothing to reserve.
    """
    folder = Path(path)
    manifest = verify_artifact(folder, digests=verify)
    check_versions(manifest)
    if device == "cpu":
        library = choose_cpu(manifest)
    opened = open_device(device)
    if isinstance(opened, RuntimeDevice):
        library = choose_cuda(manifest, opened.capability)
        check_host(library)
    if manifest.forward:
        if (batch, max_context, prefill_chunk) != (1, None, PREFILL_CHUNK):
            raise SessionError(
                "A model without a cache takes no batch, max_context or prefill_chunk", where=str(folder)
            )
        return ForwardModel(folder, manifest, library, opened)
    return Session(folder, manifest, library, opened, batch, max_context, prefill_chunk)


class Session:
    """Sequences in flight. Not safe for use from several threads at once."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        library: Library,
        device: Device,
        batch: int = 1,
        max_context: int | None = None,
        prefill_chunk: int = PREFILL_CHUNK,
    ) -> None:
        limit = manifest.max_context
        _check_number("batch", batch, None)
        _check_number("prefill_chunk", prefill_chunk, None)
        _check_number("max_context", limit if max_context is None else max_context, limit)
        self.path, self.manifest, self.library = folder, manifest, library
        self.batch, self.prefill_chunk = batch, prefill_chunk
        self.max_context = limit if max_context is None else max_context
        self._device = device
        self._pages = PageTable(batch, manifest.cache.pages(self.max_context))
        self._lengths = np.zeros(batch, np.int32)
        self._function = open_library(folder / library.file, device.kind, device.index)
        self._weights = load_weights(folder, manifest, device)
        self._state = self._allocate()
        self._state_argument = tvm_ffi.Array([tensor for layer in self._state for tensor in layer])
        self._functions: dict[str, Callable] = {}
        self._inputs = Inputs(device)
        self._table: tuple[int, tvm_ffi.Tensor] | None = None

    def _allocate(self) -> list[list[tvm_ffi.Tensor]]:
        pages = self._pages.per_sequence
        try:
            return [
                [self._device.zeros(spec.bind(self.batch, pages), spec.dtype) for spec in layer]
                for layer in self.manifest.cache.state
            ]
        except (MemoryError, RuntimeError) as error:  # the host's and the device's way to say so
            raise SessionError(
                "The cache cannot be allocated",
                where=f"batch {self.batch}, max_context {self.max_context}",
                found=str(error).strip(),
                hint="load with a smaller max_context or batch",
            ) from error

    @property
    def vocab_size(self) -> int:
        return self.manifest.vocab_size

    @property
    def length(self) -> tuple[int, ...]:
        """Tokens of each sequence in the cache."""
        return tuple(int(length) for length in self._lengths)

    @property
    def kv_bytes(self) -> KvBytes:
        """The memory of the cache, measured from its buffers."""
        return measure(self.manifest, self._state, self.length)

    def state_pointers(self) -> list[int]:
        """Addresses of the cache's buffers, layer by layer in the order of the manifest."""
        return [tensor.data_ptr() for layer in self._state for tensor in layer]

    def read_state(self, layer: int, name: str) -> np.ndarray:
        """A copy of a layer's cache tensor that the manifest calls `name`; bfloat16 comes as uint16.

        `page_table` says which pages of the pool are whose. Raises SessionError if the layer has no such tensor.
        """
        specs = self.manifest.cache.state[layer]
        for spec, tensor in zip(specs, self._state[layer], strict=True):
            if spec.name == name:
                return self._device.download(as_dtype(tensor, str(storage_dtype(spec.dtype))))
        raise SessionError(
            "The layer has no such tensor",
            where=f"layer {layer}",
            expected=", ".join(spec.name for spec in specs),
            found=name,
        )

    @property
    def page_table(self) -> np.ndarray:
        """A copy of the page table, int32 [batch, pages]: where in the pool page i of sequence b lies."""
        return self._pages.table.copy()

    def reset(self) -> None:
        """Forgets all tokens. The buffers stay where they are."""
        self._lengths[:] = 0
        self._pages.clear()

    def prefill(
        self, ids: Ids, attention_mask: Ids | None = None, *, all_logits: bool = False
    ) -> np.ndarray | list[np.ndarray]:
        """Appends a prompt, or the next piece of one, to every sequence.

        `ids` is a flat list for a batch of one, a list of lists (ragged), or an array [batch, S] with `attention_mask`
        of the same shape for padding on either side. Long prompts run in chunks of `prefill_chunk` tokens. Returns the
        logits after the last token of each sequence, float32 [batch, vocab], or with `all_logits` a list of float32
        [n_i, vocab], one row a token.

        Raises SessionError before anything is written when the ids are not acceptable or do not fit `max_context`, and
        after the tokens were written when logits are not finite (see `advance`).
        """
        rows = prompt_rows(ids, attention_mask, self.batch, self.vocab_size)
        self.check_room([len(row) for row in rows])
        name = "prefill_all" if all_logits else "prefill"
        pieces: list[list[np.ndarray]] = [[] for _ in rows]
        bad: set[int] = set()
        for start in range(0, max(len(row) for row in rows), self.prefill_chunk):
            chunk = [row[start : start + self.prefill_chunk] for row in rows]
            logits = self._call(name, chunk)
            bad |= _not_finite(logits, chunk)
            for number, part in enumerate(chunk):
                if len(part):
                    kept = logits[number, : len(part)] if all_logits else logits[number, -1:]
                    pieces[number] = [*pieces[number], kept] if all_logits else [kept]
        _refuse_not_finite(bad)  # only now: the other sequences have their whole prompts
        if all_logits:
            return [np.concatenate(parts) for parts in pieces]
        return np.concatenate([parts[0] for parts in pieces])

    def decode(self, ids: Ids | int) -> np.ndarray:
        """Appends one token to every sequence and returns the logits after it, float32 [batch, vocab].

        `ids` holds one id per sequence (a number for a batch of one). Raises SessionError as `prefill` does.
        """
        return self.advance([int(row[0]) for row in step_ids(ids, self.batch, self.vocab_size)], [True] * self.batch)

    def advance(self, ids: Sequence[int | None], active: Sequence[bool]) -> np.ndarray:
        """`decode` for the sequences marked in `active`; the others stay as they are and their logits are undefined.

        When the logits of a sequence hold NaN or Inf (its keys or values overflowed), SessionError names it. All active
        sequences then have their token in the cache, only the named one is spoiled: later calls for it raise again.
        """
        rows = [np.array([token] if on else [], np.int64) for token, on in zip(ids, active, strict=True)]
        for number, row in enumerate(rows):
            check_vocabulary(row, number, self.vocab_size)
        self.check_room([len(row) for row in rows])
        logits = self._call("decode", rows)
        _refuse_not_finite(_not_finite(logits, rows))
        return logits[:, 0]

    def generate(
        self,
        ids: Ids,
        max_new_tokens: int,
        *,
        attention_mask: Ids | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        stop: Iterable[int] = (),
    ) -> Iterator[int] | Iterator[list[int | None]]:
        """Appends a prompt and yields the tokens that follow, as numbers for a batch of one, else as lists with one
        entry per sequence (None for sequences that have met a token of `stop`).

        The same seed gives the same tokens. The request is checked, and refused with SessionError, before this returns;
        nothing is written before the first token is asked for. The last token yielded is not in the cache.
        """
        rows = prompt_rows(ids, attention_mask, self.batch, self.vocab_size)
        steps = generation.generate(self, rows, max_new_tokens, Sampling(temperature, top_k, top_p), seed, stop)
        return (tokens[0] for tokens in steps) if self.batch == 1 else steps

    def forward(self, **_inputs: object) -> NoReturn:
        """Raises SessionError: a model with a cache has no such function."""
        raise SessionError(
            "A model with a cache has no forward", where=str(self.path), hint="call prefill, decode or generate"
        )

    def check_room(self, new: Sequence[int]) -> None:
        """Raises SessionError unless `new[b]` more tokens fit sequence b."""
        for number, (length, more) in enumerate(zip(self.length, new, strict=True)):
            if length + more > self.max_context:
                raise SessionError(
                    "The context is too small for these tokens; nothing was written",
                    where=f"sequence {number}",
                    expected=f"at most {self.max_context} tokens",
                    found=f"{length} in the cache and {more} more",
                    hint="shorten the prompt or load (or compile) with a larger max_context",
                )

    def _call(self, name: str, rows: list[np.ndarray]) -> np.ndarray:
        """Runs one function of the library on one chunk per sequence and returns its logits [batch, rows, vocab]."""
        new = np.array([len(row) for row in rows], np.int32)
        ids = np.zeros((self.batch, max(1, new.max())), np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            self._pages.grow(number, self.manifest.cache.pages(int(self._lengths[number]) + len(row)))
        function = self._functions.get(name) or self._functions.setdefault(name, self._function(name))
        put = self._inputs.put
        logits = self._device.download(
            function(
                *(put(f"{name} ids", ids), put("length", self._lengths), put("new_len", new), self._page_table()),
                *(self._state_argument, self._weights),
            )
        )
        self._lengths += new
        return logits.astype(np.float32, copy=False)  # an fp16 model gives fp16

    def _page_table(self) -> tvm_ffi.Tensor:
        if self._table is None or self._table[0] != self._pages.version:
            self._table = (self._pages.version, self._inputs.put("page_table", self._pages.table))
        return self._table[1]


def _not_finite(logits: np.ndarray, rows: list[np.ndarray]) -> set[int]:
    """The sequences among `rows` whose logits [batch, 1 or S, vocab] hold NaN or Inf; padding does not count."""
    return {b for b, row in enumerate(rows) if len(row) and not np.isfinite(logits[b, : len(row)]).all()}


def _refuse_not_finite(bad: set[int]) -> None:
    if bad:
        raise SessionError(
            "The logits are not finite",
            where=", ".join(f"sequence {number}" for number in sorted(bad)),
            found="NaN or Inf, in the model's own arithmetic or in its keys and values",
            hint="reset the session; other sequences are not affected",
        )


def _check_number(name: str, value: int, most: int | None) -> None:
    if value < 1 or (most is not None and value > most):
        limit = "1 or more" if most is None else f"1 to {most}, for which the artifact was compiled"
        raise SessionError("An option is out of range", where=name, expected=limit, found=f"{value}")
