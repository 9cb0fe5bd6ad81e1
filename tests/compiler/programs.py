"""Programs of torch.export for tests: tiny decoders with their cache as nested, flat or Hugging Face arguments."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import transformers
from transformers import DynamicCache

BATCH, SEQ, PAST = 2, 3, 5
AUTO = torch.export.Dim.AUTO


def tiny(name: str) -> Any:
    """A tiny random model; gpt2 has learned positions, one head_dim-wide head per query and a fused projection."""
    if name != "gpt2":
        from tqc.models.tiny import tiny_model

        return tiny_model(name)
    config = transformers.GPT2Config(
        vocab_size=272, n_positions=256, n_embd=128, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=None
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(config)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.set_attn_implementation("sdpa")
    return model.eval()


def _attend(model: Any, tokens: tuple, pairs: list) -> tuple[Any, list]:
    cache = DynamicCache()
    for layer, (key, value) in enumerate(pairs):
        cache.update(key, value, layer)
    for entry, (key, value) in zip(cache.layers, pairs, strict=True):
        entry.keys, entry.values = key, value
    ids, mask, positions = tokens
    out = model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
    return out.logits, [(layer.keys, layer.values) for layer in out.past_key_values.layers]


class Nested(torch.nn.Module):
    """The cache is a list of (key, value)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, position_ids, past_key_values):
        return _attend(self.model, (input_ids, attention_mask, position_ids), past_key_values)


class Flat(Nested):
    """The cache is a tensor per argument: keys and values of each layer in turn, or first all keys, as `sides` says."""

    def forward(self, input_ids, attention_mask, position_ids, *cache):
        logits, pairs = _attend(
            self.model, (input_ids, attention_mask, position_ids), list(zip(cache[::2], cache[1::2], strict=True))
        )
        return logits, *(side for pair in pairs for side in pair)


def tokens(past: int = PAST) -> tuple[torch.Tensor, ...]:
    return (
        torch.ones(BATCH, SEQ, dtype=torch.long),
        torch.ones(BATCH, SEQ + past, dtype=torch.long),
        torch.arange(past, past + SEQ).repeat(BATCH, 1),
    )


def cache(model: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    side = torch.zeros(BATCH, heads, PAST, dim, dtype=model.dtype)
    return [(side.clone(), side.clone()) for _ in range(config.num_hidden_layers)]


def nested_program(model: Any, *, fixed: str = "") -> torch.export.ExportedProgram:
    """`fixed` names what is not dynamic: `batch`, `seq` or `past`."""
    pairs = cache(model)
    axes = {name: axis for name, axis in (("batch", 0), ("seq", 1)) if name != fixed}
    ids = dict.fromkeys(axes.values(), AUTO)
    mask = ids if fixed not in ("seq", "past") else {0: AUTO}
    side = {axis: AUTO for name, axis in (("batch", 0), ("past", 2)) if name != fixed}
    shapes = (ids, mask if fixed == "" else {k: AUTO for k in (0, 1) if not (k == 0 and fixed == "batch")}, ids)
    with torch.no_grad():
        return torch.export.export(
            Nested(model), (*tokens(), pairs), dynamic_shapes=(*shapes, [(side, side)] * len(pairs)), strict=False
        )


def flat_program(model: Any) -> torch.export.ExportedProgram:
    flat = [side for pair in cache(model) for side in pair]
    shapes = (*[{0: AUTO, 1: AUTO}] * 3, tuple({0: AUTO, 2: AUTO} for _ in flat))
    with torch.no_grad():
        return torch.export.export(Flat(model), (*tokens(), *flat), dynamic_shapes=shapes, strict=False)


def hugging_face_program(model: Any) -> torch.export.ExportedProgram:
    """The model itself, its cache a DynamicCache in and out: all keys, then all values."""
    from transformers.integrations.executorch import register_dynamic_cache_export_support

    register_dynamic_cache_export_support()
    past = DynamicCache()
    for layer, (key, value) in enumerate(cache(model)):
        past.update(key, value, layer)
    ids, mask, positions = tokens()
    # The argument has another name since transformers 5.24.
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    arguments = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, name: past}
    side = [{0: AUTO, 2: AUTO}] * len(past.layers)
    shapes = {name: {0: AUTO, 1: AUTO} for name in ("input_ids", "attention_mask", "position_ids")}
    with torch.no_grad():
        return torch.export.export(model, (), arguments, dynamic_shapes=shapes | {name: [side, side]}, strict=False)
