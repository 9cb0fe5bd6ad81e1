"""What the artifact says about a compilation."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
from tvm import relax

from tqc.artifact import (
    Cache,
    Centring,
    Digests,
    Kernel,
    Layer,
    Library,
    Manifest,
    Source,
    StateTensor,
    command_line,
)
from tqc.artifact.companions import companions
from tqc.artifact.settings import Settings, read_settings
from tqc.codec import rotation
from tqc.codec.form import form
from tqc.codec.layout import CacheLayout
from tqc.dialect import is_op_call, layout_of
from tqc.errors import FrontendError, PassError
from tqc.frontend import Imported
from tqc.passes.centre_keys import mean_name

from .build import Built
from .calibrate import KeyMeans
from .options import CompileOptions

DEFAULT_CONTEXT = 8192
"""Tokens of context when neither the options nor the files beside the model say."""

PAGE_ORDERS = {
    "lanes": "lanes: codes uint16 units in bit planes, widest first, K [unit, token], V [unit, dim]; "
    "exact K [dim, token], V [token, dim]",
    "fragments": "fragments: codes uint32 words, exact values and scales in the order of mma.m16n8k16, see tqc.codec",
}
"""What the manifest says of a layout's order of pages; its first word names it."""

FUNCTIONS = {
    "decode": "(input_ids int64 [B,1], length int32 [B], new_len int32 [B], page_table int32 [B,N], state, params) "
    "-> logits [B,1,V]",
    "prefill": "(input_ids int64 [B,S], length, new_len, page_table, state, params) "
    "-> logits [B,1,V] of the last token",
    "prefill_all": "(input_ids int64 [B,S], length, new_len, page_table, state, params) -> logits [B,S,V]",
}


def describe(
    options: CompileOptions,
    imported: Imported,
    decode: relax.Function,
    builts: Sequence[Built],
    means: KeyMeans | None,
    max_context: int,
) -> Manifest:
    """The manifest of a compilation; `decode` is that function before it was lowered to kernels."""
    layouts = cache_layouts(decode)
    rotated = values_rotated_at_run_time(decode)
    first = next(iter(layouts.values()))
    info = {layer.layer: layer for layer in imported.layers}
    return Manifest(
        tqc_version=metadata.version("turboquant-compiler"),
        tvm_version=metadata.version("apache-tvm"),
        tvm_ffi_version=metadata.version("apache-tvm-ffi"),
        source=Source(file=options.name, sha256=imported.sha256, opset=imported.opset, dtype=imported.dtype),
        command_line=command_line("compile", options.name, _recorded(options)),
        libraries=tuple(
            Library(file=library_name(b), kind=b.target.kind, arch=b.target.arch, cpu_level=b.target.cpu_level)
            for b in builts
        ),
        layers=tuple(
            Layer(
                query_heads=layout.query_heads,
                kv_heads=layout.kv_heads,
                head_dim=layout.head_dim,
                k=layout.k,
                v=layout.v,
                scale=info[number].scale,
                softcap=info[number].softcap,
                window=info[number].window,
                bytes_per_token_k=_token_bytes(layout, "k"),
                bytes_per_token_v=_token_bytes(layout, "v"),
                key_mean=mean_name(number) in builts[0].params,
                value_rotation=(
                    "none" if layout.form("v").basis == "none" else "runtime" if number in rotated else "folded"
                ),
            )
            for number, layout in layouts.items()
        ),
        cache=Cache(
            sinks=options.sinks,
            recent=options.recent,
            page=options.page,
            exact_dtype=first.exact_dtype,
            page_order=PAGE_ORDERS[first.order],
            state=tuple(
                tuple(StateTensor(name=s.name, shape=s.shape, dtype=s.dtype) for s in layout.tensors())
                for layout in layouts.values()
            ),
        ),
        digests=digests_of(
            ((side, layout.head_dim) for layout in layouts.values() for side in (layout.k, layout.v)), options.rounds
        ),
        vocab_size=imported.vocab_size,
        max_context=max_context,
        functions=FUNCTIONS,
        params=builts[0].params,
        kernels=tuple(
            Kernel(name=f"{b.target}/{k.name}", schedule=k.schedule, config=k.config) for b in builts for k in b.kernels
        ),
        centring=Centring(sha256=means.sha256, tokens=means.tokens) if means else None,
    )


def library_name(built: Built) -> str:
    """File name of a target's library."""
    return f"model-{built.target.kind}-{built.target.arch}.so"


def cache_layouts(decode: relax.Function) -> dict[int, CacheLayout]:
    """The cache layout of every layer, in the order of the state tensors."""
    return {
        int(b.value.attrs["layer"]): layout_of(b.value)
        for block in decode.body.blocks
        for b in block.bindings
        if is_op_call(b.value, "cache_append")
    }


def values_rotated_at_run_time(decode: relax.Function) -> set[int]:
    """Layers whose values, or the output made of them, still change their basis by an operation of their own."""
    values = {b.var: b.value for block in decode.body.blocks for b in block.bindings}

    def turns(value: relax.Expr | None) -> bool:
        return is_op_call(value, "rotate") or is_op_call(value, "change_basis")

    layers = set()
    for value in values.values():
        if is_op_call(value, "cache_append") and turns(values.get(value.args[1])):
            layers.add(int(value.attrs["layer"]))
        if turns(value):
            source = values.get(value.args[0])
            if is_op_call(source, "sketch"):
                source = values.get(source.args[0])
            if is_op_call(source, "cached_attention"):
                layers.add(int(source.attrs["layer"]))
    return layers


def model_settings(model: Path | None) -> Settings:
    """What the files beside the model say. Raises FrontendError for those that cannot be read."""
    files = companions(model)

    def read(name: str) -> str | None:
        try:
            return files[name].read_text(encoding="utf-8") if name in files else None
        except (OSError, UnicodeDecodeError) as error:
            raise FrontendError(
                "A file beside the model cannot be read", where=str(files[name]), found=str(error)
            ) from error

    return read_settings(read, FrontendError)


def check_context(options: CompileOptions, settings: Settings) -> int:
    """The artifact's longest sequence. Raises PassError if more is asked for than the model has positions."""
    limit = settings.context
    if options.max_context and limit and options.max_context > limit:
        raise PassError(
            "--max-context is more than the model was made for",
            expected=f"at most {limit}, as the settings beside it say",
            found=str(options.max_context),
        )
    return options.max_context or limit or DEFAULT_CONTEXT


def limit_context(options: CompileOptions, max_context: int, longest: int | None) -> int:
    """`max_context`, or less where the model changes after `longest` tokens. Raises PassError if more is asked for."""
    if longest and options.max_context and options.max_context > longest:
        raise PassError(
            "--max-context is more than one rotation of the model serves",
            expected=f"at most {longest}: beyond, the model takes other frequencies for all of its tokens",
            found=str(options.max_context),
        )
    return min(max_context, longest or max_context)


def _token_bytes(layout: CacheLayout, side: str) -> int:
    """Bytes of one token of a side, scales included; rounded up where only a page of them is whole."""
    return math.ceil(layout.form(side).bytes_per_vector * layout.kv_heads)


def digests_of(used: Iterable[tuple[str, int]], rounds: int = 1) -> Digests:
    """Digests of the codebooks and rotations of schemes with their head_dim."""
    codebooks, rotations = {}, {}
    for side, head_dim in used:
        stored = form(side, head_dim)
        for band in stored.coded_bands:
            name = f"sketch{band.rows}" if band.sketch else f"{band.bits} bits of {stored.group_rows(band.scale)}"
            codebooks[f"{name}, d{head_dim}"] = _sha256(stored.table(band).centroids)
        if stored.basis == "rotation":
            rotations[f"d{head_dim}-seed0-rounds{rounds}"] = _sha256(rotation.matrix(head_dim, 0, rounds))
    return Digests(codebooks=codebooks, rotations=rotations)


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _recorded(options: CompileOptions) -> dict[str, object]:
    """The options that the result depends on, as the command line would spell them."""
    keys = ("target", "arch", "kv", "plan", "budget", "rounds", "sinks", "recent", "page", "max_context", "tune_logs")
    named = {key: getattr(options, key) for key in keys}
    if options.by_layer:
        del named["kv"]
    if options.rounds == 1:
        del named["rounds"]
    named["calibrate"] = options.calibrate
    named["no_centre"] = not options.centre
    named["no_fold"] = not options.fold
    return named
