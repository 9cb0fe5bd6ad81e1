"""Models without a cache for tests: an encoder layer of BERT and a causal layer with grouped heads, as torch exports
them."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

HIDDEN, HEADS, KV_HEADS, DIM = 64, 4, 2, 16


class CausalLayer(torch.nn.Module):
    """Attention with grouped query heads, scaled_dot_product_attention, and a residual."""

    def __init__(self, native: bool) -> None:
        super().__init__()
        self.native = native
        self.q = torch.nn.Linear(HIDDEN, HEADS * DIM)
        self.k = torch.nn.Linear(HIDDEN, KV_HEADS * DIM)
        self.v = torch.nn.Linear(HIDDEN, KV_HEADS * DIM)
        self.o = torch.nn.Linear(HEADS * DIM, HIDDEN)

    def forward(self, x):
        batch, seq, _ = x.shape
        q, k, v = (p(x).view(batch, seq, -1, DIM).transpose(1, 2) for p in (self.q, self.k, self.v))
        if not self.native:
            k, v = (t.repeat_interleave(HEADS // KV_HEADS, dim=1) for t in (k, v))
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.native)
        return x + self.o(y.transpose(1, 2).reshape(batch, seq, HEADS * DIM))


class Encoder(torch.nn.Module):
    """A BERT of one layer over embeddings, with padding masked."""

    def __init__(self) -> None:
        super().__init__()
        config = transformers.BertConfig(
            vocab_size=99,
            hidden_size=HIDDEN,
            num_hidden_layers=1,
            num_attention_heads=HEADS,
            intermediate_size=96,
            max_position_embeddings=64,
            attn_implementation="sdpa",
        )
        self.bert = transformers.BertModel(config, add_pooling_layer=False)

    def forward(self, input_ids, attention_mask):
        return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


FORMS = ("legacy17", "dynamo18", "dynamo23", "gqa23")


def export(kind: str, form: str, path: Path) -> Path:
    """`kind` is `layer` or `encoder`, `form` one of FORMS (`gqa23`: the layer with `enable_gqa`)."""
    torch.manual_seed(0)
    model = (Encoder() if kind == "encoder" else CausalLayer(form == "gqa23")).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    ids = torch.ones(2, 5, dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": ids} if kind == "encoder" else {"x": torch.randn(2, 5, HIDDEN)}
    options: dict = {"input_names": list(inputs), "output_names": ["y"], "opset_version": int(form[-2:])}
    if form == "legacy17":
        options |= {"dynamo": False, "dynamic_axes": {name: {0: "batch", 1: "seq"} for name in (*inputs, "y")}}
    else:
        auto = torch.export.Dim.AUTO
        options |= {"dynamo": True, "dynamic_shapes": tuple({0: auto, 1: auto} for _ in inputs), "verbose": False}
    with torch.no_grad():
        program = torch.onnx.export(
            model, tuple(inputs.values()), **({"f": str(path)} if "17" in form else {}), **options
        )
    if form != "legacy17":
        program.save(str(path))
    return path
