"""`tqc compile`: an ONNX decoder in, an artifact out."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from tqc.artifact import (
    Cache,
    Centring,
    Digests,
    Kernel,
    Layer,
    Library,
    Manifest,
    Param,
    Source,
    StateTensor,
    command_line,
    write_artifact,
)
from tqc.codec import rotation, scheme
from tqc.codec.layout import CacheLayout, code_bits
from tqc.codec.lloyd_max import codebook
from tqc.codegen.target import parse_targets
from tqc.errors import ArtifactError, FrontendError
from tqc.frontend import Imported, import_model
from tqc.frontend.weights import ArrayTensor, Weight
from tqc.passes.centre_keys import mean_name
from tqc.passes.fold_value_rotation import RotateColumns
from tqc.passes.pipeline import Dump, cache_passes, run

from .build import Built, build
from .calibrate import KeyMeans, built_in_text, measure_key_means
from .options import CompileOptions

DEFAULT_CONTEXT = 8192
"""Tokens of context when neither the options nor the model's config say."""

PAGE_ORDER = "codes: uint16 units in bit planes, widest first; K [unit, token], V [unit, dim]; exact: K [dim, token], V [token, dim]"

FUNCTIONS = {
    "decode": "(input_ids int64 [B,1], length int32 [B], new_len int32 [B], page_table int32 [B,N], state, params) "
    "-> logits [B,1,V]",
    "prefill": "(input_ids int64 [B,S], length, new_len, page_table, state, params) "
    "-> logits [B,1,V] of the last token",
    "prefill_all": "(input_ids int64 [B,S], length, new_len, page_table, state, params) -> logits [B,S,V]",
}


def compile_model(options: CompileOptions) -> Path:
    """Compiles `options.model` and writes the artifact directory `options.output`; returns its path.

    Raises FrontendError for a model that is not understood, CodecError for an unknown scheme, TargetError for a target
    that cannot be built here, ArtifactError if the output exists or cannot be written. Nothing is left half-written.
    """
    progress = options.progress
    if options.output.exists() and not options.force:
        raise ArtifactError("The output already exists", where=str(options.output), hint="pass --force to replace it")
    targets = parse_targets(options.target, options.arch)
    schemes = scheme.parse(options.kv)

    progress("reading the model", 0.0)
    imported = import_model(options.model)
    progress("measuring key means", 0.15)
    means = _key_means(options, imported, schemes[0])
    weights: dict[str, Weight] = dict(imported.weights)
    for layer, mean in (means.means if means else {}).items():
        name, array = mean_name(layer), np.ascontiguousarray(mean[:, None, :])
        weights[name] = Weight(name, array.shape, "float32", ArrayTensor(array), name)

    progress("running the passes", 0.35)
    dump = Dump(options.dump_dir) if options.dump_dir else None
    if dump:
        dump(imported.mod, "import")
    shared = run(
        imported.mod,
        cache_passes(
            schemes=schemes,
            sinks=options.sinks,
            recent=options.recent,
            page=options.page,
            means=means.means if means else {},
            weights=weights,
            fold=options.fold,
        ),
        dump,
    )
    builts = []
    for index, target in enumerate(targets):
        progress(f"building for {target}", 0.4 + 0.4 * index / len(targets))
        laid_out = dict(weights)
        builts.append((build(shared, target, laid_out, dump), laid_out))
    built, final = builts[0]
    if any(other.params != built.params for other, _ in builts[1:]):
        raise ArtifactError("The targets want different weight layouts", hint="compile them into separate artifacts")

    progress("writing the artifact", 0.85)
    manifest = _manifest(options, imported, schemes, [b for b, _ in builts], means, final)
    out = write_artifact(
        options.output,
        manifest=manifest,
        libraries={_library_name(b): b.export for b, _ in builts},
        params=[Param(name, final[name].shape, final[name].dtype, final[name].numpy) for name in built.params],
        tokenizer_dir=options.model.parent,
        force=options.force,
    )
    progress("done", 1.0)
    return out


def _key_means(options: CompileOptions, imported: Imported, k_scheme: str) -> KeyMeans | None:
    if not options.centre or not code_bits(k_scheme):
        return None
    text = built_in_text()
    if options.calibrate is not None:
        try:
            text = options.calibrate.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FrontendError(
                "the calibration text cannot be read", where=str(options.calibrate), found=str(error)
            ) from error
    means = measure_key_means(options.model, text, skip=options.sinks)
    if means is None and options.calibrate is not None:
        raise FrontendError(
            "a calibration text needs the model's tokenizer", expected="tokenizer.json beside the model"
        )
    if means is not None and set(means.means) != set(range(len(imported.layers))):
        raise FrontendError("the present keys are not those of the layers", found=str(sorted(means.means)))
    return means


def _library_name(built: Built) -> str:
    return f"model-{built.target.kind}-{built.target.arch}.so"


def _manifest(
    options: CompileOptions,
    imported: Imported,
    schemes: tuple[str, str],
    builts: list[Built],
    means: KeyMeans | None,
    weights: dict[str, Weight],
) -> Manifest:
    layouts = [
        CacheLayout(x.query_heads, x.kv_heads, x.head_dim, *schemes, options.sinks, options.recent, options.page)
        for x in imported.layers
    ]
    folded = sum(isinstance(t, RotateColumns) for w in weights.values() for t in w.transforms if not _is_bias(w))
    return Manifest(
        tqc_version=metadata.version("turboquant-compiler"),
        tvm_version=metadata.version("apache-tvm"),
        tvm_ffi_version=metadata.version("apache-tvm-ffi"),
        source=Source(file=options.model.name, sha256=imported.sha256, opset=imported.opset, dtype=imported.dtype),
        command_line=command_line("compile", options.model, _recorded(options)),
        libraries=tuple(
            Library(file=_library_name(b), kind=b.target.kind, arch=b.target.arch, cpu_level=b.target.cpu_level)
            for b in builts
        ),
        layers=tuple(
            _layer(info, layout, bool(means), folded >= len(layouts), f"layer{index}")
            for index, (info, layout) in enumerate(zip(imported.layers, layouts, strict=True))
        ),
        cache=Cache(
            sinks=options.sinks,
            recent=options.recent,
            page=options.page,
            exact_dtype=layouts[0].exact_dtype,
            page_order=PAGE_ORDER,
            state=tuple(
                tuple(StateTensor(name=s.name, shape=s.shape, dtype=s.dtype) for s in layout.tensors())
                for layout in layouts
            ),
        ),
        digests=_digests(layouts),
        vocab_size=imported.vocab_size,
        max_context=options.max_context or _model_context(options.model) or DEFAULT_CONTEXT,
        functions=FUNCTIONS,
        params=builts[0].params,
        kernels=tuple(
            Kernel(name=f"{b.target}/{k.name}", schedule=k.schedule, config=k.config) for b in builts for k in b.kernels
        ),
        centring=Centring(sha256=means.sha256, tokens=means.tokens) if means else None,
    )


def _is_bias(weight: Weight) -> bool:
    return len(weight.shape) == 1


def _layer(info: Any, layout: CacheLayout, centred: bool, folded: bool, _name: str) -> Layer:
    per_vector = {
        side: layout.head_dim * bits // 8 + 2 if (bits := code_bits(side)) else layout.head_dim * int(side[2:]) // 8
        for side in (layout.k, layout.v)
    }
    rotation_at = "none" if not code_bits(layout.v) else "folded" if folded else "runtime"
    return Layer(
        query_heads=layout.query_heads,
        kv_heads=layout.kv_heads,
        head_dim=layout.head_dim,
        k=layout.k,
        v=layout.v,
        scale=info.scale,
        softcap=info.softcap,
        window=info.window,
        bytes_per_token_k=per_vector[layout.k] * layout.kv_heads,
        bytes_per_token_v=per_vector[layout.v] * layout.kv_heads,
        key_mean=centred and not info.softcap,
        value_rotation=rotation_at,
    )


def _digests(layouts: list[CacheLayout]) -> Digests:
    codebooks, rotations = {}, {}
    for layout in layouts:
        for side in (layout.k, layout.v):
            if bits := code_bits(side):
                book = codebook(bits, layout.head_dim)
                codebooks[f"{side}-d{layout.head_dim}"] = _sha256(book.centroids)
                rotations[f"d{layout.head_dim}-seed0"] = _sha256(rotation.matrix(layout.head_dim, 0))
    return Digests(codebooks=codebooks, rotations=rotations)


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _recorded(options: CompileOptions) -> dict[str, object]:
    """The options that the result depends on, as the command line would spell them."""
    named = {key: getattr(options, key) for key in ("target", "arch", "kv", "sinks", "recent", "page", "max_context")}
    named["calibrate"] = options.calibrate
    named["no_centre"] = not options.centre
    named["no_fold"] = not options.fold
    return named


def _model_context(model: Path) -> int | None:
    """`max_position_embeddings` of the model's config.json, if there is one."""
    config = model.parent / "config.json"
    if not config.is_file():
        return None
    try:
        value = json.loads(config.read_text(encoding="utf-8")).get("max_position_embeddings")
    except (json.JSONDecodeError, AttributeError, UnicodeDecodeError) as error:
        raise FrontendError("the model's config.json cannot be read", where=str(config), found=str(error)) from error
    return int(value) if isinstance(value, int) and value > 0 else None
