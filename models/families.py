"""Tiny random decoders of every family that `tqc` knows: the real head_dims and idioms, two layers, little else.

The vocabulary differs from the width of every other projection, because one exporter finds the head by that width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers

from tqc.errors import ExportError

VOCAB = 640
WINDOW = 16
LONG_ROPE_START = 64
"""Context at which the long-rope family changes to its long factors, tokens."""
CONTEXT = 2048


@dataclass(frozen=True)
class Family:
    """One architecture of transformers and what makes its tiny model.

    `eager` says that only transformers' own attention computes what the model is (softcap, sinks). `positions` are the
    tokens it can hold.
    """

    name: str
    architecture: str
    options: dict[str, Any] = field(default_factory=dict)
    eager: bool = False
    positions: int = CONTEXT
    finish: Callable[[Any], None] | None = None


class _DenseMlp(torch.nn.Module):
    """Stands in for gpt-oss's experts, with its result: (hidden states, router scores)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(width, 2 * width), torch.nn.Linear(2 * width, width)

    def forward(self, x):
        return self.down(torch.nn.functional.silu(self.up(x))), None


def _without_experts(model: Any) -> None:
    for layer in model.model.layers:
        layer.mlp = _DenseMlp(model.config.hidden_size)


def _sizes(dim: int, heads: int, kv_heads: int, hidden: int = 256, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": dim}
    return sizes | more


_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}
_LONG_ROPE = {
    "rope_type": "longrope",
    "type": "longrope",
    "factor": CONTEXT / LONG_ROPE_START,
    "rope_theta": 1e4,
    "short_factor": [1 + 0.01 * n for n in range(48)],
    "long_factor": [1 + 0.5 * n for n in range(48)],
    "original_max_position_embeddings": LONG_ROPE_START,
}
_PHI3 = _sizes(96, 4, 2, 384)
_GEMMA = {"query_pre_attn_scalar": 144, "sliding_window": WINDOW}
_ALTERNATING = {"layer_types": ["sliding_attention", "full_attention"]}

_ALL = (
    Family("llama", "Llama", _sizes(64, 4, 2)),
    Family("llama2", "Llama", _sizes(128, 2, 2)),
    Family("llama31", "Llama", _sizes(128, 4, 1, tie_word_embeddings=True, rope_parameters=_LLAMA3)),
    Family("smollm2", "Llama", _sizes(64, 3, 1, 192, tie_word_embeddings=True, rope_theta=1e5)),
    Family("mistral", "Mistral", _sizes(128, 4, 2, sliding_window=WINDOW)),
    Family("gemma1", "Gemma", _sizes(256, 4, 1)),
    Family("gemma2", "Gemma2", _sizes(256, 4, 2, attn_logit_softcapping=5.0, **_GEMMA, **_ALTERNATING), eager=True),
    Family("gemma3", "Gemma3Text", _sizes(256, 4, 1, **_GEMMA, **_ALTERNATING)),
    Family("qwen2", "Qwen2", _sizes(64, 4, 2)),
    Family("qwen2.5", "Qwen2", _sizes(128, 3, 1, 384, tie_word_embeddings=True)),
    Family("qwen3", "Qwen3", _sizes(128, 4, 2)),
    Family("phi3", "Phi3", _PHI3 | {"sliding_window": WINDOW, "original_max_position_embeddings": CONTEXT}),
    Family(
        "phi3-longrope",
        "Phi3",
        _PHI3 | {"rope_parameters": _LONG_ROPE} | {"original_max_position_embeddings": LONG_ROPE_START},
    ),
    Family("gpt2", "GPT2", {"n_embd": 256, "n_head": 4, "n_layer": 2, "n_positions": 256}, positions=256),
    Family(
        "opt",
        "OPT",
        {"hidden_size": 320, "num_attention_heads": 4, "ffn_dim": 512, "word_embed_proj_dim": 320},
        positions=256,
    ),
    Family(
        "gptoss",
        "GptOss",
        _sizes(64, 4, 2, sliding_window=WINDOW, **_ALTERNATING),
        eager=True,
        positions=131072,
        finish=_without_experts,
    ),
)
FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}


def family_model(name: str, *, seed: int = 0) -> Any:
    """A random transformers model in fp32 of a family in FAMILIES; raises ExportError for an unknown name."""
    if name not in FAMILIES:
        raise ExportError("unknown family", expected=", ".join(FAMILIES), found=name)
    family = FAMILIES[name]
    options = {"intermediate_size": 512, "num_hidden_layers": 2, "max_position_embeddings": family.positions}
    config = getattr(transformers, f"{family.architecture}Config")(
        vocab_size=VOCAB, bos_token_id=1, eos_token_id=2, pad_token_id=0, **(options | family.options)
    )
    if family.architecture == "GptOss":
        config.num_local_experts = 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
        if family.finish:
            family.finish(model)
        randomise(model)
    model.set_attn_implementation("eager" if family.eager else "sdpa")
    return model.eval()


@torch.no_grad()
def randomise(model: Any) -> None:
    """Draws weights that make attention far from uniform and logits differ by more than rounding.

    Norms and biases do not stay at 1 and 0, so that no term can be dropped unnoticed. Uses torch's global generator.
    """
    stored_transposed = {id(m.weight) for m in model.modules() if isinstance(m, transformers.pytorch_utils.Conv1D)}
    for parameter in model.parameters():
        if parameter.dim() > 1:
            inputs = parameter.shape[0 if id(parameter) in stored_transposed else -1]
            parameter.normal_(0.0, 1.5 * inputs**-0.5)
        else:
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    tied = model.config.tie_word_embeddings
    model.get_input_embeddings().weight.normal_(0.0, 0.1 if tied else 1.0)
