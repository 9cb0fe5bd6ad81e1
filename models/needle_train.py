"""Trains the needle model of `needle.py` from a seed.

    python -m tqc.models.needle_train FOLDER

Prompts are short. What stands in for a long context is the weight of the filler: a bias of log(m) on the scores of its
keys in the global layer makes each of them count like m tokens in the softmax, as in a context m times as long.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tqc.models import needle, needle_task


@dataclass(frozen=True)
class Stage:
    """`steps` of training on `batch` prompts of `length` tokens with `asked` needles of `lookalikes` each.

    The filler counts like that of up to `context` tokens; 0 adds no bias. `rate` is the learning rate, which falls
    in the second half of the stage, to its share `last`; 1 keeps it.
    """

    steps: int
    batch: int
    length: int
    asked: int
    lookalikes: int = 0
    context: int = 0
    rate: float = 1.5e-3
    last: float = 0.02


STAGES = (
    Stage(80, 48, 32, 1, last=1),
    Stage(80, 32, 64, 2, last=1),
    Stage(300, 16, 128, 4, 0, 1 << 10, last=1),
    Stage(350, 10, 320, 6, 1, 1 << 20, last=1),
    Stage(350, 12, 320, 6, 1, 1 << 20, 8e-4),
    Stage(350, 8, 512, 10, 1, 1 << 20, 8e-4),
)


class Batches:
    """Draws prompts; filler is cut from a text that is made once."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.text = "".join(needle_task.filler(1 << 14, rng) for _ in range(32))

    def prompt(self, stage: Stage) -> needle_task.Prompt:
        start = int(self.rng.integers(len(self.text) - stage.length))
        values = 1 if stage.asked % 2 else int(self.rng.choice([1, 1, 1, 2]))
        count = max(1, stage.asked // values)
        text = self.text[start : start + stage.length]
        depths = self.rng.random(count)
        return needle_task.prompt(
            stage.length, depths.tolist(), self.rng, lookalikes=stage.lookalikes, values=values, text=text
        )

    def draw(self, stage: Stage) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """ids [B, T], labels [B, T] (-100: not asked) and the bias of every key in the global layer [B, T]."""
        prompts = [self.prompt(stage) for _ in range(stage.batch)]
        ids = torch.from_numpy(np.stack([p.ids for p in prompts]))
        labels = torch.full_like(ids, -100)
        for row, p in enumerate(prompts):
            for one in p.asked:
                labels[row, one.answer] = ids[row, one.answer]
        most = math.log(max(1.0, stage.context / stage.length))
        weight = self.rng.uniform(0, most, stage.batch) if most else np.zeros(stage.batch)
        bias = np.stack([p.filler * w for p, w in zip(prompts, weight, strict=True)])
        return ids, labels, torch.from_numpy(bias.astype(np.float32))


def loss_and_hits(model: Any, batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, float]:
    """Mean cross entropy of the answers' tokens in nats, and the share of them that are right.

    Only the rows before an answer's tokens go through the global layer's queries and MLP: the others lead nowhere.
    Every row of the batch must have as many such tokens.
    """
    ids, labels, bias = batch
    rows = (labels[:, 1:] != -100).nonzero()[:, 1].view(len(ids), -1)
    targets = labels[:, 1:].gather(1, rows)
    logits = answers(model, ids, rows, bias)
    loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
    return loss, (logits.argmax(-1) == targets).float().mean().item()


def answers(model: Any, ids: torch.Tensor, rows: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Logits [B, n, vocab] behind the tokens `rows` [B, n] of `ids` [B, T].

    `bias` [B, T] is added to every score of a key in the global layer.
    """
    core, sizes, length = model.model, model.config, ids.shape[1]
    local, last = core.layers
    places = torch.arange(length)
    apart = places[:, None] - places
    window = torch.zeros(length, length).masked_fill((apart < 0) | (apart >= needle.WINDOW), -math.inf)
    x = core.embed_tokens(ids)
    angles = core.rotary_emb(x, places[None])
    x = local(x, attention_mask=window[None, None].to(x.dtype), position_embeddings=angles)

    def picked(full: torch.Tensor) -> torch.Tensor:
        return full.gather(1, rows[..., None].expand(*rows.shape, full.shape[-1]))

    def heads(flat: torch.Tensor, count: int) -> torch.Tensor:
        return flat.view(*flat.shape[:2], count, sizes.head_dim).transpose(1, 2)

    attention, normal = last.self_attn, last.input_layernorm(x)
    q = heads(attention.q_proj(picked(normal)), sizes.num_attention_heads)
    k, v = (heads(side(normal), sizes.num_key_value_heads) for side in (attention.k_proj, attention.v_proj))
    group = sizes.num_attention_heads // sizes.num_key_value_heads
    scores = q.unflatten(1, (-1, group)) @ k[:, :, None].transpose(-1, -2) * sizes.head_dim**-0.5
    scores = scores.float() + bias[:, None, None, None, :]
    scores = scores.masked_fill((places > rows[..., None])[:, None, None], -math.inf)
    mixed = (scores.softmax(-1).to(v.dtype) @ v[:, :, None]).flatten(1, 2).transpose(1, 2).flatten(2)
    x = picked(x) + attention.o_proj(mixed)
    x = x + last.mlp(last.post_attention_layernorm(x))
    return model.lm_head(core.norm(x))


class Trainer:
    """A new model with its optimizer and its source of prompts; the same seed and stages give the same weights."""

    def __init__(self, seed: int = 0) -> None:
        self.model, self.batches = needle.new_model(seed), Batches(np.random.default_rng(seed))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), betas=(0.9, 0.98), weight_decay=0.02)

    def run(self, stage: Stage, say: Callable[[str], None]) -> None:
        """Trains for one stage, in bfloat16 where autocast allows it. `say` is told the means of every 50 steps."""
        losses, hits, start = [], [], time.perf_counter()
        for step in range(stage.steps):
            for group in self.optimizer.param_groups:
                group["lr"] = stage.rate * min(1.0, (step + 1) / 50, stage.last + 2 * (1 - step / stage.steps))
            with torch.autocast("cpu", torch.bfloat16):
                loss, right = loss_and_hits(self.model, self.batches.draw(stage))
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            losses.append(loss.item())
            hits.append(right)
            if len(losses) == 50 or step == stage.steps - 1:
                mean = f"loss {np.mean(losses):.4f}, right {np.mean(hits):.3f}"
                say(f"{step + 1} of {stage.steps}, {time.perf_counter() - start:.0f} s: {mean}")
                losses, hits = [], []


def train(stages: tuple[Stage, ...] = STAGES, *, seed: int = 0, say: Callable[[str], None] = print) -> Any:
    """Trains a new model on one thread and returns it."""
    torch.set_num_threads(1)
    trainer = Trainer(seed)
    for number, stage in enumerate(stages):
        trainer.run(stage, lambda text, number=number: say(f"stage {number + 1}: {text}"))
    return trainer.model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    needle.save(train(seed=options.seed), options.folder)


if __name__ == "__main__":
    main()
