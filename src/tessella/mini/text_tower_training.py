"""Train the text tower of the embedded model: `python -m tessella.mini.text_tower_training`.

The vision encoder is frozen; only a text transformer and two projections learn. Two losses:

- pictures and texts: the class token, behind the encoder's last norm, against a text about the picture, both ways over
  the batch (InfoNCE with a learned temperature), as CLIP is trained;
- patches and texts: for a question or a name, cross-entropy over the picture's patches, whose target is where the
  things lie of which the text speaks. The world knows where; without this term a map of similarities would be left to
  chance, since the encoder's last layer was trained for its class token alone.

Pictures stand in a window that moves: each step encodes a few new ones in place of the oldest and learns from a draw
of all of them, so that encoding does not take most of the time. Interrupted and started again, it goes on from the last
checkpoint as if nothing had happened. `text_tower/training_log.jsonl` is the log of the shipped weights, which took
twelve minutes of one busy core; `benchmarks/text_tower.json` says what they can do.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import processors
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer, CLIPConfig, CLIPModel, CLIPTextConfig

from tessella.mini import path, text_tower_path
from tessella.mini.model import END, IMAGE_MEAN, IMAGE_STD
from tessella.mini.text_tower_texts import describe, draw_scene_of, point_at
from tessella.mini.world import Scene
from tessella.models.clip_tower import ClipTower

WIDTH, LAYERS, HEADS, DIMENSIONS, LENGTH = 64, 3, 4, 64, 40  # of the text transformer and of the shared space
WINDOW = 2048  # pictures to draw from
ENCODED_AT_ONCE = 8
RATE, WARMUP, DECAY = 2e-3, 100, 0.02
CHECKPOINT_S = 120.0


def build_tower(seed: int = 0) -> ClipTower:
    """The untrained tower, for the embedded model's encoder and with its tokenizer."""
    torch.manual_seed(seed)
    vision = AutoConfig.from_pretrained(path()).vision_config
    tokenizer = AutoTokenizer.from_pretrained(path())
    end = tokenizer.convert_tokens_to_ids(END)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, end)]
    )
    tokenizer.pad_token, tokenizer.padding_side, tokenizer.model_max_length = END, "right", LENGTH
    tokenizer.chat_template = None
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=LENGTH,
        projection_dim=DIMENSIONS,
        hidden_act="gelu",
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
    )
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=DIMENSIONS)
    tower = ClipTower(CLIPModel(config), tokenizer)
    for projection in (tower.visual_projection, tower.text_projection):
        nn.init.normal_(projection.weight, std=projection.in_features**-0.5)
    nn.init.normal_(tower.text_model.embeddings.token_embedding.weight, std=0.1)
    nn.init.normal_(tower.text_model.embeddings.position_embedding.weight, std=0.05)
    return tower


class Window:
    """The last pictures with what the frozen encoder makes of them: picture number n lies at place n % size."""

    def __init__(self, encoder: Any, seed: int, size: int) -> None:
        self.encoder, self.seed, self.size = encoder, seed, size
        width, patches = encoder.config.hidden_size, encoder.embeddings.num_patches
        self.scenes: list[Scene | None] = [None] * size
        self.pooled = torch.zeros(size, width)
        self.hidden = torch.zeros(size, patches, width, dtype=torch.bfloat16)
        self.end = 0  # number of the next picture

    def advance(self, end: int) -> None:
        """Hold the pictures in front of number `end`; of a window that was left behind, all of them anew."""
        for start in range(max(self.end, end - self.size), end, ENCODED_AT_ONCE):
            numbers = range(start, min(start + ENCODED_AT_ONCE, end))
            scenes = [draw_scene_of(self.seed, n, "train") for n in numbers]
            pooled, hidden = encode(self.encoder, scenes)
            for i, n in enumerate(numbers):
                self.scenes[n % self.size] = scenes[i]
                self.pooled[n % self.size], self.hidden[n % self.size] = pooled[i], hidden[i]
        self.end = max(self.end, end)

    def draw(self, rng: Random, count: int) -> list[int]:
        """Places of different pictures."""
        return rng.sample(range(min(self.end, self.size)), count)


@torch.no_grad()
def encode(encoder: Any, scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """The class token behind the last norm `[B, C]`, and the last layer's output for each patch `[B, 196, C]`."""
    pixels = torch.from_numpy(np.stack([s.pixels for s in scenes])).permute(0, 3, 1, 2).float() / 255
    pixels = (pixels - torch.tensor(IMAGE_MEAN)[:, None, None]) / torch.tensor(IMAGE_STD)[:, None, None]
    out = encoder(pixels)
    return out.pooler_output, out.last_hidden_state[:, 1:]


class Trainer:
    """The tower, its temperatures and its optimiser; everything that a checkpoint holds."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.tower = build_tower(options.seed)
        encoder = AutoModelForImageTextToText.from_pretrained(path(), dtype=torch.float32).model.vision_tower
        self.window = Window(encoder.requires_grad_(False), options.seed, options.window)
        self.log_scales = nn.Parameter(torch.tensor([math.log(10.0), math.log(10.0)]))  # of pictures, of patches
        self.weights = [*self.tower.parameters(), self.log_scales]
        self.optimizer = torch.optim.AdamW(self.weights, lr=RATE, betas=(0.9, 0.98), weight_decay=DECAY)
        self.step, self.seconds = 0, 0.0

    def set_rate(self) -> float:
        """Warm up, then fall along a cosine to zero."""
        falling = (1 + math.cos(math.pi * self.step / self.options.steps)) / 2
        rate = RATE * falling * min(1.0, (self.step + 1) / WARMUP)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def update(self) -> dict[str, float]:
        """One step; returns the losses."""
        self.set_rate()
        rng = Random(f"{self.options.seed}/{self.step}")
        self.window.advance(self.window.size + self.step * self.options.fresh)
        places = self.window.draw(rng, self.options.batch)
        scenes = [self.window.scenes[p] for p in places]
        texts = [describe(s, rng) for s in scenes]
        asked, where = zip(*(point_at(s, rng) for s in scenes), strict=True)
        vectors = F.normalize(self.tower.of_tokens(self.tower.tokens([*texts, *asked])), dim=1)
        about, of_patches = vectors.split(len(places))
        project, (scale, patch_scale) = self.tower.visual_projection, self.log_scales.clamp(max=math.log(100.0)).exp()
        pictures = F.normalize(project(self.window.pooled[places]), dim=1)
        patches = F.normalize(project(self.window.hidden[places].float()), dim=2)
        losses = {
            "pictures": match(scale * pictures @ about.T),
            "patches": point(patch_scale * (patches @ of_patches[:, :, None])[:, :, 0], torch.tensor(np.stack(where))),
        }
        self.optimizer.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        losses["norm"] = nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.step += 1
        return {name: float(value.detach()) for name, value in losses.items()}

    def save_checkpoint(self, file: Path) -> None:
        state = {
            "tower": self.tower.state_dict(),
            "log_scales": self.log_scales.detach(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, file.with_suffix(".part"))
        os.replace(file.with_suffix(".part"), file)

    def load_checkpoint(self, file: Path) -> None:
        state = torch.load(file, weights_only=True)
        self.tower.load_state_dict(state["tower"])
        self.optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            self.log_scales.copy_(state["log_scales"])
        self.step, self.seconds = state["step"], state["seconds"]


def match(logits: Tensor) -> Tensor:
    """InfoNCE both ways: row i of `[B, B]` belongs to column i."""
    truth = torch.arange(len(logits))
    return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2


def point(logits: Tensor, where: Tensor) -> Tensor:
    """Cross-entropy of `[B, V]` against an equal share of each true place of `where [B, V]`."""
    target = where / where.sum(dim=1, keepdim=True)
    return F.cross_entropy(logits, target)


def save(tower: ClipTower, folder: Path) -> None:
    """Write bfloat16 weights as those of a CLIP model without its vision encoder, its configuration and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().to(torch.bfloat16).contiguous() for key, value in tower.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    tower.config.save_pretrained(folder)
    tower.tokenizer.save_pretrained(folder)


def train(options: argparse.Namespace) -> None:
    """Run from the last checkpoint to the last step; write the log, the checkpoints and at the end the weights."""
    options.run.mkdir(parents=True, exist_ok=True)
    checkpoint, log = options.run / "checkpoint.pt", options.run / "log.jsonl"
    trainer = Trainer(options)
    if checkpoint.exists():
        trainer.load_checkpoint(checkpoint)
    saved = reported = time.monotonic()
    sums: dict[str, float] = {}
    while trainer.step < options.steps:
        for name, value in trainer.update().items():
            sums[name] = sums.get(name, 0.0) + value / options.report
        now = time.monotonic()
        if trainer.step % options.report == 0:
            trainer.seconds += now - reported
            scales = [round(float(s), 2) for s in trainer.log_scales.detach().exp()]
            row = {"step": trainer.step, "seconds": round(trainer.seconds), "scales": scales}
            with log.open("a") as file:
                file.write(json.dumps(row | {name: round(value, 4) for name, value in sums.items()}) + "\n")
            reported, sums = now, {}
        if now - saved > CHECKPOINT_S:
            trainer.save_checkpoint(checkpoint)
            saved = now
    trainer.save_checkpoint(checkpoint)
    save(trainer.tower, options.snapshot)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the text tower of the embedded model.")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch", type=int, default=96, help="pictures a step")
    parser.add_argument("--fresh", type=int, default=8, help="pictures a step that are new")
    parser.add_argument("--window", type=int, default=WINDOW, help="pictures to draw from")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of all pictures")
    parser.add_argument("--report", type=int, default=50, help="steps between two lines of the log")
    parser.add_argument("--run", type=Path, default=Path("runs/text_tower"), help="folder of checkpoints and log")
    parser.add_argument("--snapshot", type=Path, default=text_tower_path(), help="folder of the weights")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    train(parse())
