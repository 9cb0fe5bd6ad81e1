"""A small decoder that finds a needle over long distance: a local layer that reads keys, a global one that finds them.

It has the architecture of SmolLM3 in transformers: a layer with RoPE and a sliding window collects the last bytes, and
a layer without positions over the whole context compares what was collected. No table of positions limits its context.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedTokenizerFast

from tqc.models.tiny import END_ID, byte_tokenizer

FOLDER = Path(__file__).with_name("needle_weights")
"""The trained model as `needle_train.py` wrote it: a Hugging Face folder, weights in fp16."""
CONTEXT = 131072
"""Tokens: what config.json says. The longest context that was measured is in docs/needle.md."""
LAYERS = ("sliding_attention", "full_attention")
WINDOW = 16
"""Tokens that a local layer sees."""


def config(heads: int = 8, kv_heads: int = 2, hidden: int = 256, intermediate: int = 256) -> Any:
    """The configuration: bytes as tokens, head_dim 64."""
    return transformers.SmolLM3Config(
        vocab_size=272,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=len(LAYERS),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        use_sliding_window=True,
        sliding_window=WINDOW,
        layer_types=list(LAYERS),
        no_rope_layers=[int(kind == "sliding_attention") for kind in LAYERS],
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        initializer_range=0.06,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END_ID,
        pad_token_id=END_ID,
    )


def new_model(seed: int = 0, **sizes: int) -> Any:
    """An untrained model in fp32. The same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.SmolLM3ForCausalLM(config(**sizes))
        _look_back(model)
        _compare(model)
    return model


@torch.no_grad()
def _look_back(
    model: Any, *, constant: float = 0.25, strength: float = 0.9, pairs: int = 8, noise: float = 0.3
) -> None:
    """Lets query head h of the local layer start out attending to the token h places back, whatever it is.

    One channel of the embedding is the same for all tokens, so that queries and keys can have a part that only RoPE
    tells apart: `pairs` of coordinates with the highest frequencies, in phase at that distance.
    """
    model.model.embed_tokens.weight[:, 0] = constant
    attention, sizes = model.model.layers[0].self_attn, model.config
    turns = model.model.rotary_emb.inv_freq[:pairs]
    half = sizes.head_dim // 2
    for side, heads in ((attention.q_proj, sizes.num_attention_heads), (attention.k_proj, sizes.num_key_value_heads)):
        side.weight.mul_(noise)
        rows = side.weight.view(heads, 2, half, sizes.hidden_size)
        for head in range(heads):
            angle = -turns * head if side is attention.q_proj else torch.zeros(pairs)
            rows[head, 0, :pairs, 0], rows[head, 1, :pairs, 0] = strength * angle.cos(), strength * angle.sin()


@torch.no_grad()
def _compare(model: Any, *, loud: float = 0.9, quiet: float = 0.2) -> None:
    """Lets the global layer start out comparing what a query has h places back with what a key has h + 1 places back.

    Then a key looks like the query whose next token it is. For that each local head writes what it saw into channels of
    its own, and the global layer's queries are its (random) keys behind a move of all channels from head h to h + 1.
    This is where training starts, not what it ends with: it is blurred, and strengths and everything else are learned.
    """
    sizes = model.config
    local, last = (layer.self_attn for layer in model.model.layers)
    heads, kv_heads, hidden = sizes.num_attention_heads, sizes.num_key_value_heads, sizes.hidden_size
    width = hidden // heads
    channels = torch.linalg.qr(torch.randn(hidden, hidden)).Q.view(hidden, heads, width)
    values = local.v_proj.weight.view(kv_heads, -1, hidden)
    values[:] = values[0].clone()
    values[:, :, 0] = 0.0  # the channel that is the same for all tokens
    out = local.o_proj.weight.mul_(quiet).view(hidden, heads, -1)
    out[:, :, :width] += loud * channels
    move = torch.einsum("ahc,bhc->ab", channels[:, 1:], channels[:, :-1])
    keys = last.k_proj.weight.view(kv_heads, -1, hidden)
    last.q_proj.weight.view(kv_heads, heads // kv_heads, -1, hidden)[:] = (keys @ move)[:, None]
    last.q_proj.weight.add_(torch.randn_like(last.q_proj.weight), alpha=quiet * sizes.initializer_range)


def trained_model(folder: Path = FOLDER) -> Any:
    """The trained model in fp32, in evaluation mode."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def save(model: Any, folder: Path) -> None:
    """Writes the model, its weights in fp16, and the byte tokenizer as a Hugging Face folder."""
    with torch.random.fork_rng(devices=[]):
        copy = transformers.SmolLM3ForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.half().save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), eos_token="<end>").save_pretrained(folder)
