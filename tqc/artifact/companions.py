"""The files beside a model that say how it is used: its tokenizer, chat template and settings."""

from __future__ import annotations

from pathlib import Path

COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "genai_config.json",
)
"""Names that Hugging Face's and ONNX Runtime's tools give them."""


def companions(model: Path | None) -> dict[str, Path]:
    """Name → path of every such file beside the model; none if it lies nowhere.

    A model in a folder named `onnx` that holds none of them has them in the folder above, as repositories for
    transformers.js do.
    """
    if model is None:
        return {}
    folder = model.absolute().parent
    found = _in(folder)
    return _in(folder.parent) if not found and folder.name == "onnx" else found


def _in(folder: Path) -> dict[str, Path]:
    return {name: folder / name for name in COMPANIONS if (folder / name).is_file()}
