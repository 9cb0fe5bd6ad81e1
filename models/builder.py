"""A decoder of transformers → ONNX with the model builder of onnxruntime-genai: GroupQueryAttention and no masks."""

from __future__ import annotations

import tempfile
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from tqc.models.trace import GRAPH_FILE


def write_onnx(model: Any, folder: Path, precision: str, provider: str, options: dict[str, str]) -> Path:
    """Writes model.onnx, its data and genai_config.json into `folder`.

    `precision` is fp32, fp16 or int4; `provider`, such as cpu or cuda, decides the type of the activations. `options`
    are the builder's extra options. Raises what the builder raises for models it does not know.
    """
    from onnxruntime_genai.models import builder  # takes a second, and is only there with the extra `dev`

    from tqc.models.tiny import byte_tokenizer

    with tempfile.TemporaryDirectory() as scratch, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        source, cache = f"{scratch}/source", f"{scratch}/cache"
        model.save_pretrained(source)
        PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer()).save_pretrained(source)
        place = ("", source, str(folder), precision, provider, cache)
        extra = builder.parse_extra_options(*place, [f"{name}={value}" for name, value in options.items()])
        builder.create_model(*place, **extra)
    return folder / GRAPH_FILE
