"""A decoder of transformers in PyTorch → ONNX with torch's newer exporter (torch.export), every length dynamic."""

from __future__ import annotations

import warnings
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from tqc.models.trace import GRAPH_FILE, CacheAsTensors, example, interface


def write_onnx(model: Any, folder: Path, *, opset: int) -> Path:
    """Writes `model.onnx` and `model.onnx.data` into `folder`, with the inputs and outputs of `trace.write_onnx`.

    From opset 23 on the graph has the operators Attention, RotaryEmbedding and RMSNormalization where torch finds them.
    """
    inputs, outputs, axes = interface(model.config)
    # The exporter names the sizes itself, as it does for people who do not share torch.export.Dim between inputs.
    shapes = [dict.fromkeys(axes[name], torch.export.Dim.DYNAMIC) for name in inputs]
    path = folder / GRAPH_FILE
    with torch.no_grad(), warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            CacheAsTensors(model).eval(),
            example(model),
            dynamo=True,
            opset_version=opset,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=(*shapes[:3][:2], (shapes[2], *shapes[3:])),
            verbose=False,
        )
        program.save(str(path), external_data=True)
    return path
