"""SmolLM2 in Qwen2's architecture, with key biases as large as those of Qwen2.5-7B, that says nearly what it said.

Qwen2's first and last layers add biases of length 600 to 900 to keys whose other part is about 20 long. Here each KV
head of the outer layers gets such a bias on two RoPE pairs. One is of the slowest: there the bias adds nearly the same
to the logits of all tokens, which the softmax does not see. The other turns within the text; its queries are made so
small that its bias moves logits little. In either the pair is taken that the queries of the head use least.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers

from tqc.errors import ExportError

LENGTHS = (600.0, 750.0, 900.0)
"""‖bias‖ of the KV heads of a layer, in turn."""

OUTER = 2
"""Layers at either end that get biases."""

SLOWEST = 8
"""One in this many pairs is slow."""

KEPT_SLOW, KEPT_FAST = 0.3, 0.003
"""What is left of the queries on the two pairs."""


def biased_qwen2(model: Any, layers: Sequence[int] | None = None) -> Any:
    """A Qwen2 model (transformers) with the weights of the Llama `model` and large key biases in `layers`.

    `layers` defaults to the first and last two. All other biases are 0. Raises ExportError for a model that Qwen2's
    architecture does not hold.
    """
    count = model.config.num_hidden_layers
    if layers is None:
        layers = sorted({*range(min(OUTER, count)), *range(max(0, count - OUTER), count)})
    made = _qwen2(model)
    with torch.no_grad():
        for layer in layers:
            _add_bias(made.model.layers[layer], made.config)
    return made


def _qwen2(model: Any) -> Any:
    """The same function in the other architecture: biases are 0."""
    old = model.config
    head_dim = getattr(old, "head_dim", None) or old.hidden_size // old.num_attention_heads
    if old.model_type != "llama" or head_dim * old.num_attention_heads != old.hidden_size:
        raise ExportError(
            "the model does not fit Qwen2's architecture",
            expected="a Llama model with hidden_size = heads · head_dim",
            found=f"{old.model_type}, {old.hidden_size} and {old.num_attention_heads} · {head_dim}",
        )
    names = (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act"),
        *("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "rope_parameters", "tie_word_embeddings"),
        *("bos_token_id", "eos_token_id", "pad_token_id"),
    )
    config = transformers.Qwen2Config(**{name: getattr(old, name) for name in names}, use_sliding_window=False)
    made = transformers.Qwen2ForCausalLM(config).to(model.dtype)
    biases = {name: torch.zeros_like(bias) for name, bias in made.state_dict().items() if name.endswith("proj.bias")}
    made.load_state_dict({**model.state_dict(), **biases})
    made.generation_config = model.generation_config
    made.set_attn_implementation("sdpa")
    return made.eval()


def _add_bias(layer: Any, config: Any) -> None:
    """Two pairs of every KV head of a decoder layer: pair i of a head are its dims i and D/2 + i."""
    attention, kv_heads = layer.self_attn, config.num_key_value_heads
    group, half = config.num_attention_heads // kv_heads, attention.head_dim // 2
    queries = attention.q_proj.weight.view(kv_heads, group, 2, half, -1)
    bias = attention.k_proj.bias.view(kv_heads, 2, half)
    slow = half - max(half // SLOWEST, 1)
    for head in range(kv_heads):
        # Of components of x that are independent and of the size that the norm gives them.
        parts = queries[head].float() * layer.input_layernorm.weight.float()
        energy = parts.square().sum(dim=(0, 1, 3))
        still, turning = slow + int(energy[slow:].argmin()), int(energy[:slow].argmin())
        length = LENGTHS[head % len(LENGTHS)] * 0.5**0.5
        bias[head, :, still] = length * _steady(parts[:, :, still])
        bias[head, 0, turning] = length
        queries[head, :, :, still] *= KEPT_SLOW
        queries[head, :, :, turning] *= KEPT_FAST


def _steady(pair: torch.Tensor) -> torch.Tensor:
    """The direction [2] from which a small turn moves the products with the queries `pair` [group, 2, N] least."""
    moments = torch.einsum("gan,gbn->ab", pair, pair)
    quiet = torch.linalg.eigh(moments).eigenvectors[:, 0]
    # Turned by a small angle, a vector moves at right angles to itself: there the queries are to be small.
    return torch.stack([quiet[1], -quiet[0]])
