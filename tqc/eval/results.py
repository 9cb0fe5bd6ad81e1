"""What an evaluation found: one document, written as JSON by `tqc eval` and read by whatever draws or compares it.

Sections that were not asked for, or not reached yet, are None. Shares are between 0 and 1, sizes bytes, lengths tokens,
KL nats, distortions relative to the energy of the vectors. Adding an optional field keeps `schema_version`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tqc.errors import TqcError
from tqc.files import replace_file

SCHEMA_VERSION = 1

Section = Literal["fidelity", "distortion", "logits", "retrieval", "bytes"]
SECTIONS: tuple[Section, ...] = ("bytes", "distortion", "logits", "fidelity", "retrieval")
"""All of them, the quick ones first."""

Count = Annotated[int, Field(ge=0)]


class Part(BaseModel):
    """Base of every part: no other fields, only finite numbers, never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Model(Part):
    """A model that was run. `digest`: an artifact's manifest_sha256, or the SHA-256 of an ONNX file and its weights."""

    name: str
    digest: str
    kind: Literal["artifact", "onnx"] = "artifact"
    schemes: str = ""


class Text(Part):
    """The text: name, digest, and how many tokens all of it has."""

    name: str
    sha256: str
    tokens: Count


class Hardware(Part):
    """Where it ran. `device`: cpu, cuda or cuda:N."""

    system: str
    cpu: str
    cores: int
    device: str


class LayerResult(Part):
    """One attention layer's coded pages against the exact vectors they were made from.

    `d_k`, `d_v` = Σ|x − x̃|² / Σ|x|² over `vectors` vectors of a side, `theory_k`, `theory_v` what Lloyd–Max theory
    gives for isotropic ones. `bits_*` count everything stored, scales included, per
    value. `slope_*` = Σ⟨x, x̃⟩ / Σ|x|², 1 for an unbiased code. `key_norm`, `value_norm`: root mean square norms of what
    is coded, the key mean already taken out. `logit_sd` is the measured standard deviation of scale·⟨q, k̃ − k⟩,
    `logit_law` the law's |q|·|k|·√theory·scale/√head_dim, both for queries of norm `query_norm` in directions that
    `queries` names.
    """

    layer: Count
    k: str
    v: str
    head_dim: Count
    kv_heads: Count
    window: Count = 0
    bits_k: float
    bits_v: float
    vectors: Count
    key_norm: float
    value_norm: float
    d_k: float | None = None
    d_v: float | None = None
    theory_k: float | None = None
    theory_v: float | None = None
    slope_k: float | None = None
    slope_v: float | None = None
    logit_sd: float | None = None
    logit_law: float | None = None
    query_norm: float | None = None
    queries: str = ""


class Sums(Part):
    """Sums over the `tokens` predictions of one window of the text; those of a comparison are 0 without a reference."""

    tokens: Count
    loss: float
    agreed: Count = 0
    reference_loss: float = 0.0
    kl: float = 0.0
    kl_max: float = 0.0
    max_difference: float = 0.0


class Fidelity(Part):
    """Next-token predictions, teacher-forced in windows of at most `window` tokens with an empty cache before each.

    `agreement`: share of predictions whose most likely token is the reference's; `kl` = mean KL(reference ‖ artifact);
    `perplexity_change` 0.01 is 1 % worse. What needs a reference is None without one. Fewer `tokens` than `wanted`: the
    run was interrupted.
    """

    wanted: Count
    tokens: Count
    window: Count
    chunk: Count
    mode: str
    perplexity: float
    agreement: float | None = None
    reference_perplexity: float | None = None
    perplexity_change: float | None = None
    kl: float | None = None
    kl_max: float | None = None
    max_difference: float | None = None
    windows: tuple[Sums, ...] = ()


class Cell(Part):
    """Retrieval tasks of one kind: `correct` of `total` answered exactly, `reference_correct` by the reference.

    `depth` is where the needle lies in the prompt of `length` tokens: 0 the start, 1 the end.
    """

    task: str
    length: Count
    depth: float
    correct: Count
    total: Count
    reference_correct: Count | None = None


class LayerBytes(Part):
    """Bytes of one coded token of a layer, all KV heads."""

    layer: Count
    k: int
    v: int
    fp16: int


class CacheSize(Part):
    """The cache of one sequence of `tokens` tokens: `bytes` in use, sinks and exact window included."""

    tokens: Count
    bytes: Count
    fp16_bytes: Count
    compression: float


class Bytes(Part):
    """Bytes of the cache. `compression` is that of a coded token, what the whole cache tends to as the context grows
    (sliding windows apart). `exact`: sinks and recent window of one sequence, whatever its length."""

    per_token: Count
    fp16_per_token: Count
    compression: float
    exact: Count
    page: Count
    page_tokens: Count
    per_layer: tuple[LayerBytes, ...]
    contexts: tuple[CacheSize, ...]


class Results(Part):
    """The document. `settings` holds, for each section, what it was measured with; `finished` names those complete."""

    schema_version: Literal[1] = SCHEMA_VERSION
    tqc_version: str
    created: str
    updated: str
    artifact: Model
    reference: Model | None = None
    text: Text | None = None
    hardware: Hardware
    settings: dict[Section, dict[str, int | float | str | list[int] | list[float] | None]] = {}
    finished: tuple[Section, ...] = ()
    seconds: dict[Section, float] = {}
    layers: tuple[LayerResult, ...] | None = None
    fidelity: Fidelity | None = None
    retrieval: tuple[Cell, ...] | None = None
    bytes: Bytes | None = None


def read_results(path: Path) -> Results:
    """The document in a file. Raises TqcError if it is none, damaged, or of a newer version."""
    try:
        return Results.model_validate_json(path.read_bytes())
    except OSError as error:
        raise TqcError("the results cannot be read", where=str(path), found=error.strerror or str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise TqcError(
            "this is no document of evaluation results",
            where=f"{path}: {'.'.join(map(str, first['loc'])) or 'JSON'}",
            expected=f"what `tqc eval -o` writes, schema version {SCHEMA_VERSION}",
            found=first["msg"],
        ) from error


def write_results(path: Path, results: Results) -> None:
    """Replaces the file by the document in one step: a reader, or a crash, never meets half of one."""
    replace_file(path, results.model_dump_json(indent=2).encode() + b"\n")


def merged(old: Sequence[LayerResult] | None, new: Sequence[LayerResult]) -> tuple[LayerResult, ...]:
    """Layers with the fields that `new` measured, and `old`'s where it did not."""
    before = {layer.layer: layer for layer in old or ()}
    return tuple(
        before[layer.layer].model_copy(update=layer.model_dump(exclude_none=True, exclude_defaults=True))
        if layer.layer in before
        else layer
        for layer in new
    )
