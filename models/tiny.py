"""Tiny random decoders of the Llama family for tests: real structure, seconds to export, kilobytes to store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tqc.errors import ExportError
from tqc.models import trace
from tqc.models.families import randomise
from tqc.models.huggingface import DTYPES

ARCHITECTURES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
}
END = "<end>"
END_ID = 256
"""First id after the 256 bytes of the tokenizer that `export_tiny` writes."""


def tiny_model(
    arch: str = "llama",
    *,
    head_dim: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    vocab: int = 272,
    window: int = 0,
    tied: bool = False,
    max_context: int = 4096,
    seed: int = 0,
) -> Any:
    """A random transformers model in fp32, weights as `families.randomise` draws them.

    `window` > 0 is Mistral's sliding window in tokens; Qwen2 has biases.
    """
    if arch not in ARCHITECTURES:
        raise ExportError("unknown tiny architecture", expected=", ".join(ARCHITECTURES), found=arch)
    if window and arch != "mistral":
        raise ExportError("only mistral has a sliding window here", found=f"{arch} with window={window}")
    make_config, make_model = ARCHITECTURES[arch]
    special = {"mistral": {"sliding_window": window or None, "head_dim": head_dim}, "llama": {"head_dim": head_dim}}
    config = make_config(
        vocab_size=vocab,
        hidden_size=heads * head_dim,
        intermediate_size=2 * heads * head_dim,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=max_context,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=END_ID,
        pad_token_id=END_ID,
        **special.get(arch, {}),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make_model(config)
        randomise(model)
    model.set_attn_implementation("sdpa")
    return model.eval()


def export_tiny(folder: Path, *, dtype: str = "fp32", **options: Any) -> Path:
    """Exports `tiny_model(**options)` with a byte tokenizer into the existing `folder`; returns model.onnx's path."""
    model = tiny_model(**options).to(DTYPES[dtype])
    path = trace.write_onnx(model, folder)
    model.config.save_pretrained(folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return path


def byte_tokenizer() -> Tokenizer:
    """A tokenizer whose ids 0…255 are bytes and 256 is the end of the text."""
    # ByteLevel writes a byte as one printable character: the byte's own where it has one, else one from 256 up.
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    letters = [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(vocab={letter: byte for byte, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    return tokenizer
