"""What an artifact says about itself: the fields of `manifest.json`, checked strictly when read and when written.

Sizes are bytes, lengths count tokens, digests are lower-case SHA-256. A name of a file is a plain name inside the
artifact's directory: no separator, no leading dot.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
PARAMS = "params.safetensors"

FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._+-]*$", max_length=128)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Symbol = Annotated[str, StringConstraints(pattern=r"^(batch|pages|ring[1-9][0-9]{0,8})$")]
Dtype = Literal["float32", "float16", "bfloat16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"]


class Strict(BaseModel):
    """Base of every part: no field more, no field less, no conversion between types, never changed."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Source(Strict):
    """The model that was compiled: name of its file without a folder, digest, opset, dtype of its weights."""

    file: str
    sha256: Digest
    opset: Positive
    dtype: str


class Library(Strict):
    """One shared library. `arch` names what it was built for, `cpu_level` the x86-64 level its host code needs."""

    file: FileName
    kind: Literal["cpu", "cuda"]
    arch: str
    cpu_level: str | None = None


class Layer(Strict):
    """One attention layer: geometry, schemes and what was done to its keys and values."""

    query_heads: Positive
    kv_heads: Positive
    head_dim: Positive
    k: str
    v: str
    scale: float
    softcap: float
    window: Count
    bytes_per_token_k: Positive
    bytes_per_token_v: Positive
    key_mean: bool
    value_rotation: Literal["folded", "runtime", "none"]

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one coded token, keys and values of all KV heads."""
        return self.bytes_per_token_k + self.bytes_per_token_v

    @property
    def fp16_bytes_per_token(self) -> int:
        """Bytes of the same token in an uncompressed fp16 cache."""
        return 2 * 2 * self.kv_heads * self.head_dim


class StateTensor(Strict):
    """A cache tensor; a dimension is a number or a symbol that the session binds.

    `batch`; `pages`: those of the pool; `ringN`: the newest N pages of one sequence, which a layer with a sliding
    window keeps.
    """

    name: str
    shape: tuple[Positive | Symbol, ...]
    dtype: Dtype

    @property
    def paged(self) -> bool:
        """Whether the tensor holds coded pages."""
        return self.shape[0] == "pages" or self.ring is not None

    @property
    def ring(self) -> int | None:
        """The most pages of a sequence that the tensor holds; None if it holds all, or none."""
        slots = self.shape[1] if len(self.shape) > 1 else None
        return int(slots.removeprefix("ring")) if isinstance(slots, str) and slots.startswith("ring") else None

    def bind(self, batch: int, pages: int) -> tuple[int, ...]:
        """The shape for `batch` sequences of at most `pages` pages each."""
        sizes = {"batch": batch, "pages": batch * pages, f"ring{self.ring}": min(self.ring or 0, pages)}
        return tuple(dim if isinstance(dim, int) else sizes[dim] for dim in self.shape)


class Cache(Strict):
    """The cache shared by all layers. `state[layer]` lists tensors in the order in which the library takes them."""

    sinks: Count
    recent: Count
    page: Positive
    exact_dtype: Literal["float32", "float16"]
    page_order: str
    state: tuple[tuple[StateTensor, ...], ...]

    @property
    def order(self) -> str:
        """The order of numbers in a page, `lanes` or `fragments`: the first word of `page_order`."""
        return "fragments" if self.page_order.startswith("fragments") else "lanes"

    def pages(self, length: int) -> int:
        """Pages that `length` tokens of one sequence can touch."""
        return -(-max(0, length - self.sinks) // self.page)

    def coded(self, length: int) -> int:
        """Tokens after the sinks that are held as codes when the sequence has `length` tokens."""
        after_sinks = max(0, length - self.sinks)
        if self.recent == 0:
            return after_sinks
        return max(0, after_sinks - self.recent) // self.page * self.page


class Digests(Strict):
    """Digests of the constants that are baked into the kernels, by name."""

    codebooks: dict[str, Digest]
    rotations: dict[str, Digest]


class Kernel(Strict):
    """A generated kernel with the schedule and configuration it was built from."""

    name: str
    schedule: str
    config: dict[str, int | float | str | bool]


class Centring(Strict):
    """The text over which the key means were measured."""

    sha256: Digest
    tokens: Positive


class FileEntry(Strict):
    """Size in bytes and digest of one file."""

    size: Count
    sha256: Digest


class ForwardTensor(Strict):
    """An input or output of a model without a cache; names stand for sizes that vary, equal for equal names."""

    name: str
    dtype: Dtype | Literal["bool", "float64"]
    shape: tuple[Count | str, ...]


class InPlace(Strict):
    """One attention without a cache: what its keys and values pass through, as vectors of head_dim numbers."""

    head_dim: Positive
    k: str
    v: str


class Forward(Strict):
    """A model without a cache: one function `forward`. `limits` are the largest values of sizes that have any."""

    inputs: Annotated[tuple[ForwardTensor, ...], Field(min_length=1)]
    outputs: Annotated[tuple[ForwardTensor, ...], Field(min_length=1)]
    attention: Annotated[tuple[InPlace, ...], Field(min_length=1)]
    limits: dict[str, Positive]


class Manifest(Strict):
    """The whole description. `write_artifact` fills `files` and `manifest_sha256`; every other field comes from the
    compiler. `params` gives the order in which the library takes the weights, as one tuple argument.

    With `forward` the model has no cache: `cache` is None, `layers` empty, and `vocab_size` and `max_context` are 0.
    """

    format_version: Annotated[int, Field(ge=1, le=FORMAT_VERSION)] = FORMAT_VERSION
    tqc_version: str
    tvm_version: str
    tvm_ffi_version: str
    source: Source
    command_line: tuple[str, ...]
    libraries: Annotated[tuple[Library, ...], Field(min_length=1)]
    layers: tuple[Layer, ...]
    cache: Cache | None
    digests: Digests
    vocab_size: Count
    max_context: Count
    functions: dict[str, str]
    params: tuple[str, ...]
    kernels: tuple[Kernel, ...]
    centring: Centring | None
    forward: Forward | None = None
    files: dict[FileName, FileEntry] = {}
    manifest_sha256: Digest | Literal[""] = ""

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        decoder = (self.cache, self.layers, self.vocab_size, self.max_context)
        if self.forward is None and not all(decoder):
            raise ValueError("cache, layers, vocab_size and max_context are missing, and there is no forward")
        if self.forward is not None and any(decoder):
            raise ValueError("a model with forward has no cache, layers, vocab_size and max_context")
        if self.cache and len(self.cache.state) != len(self.layers):
            raise ValueError(f"cache.state describes {len(self.cache.state)} layers, layers {len(self.layers)}")
        if len(set(self.params)) != len(self.params):
            raise ValueError("params names a weight twice")
        if len({library.file for library in self.libraries}) != len(self.libraries):
            raise ValueError("libraries names a file twice")
        if self.files:
            needed = {PARAMS, *(library.file for library in self.libraries)}
            if missing := sorted(needed - set(self.files)):
                raise ValueError(f"files lacks {', '.join(missing)}")
            if MANIFEST in self.files:
                raise ValueError("files names the manifest itself")
        return self

    def digest(self) -> str:
        """SHA-256 of the manifest's JSON with `manifest_sha256` empty."""
        blank = self.model_copy(update={"manifest_sha256": ""})
        return hashlib.sha256(blank.model_dump_json().encode()).hexdigest()

    def to_bytes(self) -> bytes:
        """The bytes of `manifest.json`: the same manifest always gives the same ones."""
        sealed = self.model_copy(update={"manifest_sha256": self.digest()})
        return sealed.model_dump_json(indent=2).encode() + b"\n"
