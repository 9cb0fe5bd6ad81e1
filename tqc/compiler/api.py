"""`tqc.compile`: what `tqc compile` does, from Python, also for programs of `torch.export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqc.errors import PassError
from tqc.frontend.from_torch import is_program, load_program

from .compile import compile_model
from .options import CompileOptions

_PATHS = ("calibrate", "dump_dir", "tokenizer", "tune_logs")


def compile(model: str | Path | Any, output: str | Path, **options: Any) -> Path:
    """Compiles a decoder with its KV cache and writes the artifact directory `output`; returns its path.

    `model` is the path of an ONNX file, or a `torch.export.ExportedProgram` of a decoder whose forward takes input_ids
    [batch, seq], attention_mask [batch, past + seq], position_ids [batch, seq] if the model has them, and past keys
    and values [batch, kv_heads, past, head_dim] in any nesting, with batch, seq and past dynamic, and returns logits
    and the extended keys and values. Nothing of a program is written to disk but the artifact; its weights are read
    from torch's memory. `options` are the fields of `CompileOptions`; `tokenizer` names the folder with a program's
    tokenizer.json and config.json: without it nothing is copied and keys are not centred.

    Raises TqcError: see `compile_model`; FrontendError also without the extra `export`, which programs need.
    """
    paths = {name: Path(value) for name, value in options.items() if name in _PATHS and value is not None}
    source = load_program(model) if is_program(model) else Path(model) if isinstance(model, str | Path) else None
    if source is None:
        raise PassError(
            "Not a model", expected="a path or a torch.export.ExportedProgram", found=type(model).__qualname__
        )
    return compile_model(CompileOptions(model=source, output=Path(output), **{**options, **paths}))
