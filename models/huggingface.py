"""Loads a decoder and its tokenizer from a Hugging Face folder or a GGUF file on this disk; nothing is downloaded."""

from __future__ import annotations

from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import transformers

from tqc.errors import ExportError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


def load(source: Path, dtype: str) -> tuple[Any, Any | None]:
    """(model, tokenizer or None) of a folder with config.json and safetensors, or of a .gguf file.

    Quantised GGUF weights are expanded to `dtype` (`fp32`, `fp16`). Raises ExportError with transformers' own words
    when it cannot read the source.
    """
    gguf = source.suffix == ".gguf"
    folder, extra = (source.parent, {"gguf_file": source.name}) if gguf else (source, {})
    extra["local_files_only"] = True
    has_tokenizer = gguf or any((folder / name).is_file() for name in TOKENIZER_FILES)
    try:
        with redirect_stderr(StringIO()):  # several progress bars of its own
            model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=DTYPES[dtype], attn_implementation="sdpa", **extra
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **extra) if has_tokenizer else None
    except Exception as error:  # damaged files make the readers raise anything, struct.error for one
        raise ExportError(
            "transformers cannot load this model",
            where=str(source),
            expected="a decoder with config.json and safetensors, or a .gguf file",
            found=f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}",
        ) from error
    _forget_origin(model.config)
    return model.eval(), tokenizer


def save_settings(model: Any, tokenizer: Any | None, folder: Path) -> None:
    """Writes config.json, generation_config.json and the tokenizer's files into `folder`."""
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _forget_origin(config: Any) -> None:
    """The written weights are plain floats: drop the traces of the GGUF file, and paths of this machine."""
    for name in ("quantization_config", "_model_name_or_path"):
        if hasattr(config, name):
            delattr(config, name)
    config._name_or_path = ""
