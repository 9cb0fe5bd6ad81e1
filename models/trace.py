"""A decoder of transformers in PyTorch → ONNX in the `past_key_values.N.key/value` → `present.N.*` convention.

torch's TorchScript exporter is used: it traces the mask and the growing past with every length dynamic. Tied weights
are then stored once, and all large ones go into one file beside the graph, so that a reader can map them.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from transformers import DynamicCache

from tqc.models.tied import SMALLEST_BYTES, share_tied_weights

OPSET = 17
GRAPH_FILE, DATA_FILE = "model.onnx", "model.onnx.data"
TOTAL = "past_sequence_length + sequence_length"


class CacheAsTensors(torch.nn.Module):
    """The model with its cache as plain tensors: past in, logits and present out, layer by layer, key before value.

    Without `positions` there is no input position_ids, and the model counts its tokens itself.
    """

    def __init__(self, model: torch.nn.Module, positions: bool = True) -> None:
        super().__init__()
        self.model, self.positions = model, positions

    def forward(self, input_ids, attention_mask, *rest):
        position_ids, past = (rest[0], rest[1:]) if self.positions else (None, rest)
        cache = DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        # `update` joined the past to an empty cache; the graph has to start at the inputs themselves.
        for layer, entry in enumerate(cache.layers):
            entry.keys, entry.values = past[2 * layer], past[2 * layer + 1]
        result = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        present = [side for entry in result.past_key_values.layers for side in (entry.keys, entry.values)]
        return (result.logits, *present)


def write_onnx(model: Any, folder: Path, *, opset: int = OPSET, positions: bool = True) -> Path:
    """Writes `model.onnx` and `model.onnx.data` of a causal language model into `folder`; returns the graph's path.

    Inputs: input_ids and position_ids int64 (batch, sequence), attention_mask int64 (batch, past + sequence),
    past_key_values.N.key/value (batch, kv_heads, past, head_dim). Outputs: logits (batch, sequence, vocab) and
    present.N.key/value (batch, kv_heads, past + sequence, head_dim). Floats have the dtype of the model. Without
    `positions` the input position_ids is left out.
    """
    inputs, outputs, axes = interface(model.config, positions)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".trace-") as scratch:
        traced = Path(scratch) / GRAPH_FILE
        with torch.no_grad(), warnings.catch_warnings():
            # One warning for each Python branch on a shape, and one about not being the newer exporter.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                CacheAsTensors(model, positions).eval(),
                example(model, positions),
                str(traced),
                dynamo=False,
                opset_version=opset,
                input_names=inputs,
                output_names=outputs,
                dynamic_axes=axes,
            )
        proto = onnx.load(str(traced))
    share_tied_weights(proto.graph)
    path = folder / GRAPH_FILE
    onnx.save_model(proto, str(path), save_as_external_data=True, location=DATA_FILE, size_threshold=SMALLEST_BYTES)
    # onnx makes the data file readable by its owner only.
    (folder / DATA_FILE).chmod(path.stat().st_mode)
    return path


def geometry(config: Any) -> tuple[int, int, int]:
    """(layers, kv_heads, head_dim) of a transformers configuration."""
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return config.num_hidden_layers, getattr(config, "num_key_value_heads", None) or heads, head_dim


def interface(config: Any, positions: bool = True) -> tuple[list[str], list[str], dict[str, dict[int, str]]]:
    """Names of the inputs and of the outputs, and name → axis → name of its size."""
    caches = [f"{layer}.{side}" for layer in range(geometry(config)[0]) for side in ("key", "value")]
    past, present = [f"past_key_values.{name}" for name in caches], [f"present.{name}" for name in caches]
    by_token = ["position_ids"] if positions else []
    axes = {name: {0: "batch_size", 1: "sequence_length"} for name in ("input_ids", *by_token, "logits")}
    axes["attention_mask"] = {0: "batch_size", 1: TOTAL}
    axes |= {name: {0: "batch_size", 2: "past_sequence_length"} for name in past}
    axes |= {name: {0: "batch_size", 2: TOTAL} for name in present}
    return ["input_ids", "attention_mask", *by_token, *past], ["logits", *present], axes


def example(model: Any, positions: bool = True) -> tuple[torch.Tensor, ...]:
    """Inputs to trace a model with: two rows of three tokens behind five."""
    batch, past, new = 2, 5, 3
    layers, kv_heads, head_dim = geometry(model.config)
    ids = torch.arange(batch * new).reshape(batch, new) % model.config.vocab_size
    mask = torch.ones(batch, past + new, dtype=torch.int64)
    position = torch.arange(past, past + new).expand(batch, new).contiguous()
    cache = [torch.zeros(batch, kv_heads, past, head_dim, dtype=model.dtype) for _ in range(2 * layers)]
    return (ids, mask, position, *cache) if positions else (ids, mask, *cache)
