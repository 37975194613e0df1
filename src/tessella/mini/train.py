"""Train the embedded model: `python -m tessella.mini.train`. Interrupt it at will, start it again, it goes on.

Eight stages: `look` teaches the encoder alone what each patch shows; `talk` trains everything on packed questions, with
the labels of the first stage as auxiliary losses; `size` does the same while some of the pictures are made smaller and
the learning rate falls to zero; `polish` is a second, shorter fall with more of what is still wrong. `focus` and
`finish` are `look` and `polish` again with crowds, for digits and counts. `contexts` and `settle` freeze the encoder,
so that whatever was trained on it stays valid, and teach the rest several pictures and clips beside single pictures as
before; most pictures of contexts are small at first, because they cost a fifth. No visual token is ever
dropped from a question about a picture: the model has not seen what reductions do. Some questions have no picture at
all, so that the model answers within their type there too.

`weights/training_log.jsonl` is the log of the shipped weights. They were trained in several sittings, and it keeps
some things that this recipe no longer does: the encoder's matrices learned by AdamW in `look`; the first half of
`talk` (to step 2,260) had a rate of 1.5e-3 for all weights, which was too high: the loss stood still; in front of a
smaller picture stood two placeholders in place of the start and the user's mark; and `focus` started from the saved
weights in bfloat16 (`--start`, so its steps count from 0 again), with fresh optimisers and heads. `finish` was planned
with 2,600 steps and cut to 1,700 after 910 of them. `contexts` and `settle` started from the saved weights too. They
were first run with 900 and 400 steps, a batch of 16 and as many albums of either kind in both, and half of `settle`
single pictures asked as in `finish`; from there, at step 1,300, they went on as here. `settle` was then planned with
1,200 steps and cut to 1,120 after 980 of them.

To teach an existing model contexts alone, start from its weights with no steps of the first six stages:

    python -m tessella.mini.train --start src/tessella/mini/weights --look 0 --talk 0 --size 0 --polish 0 --focus 0 \\
        --finish 0 --run runs/contexts --snapshot runs/contexts/snapshot
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast

from tessella.mini import path
from tessella.mini.context_lessons import ROWS, Lesson, draw_lessons
from tessella.mini.evaluate import measure
from tessella.mini.forward import DecoderLayer, decode, encode, run_decoder_layer, run_last_layer
from tessella.mini.lessons import GRID, NUM_SLOTS, NUM_TAGS, NUM_THINGS, PREFIX, WEIGHTS, Batch, draw_batch
from tessella.mini.model import IMAGE_MEAN, IMAGE_STD, build_model, build_processor, save
from tessella.mini.muon import Muon
from tessella.mini.prompts import ALL_KINDS
from tessella.mini.questions import KINDS
from tessella.mini.shrinking import shrink
from tessella.mini.world import COLOURS, SIDE

LOOK_WEIGHTS = {"reading": 3.0, "digit": 1.5, "count": 2.0, "relation": 1.0, "existence": 1.5, "colour": 1.0}
SIZE_WEIGHTS = WEIGHTS | {  # what is learned last gets more of the last stages
    "colour": 0.4,
    "shape": 0.4,
    "place": 2.0,
    "count": 2.0,
    "existence": 1.0,
    "digit": 1.5,
    "reading": 2.6,
}
POLISH_WEIGHTS = SIZE_WEIGHTS | {"place": 0.8, "relation": 4.0, "count": 3.0, "digit": 3.0, "reading": 2.0}
FINISH_WEIGHTS = POLISH_WEIGHTS | {"relation": 2.0, "count": 4.0, "digit": 2.0}
SETTLE_WEIGHTS = FINISH_WEIGHTS | {"count": 5.0, "reading": 5.0}
DIGIT_WEIGHT = 3.0  # of patches with a digit in the dense losses: digits are the last that the encoder tells apart
GROUND_WEIGHT = 0.25  # of patches without an object in the dense losses
AUXILIARY_WEIGHT = 0.4
CHECKPOINT_S = 180.0


@dataclass(frozen=True)
class Stage:
    name: str
    steps: int
    batch: int
    rate: float  # learning rate
    encoder: float  # learning rate of the encoder, as a share of `rate`
    warmup: int
    last: float  # share of the steps over which the learning rate falls
    floor: float  # share of the learning rate that is left at the end
    small: float  # share of the batches whose pictures are made smaller
    kinds: dict[str, float]  # how often each kind of question is asked
    crowds: float = 0.0  # share of the pictures that are crowds
    answers: bool = True  # whether questions are answered, or the encoder learns alone
    singles: float | None = None  # share of the lessons that are single pictures; the encoder is frozen


class Heads(nn.Module):
    """Linear readers of the encoder, used in training only."""

    sizes = (NUM_THINGS, 1 + len(COLOURS), NUM_SLOTS, GRID, GRID, 1)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.dense = nn.Linear(width, sum(self.sizes))
        self.tags = nn.Linear(width, NUM_TAGS)
        self.pooled_tags = nn.Linear(width, NUM_TAGS)

    def losses(self, hidden: Tensor, pooled: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One loss a label; `hidden` [B, 197, C] starts with the class token."""
        normed = self.norm(hidden)
        things, colours, slots, rows, columns, centres = self.dense(normed[:, 1:]).float().split(self.sizes, dim=-1)
        weight = torch.where(batch["things"] > 0, 1.0, GROUND_WEIGHT)
        weight = torch.where((batch["things"] >= 49) & (batch["things"] < 59), DIGIT_WEIGHT, weight)
        weight = weight / weight.sum()

        def dense(logits: Tensor, target: Tensor) -> Tensor:
            return (F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none") * weight.flatten()).sum()

        index = torch.arange(GRID).repeat(len(hidden), GRID)
        spread = torch.arange(GRID).repeat_interleave(GRID).repeat(len(hidden), 1)
        tags = self.tags(normed[:, 0]).float(), self.pooled_tags(pooled).float()
        return {
            "thing": dense(things, batch["things"]),
            "colour": 0.5 * dense(colours, batch["colours"]),
            "slot": 0.5 * dense(slots, batch["slots"]),
            "place": 0.2 * (dense(rows, spread) + dense(columns, index)),
            "centre": 2 * F.binary_cross_entropy_with_logits(centres[..., 0], batch["centres"]),
            "tag": 4 * sum(F.binary_cross_entropy_with_logits(logits, batch["tags"]) for logits in tags),
        }


class Trainer:
    """The model, its optimisers and the clock of steps; everything that a checkpoint holds."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.processor: LlavaProcessor = build_processor()
        self.model: LlavaForConditionalGeneration = build_model(self.processor, options.seed)
        if options.start:
            start = LlavaForConditionalGeneration.from_pretrained(options.start, dtype=torch.float32)
            self.model.load_state_dict(start.state_dict())
        self.heads = Heads(self.model.config.vision_config.hidden_size)
        self.stages = (
            Stage("look", options.look, 48, 2e-3, 1.0, 60, 0.25, 0.3, 0.0, LOOK_WEIGHTS, answers=False),
            Stage("talk", options.talk, 32, 1e-3, 0.3, 100, 0.6, 0.5, 0.0, WEIGHTS),
            Stage("size", options.size, 32, 5e-4, 0.3, 1, 1.0, 0.01, 0.4, SIZE_WEIGHTS),
            Stage("polish", options.polish, 32, 6e-4, 1.0, 30, 1.0, 0.01, 0.3, POLISH_WEIGHTS),
            Stage("focus", options.focus, 48, 1e-3, 1.0, 60, 0.4, 0.3, 0.0, LOOK_WEIGHTS, 0.7, answers=False),
            Stage("finish", options.finish, 32, 6e-4, 0.6, 40, 0.9, 0.01, 0.25, FINISH_WEIGHTS, 0.5),
            Stage("contexts", options.contexts, 16, 7e-4, 0.0, 60, 0.3, 0.7, 0.92, FINISH_WEIGHTS, 0.3, singles=0.5),
            Stage("settle", options.settle, 24, 4.9e-4, 0.0, 1, 1.0, 0.01, 0.6, SETTLE_WEIGHTS, 0.3, singles=2 / 3),
        )
        self.optimizers = self._build_optimizers()
        self.layers: tuple[DecoderLayer, DecoderLayer] = (run_decoder_layer, run_last_layer)
        self.step, self.seconds = 0, 0.0
        self.weights = [*self.model.parameters(), *self.heads.parameters()]
        self.lock = threading.Lock()
        torch.set_num_threads(1)  # inside an operation; the parts of a batch are what runs side by side
        self.pool = ThreadPoolExecutor(options.threads, initializer=torch.set_num_threads, initargs=(1,))

    def _build_optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices of the layers, AdamW for the rest; the encoder is a group of its own in both."""
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {(m, e): [] for m in (False, True) for e in (False, True)}
        for name, weight in self.model.named_parameters():
            matrix = weight.ndim == 2 and ("layers" in name or "projector" in name)
            groups[matrix, "vision_tower" in name].append(weight)
        groups[False, False] += list(self.heads.parameters())
        lr = self.stages[0].rate
        rest, matrices = ([{"params": groups[m, e], "encoder": e} for e in (False, True)] for m in (False, True))
        return [torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True), Muon(matrices, lr=lr)]

    def find_stage(self) -> tuple[Stage, int] | None:
        """The stage of the current step and the step within it; None at the end."""
        start = 0
        for stage in self.stages:
            if self.step < start + stage.steps:
                return stage, self.step - start
            start += stage.steps
        return None

    def set_rate(self, stage: Stage, step: int) -> float:
        """Warm up, stay, fall linearly over the last part of the stage."""
        factor = min(1.0, (step + 1) / stage.warmup)
        left = (stage.steps - step) / max(1.0, stage.steps * stage.last)
        factor *= stage.floor + (1 - stage.floor) * min(1.0, left)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = factor * stage.rate * (stage.encoder if group["encoder"] else 1)
        return factor * stage.rate

    def losses(self, stage: Stage, batch: Batch) -> dict[str, Tensor]:
        tensors = {name: torch.from_numpy(value) for name, value in vars(batch).items()}
        pixels = tensors["pixels"].permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last) / 255
        chance = random.Random(f"{self.options.seed}/size/{self.step}")
        small = chance.random() < stage.small
        if small:
            pixels = shrink(pixels, chance)
        with torch.autocast("cpu", torch.bfloat16):
            hidden, pooled = encode(self.model, normalise(pixels), interpolate=small)
            result = {} if small else self.heads.losses(hidden, pooled, tensors)
            if stage.answers:
                result = {name: AUXILIARY_WEIGHT * loss for name, loss in result.items()}
                result["answer"] = self.answer_loss(hidden[:, 1:], tensors, small)
        return result

    def answer_loss(self, features: Tensor, batch: dict[str, Tensor], small: bool) -> Tensor:
        ids, positions, segments = shorten(batch, features.shape[1])
        layers = (run_decoder_layer, run_last_layer) if small else self.layers
        hidden = decode(self.model, features, ids, positions, segments, layers)
        return self.cross_entropy(hidden, batch["labels"][:, PREFIX:])

    def cross_entropy(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Mean over the tokens that have a label."""
        asked = labels >= 0
        logits = hidden[asked] @ self.model.model.language_model.embed_tokens.weight.T.to(hidden.dtype)
        return F.cross_entropy(logits.float(), labels[asked])

    def lesson_loss(self, lesson: Lesson) -> dict[str, Tensor]:
        """The loss of the answers, by the name of the lesson; the encoder learns nothing."""
        pixels = torch.from_numpy(lesson.pixels)
        rows, count, height, width = pixels.shape[:4]
        labels, ids = torch.from_numpy(lesson.labels), torch.from_numpy(lesson.input_ids)
        visual = (ids[0] == self.model.config.image_token_id).nonzero()
        prefix = min(int(visual[-1]) + 1, int((labels >= 0).any(0).nonzero()[0]))
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                flat = normalise(pixels.flatten(0, 1).permute(0, 3, 1, 2).float() / 255)
                hidden, _ = encode(self.model, flat, interpolate=(height, width) != (SIDE, SIDE))
                features = hidden[:, 1:].unflatten(0, (rows, count)).flatten(1, 2)
            positions, segments = torch.from_numpy(lesson.positions), torch.from_numpy(lesson.segments)
            hidden = decode(self.model, features, ids, positions, segments, prefix=prefix)
            return {lesson.kind: self.cross_entropy(hidden, labels[:, prefix:])}

    def update(self, stage: Stage, batch: Batch | list[Lesson]) -> dict[str, float]:
        """One step; returns the losses. Threads take parts of the batch one by one, so a busy core takes fewer."""
        parts = split_batch(batch, self.options.part) if isinstance(batch, Batch) else batch
        results = list(self.pool.map(lambda part: self.learn(stage, part, 1 / len(parts)), parts))
        found: dict[str, list[float]] = {}
        for name, value in (pair for result in results for pair in result.items()):
            found.setdefault(name, []).append(value)
        losses = {name: sum(values) / len(values) for name, values in found.items()}
        weights = [weight for weight in self.weights if weight.grad is not None]
        losses["norm"] = float(nn.utils.clip_grad_norm_(weights, 1.0))
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return {name: round(value, 4) for name, value in losses.items()}

    def learn(self, stage: Stage, part: Batch | Lesson, share: float) -> dict[str, float]:
        """Add the gradient of a part of a batch, times its share; returns the losses."""
        losses = self.losses(stage, part) if isinstance(part, Batch) else self.lesson_loss(part)
        gradients = torch.autograd.grad(sum(losses.values()) * share, self.weights, allow_unused=True)
        with self.lock:
            for weight, gradient in zip(self.weights, gradients, strict=True):
                if gradient is not None:
                    weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def save_checkpoint(self, file: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "rng": torch.get_rng_state(),
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, file.with_suffix(".part"))
        os.replace(file.with_suffix(".part"), file)

    def load_checkpoint(self, file: Path) -> None:
        state = torch.load(file, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        torch.set_rng_state(state["rng"])
        self.step, self.seconds = state["step"], state["seconds"]

    def check_quickly(self, per_type: int, kinds: Sequence[str]) -> dict[str, float]:
        """Held-out accuracies of a few questions a type, on other pictures than `evaluate` uses."""
        self.model.eval()
        with torch.autocast("cpu", torch.bfloat16):
            table = measure(self.model, self.processor, per_type, first=10**9, kinds=kinds)
        self.model.train()
        return {kind: round(row["accuracy"], 3) for kind, row in table.items()}


def split_batch(batch: Batch, size: int) -> list[Batch]:
    count = len(batch.pixels)
    return [
        Batch(**{name: value[start : start + size] for name, value in vars(batch).items()})
        for start in range(0, count, size)
    ]


def shorten(batch: dict[str, Tensor], num_visual: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, positions and segments for a picture of `num_visual` tokens: later tokens move up, early ones stay."""
    cut = PREFIX - 2 - num_visual
    ids, segments = (
        torch.cat((batch[name][:, :2], batch[name][:, 2 + cut :]), 1) for name in ("input_ids", "segments")
    )
    places = batch["positions"][:, PREFIX:]
    places = torch.where(places < PREFIX, places, places - cut)  # a blind question may stand in front of the picture
    positions = torch.cat((batch["positions"][:, : PREFIX - cut], places), dim=1)
    return ids, positions, segments


def normalise(pixels: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] in [0, 1] as the processor hands them to the model."""
    return (pixels - torch.tensor(IMAGE_MEAN)[:, None, None]) / torch.tensor(IMAGE_STD)[:, None, None]


def produce(queue: Any, seed: int, stages: Sequence[Stage], first: int) -> None:
    """Draw the batches of all steps from `first` on, in a process of their own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tokenizer = build_processor().tokenizer
    start = 0
    for stage in stages:
        for step in range(max(first - start, 0), stage.steps):
            queue.put(draw(tokenizer, f"{seed}/{stage.name}/{step}", stage))
        start += stage.steps


def draw(tokenizer: PreTrainedTokenizerFast, seed: str, stage: Stage) -> Batch | list[Lesson]:
    """The batch of a seed for a stage."""
    if stage.singles is not None:
        count = stage.batch // ROWS
        singles = round(count * stage.singles)
        return draw_lessons(tokenizer, seed, count, singles, stage.kinds, stage.crowds, stage.small)
    return draw_batch(tokenizer, seed, stage.batch, stage.kinds, stage.crowds)


def train(options: argparse.Namespace) -> None:
    """Run all stages from the last checkpoint on; write the log, the checkpoints and at the end the weights."""
    options.run.mkdir(parents=True, exist_ok=True)
    checkpoint, log = options.run / "checkpoint.pt", options.run / "log.jsonl"
    trainer = Trainer(options)
    trainer.layers = tuple(torch.compile(layer, dynamic=False) for layer in trainer.layers)
    if checkpoint.exists():
        trainer.load_checkpoint(checkpoint)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue(maxsize=8)
    producer = context.Process(target=produce, args=(queue, options.seed, trainer.stages, trainer.step), daemon=True)
    producer.start()
    stop: list[int] = []
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda number, frame: stop.append(number))
    saved = reported = time.monotonic()
    pictures, sums = 0, {}
    while (where := trainer.find_stage()) is not None and not stop:
        stage, step = where
        rate = trainer.set_rate(stage, step)
        for name, value in trainer.update(stage, queue.get()).items():
            sums.setdefault(name, []).append(value)
        trainer.step += 1
        pictures += stage.batch
        now = time.monotonic()
        last = step + 1 == stage.steps
        if trainer.step % options.report == 0 or last:
            trainer.seconds += now - reported
            row = {"step": trainer.step, "stage": stage.name, "lr": round(rate, 6), "seconds": round(trainer.seconds)}
            row["pictures_per_s"] = round(pictures / (now - reported), 1)
            row |= {name: round(sum(values) / len(values), 4) for name, values in sums.items()}
            if stage.answers and (step % options.check < options.report or last):
                row["accuracy"] = trainer.check_quickly(options.quick, KINDS if stage.singles is None else ALL_KINDS)
                save(trainer.model, trainer.processor, options.snapshot)
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
            reported, pictures, sums = time.monotonic(), 0, {}
        if now - saved > CHECKPOINT_S or last:
            trainer.save_checkpoint(checkpoint)
            saved = now
    trainer.save_checkpoint(checkpoint)
    save(trainer.model, trainer.processor, options.snapshot)
    producer.terminate()


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the embedded model.")
    parser.add_argument("--look", type=int, default=1500, help="steps of the first stage")
    parser.add_argument("--talk", type=int, default=2500, help="steps of the second stage")
    parser.add_argument("--size", type=int, default=800, help="steps of the third stage")
    parser.add_argument("--polish", type=int, default=950, help="steps of the fourth stage")
    parser.add_argument("--focus", type=int, default=1500, help="steps of the fifth stage")
    parser.add_argument("--finish", type=int, default=1700, help="steps of the sixth stage")
    parser.add_argument("--contexts", type=int, default=2100, help="steps of the seventh stage")
    parser.add_argument("--settle", type=int, default=1120, help="steps of the eighth stage")
    parser.add_argument("--start", type=Path, help="folder of weights to start from, where there is no checkpoint")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of all pictures")
    parser.add_argument("--threads", type=int, default=2, help="parts of a batch that run side by side")
    parser.add_argument("--part", type=int, default=4, help="pictures in a part of a batch")
    parser.add_argument("--report", type=int, default=20, help="steps between two lines of the log")
    parser.add_argument("--check", type=int, default=400, help="steps between two quick evaluations")
    parser.add_argument("--quick", type=int, default=60, help="questions a type in a quick evaluation")
    parser.add_argument("--run", type=Path, default=Path("runs/mini"), help="folder of checkpoints and log")
    parser.add_argument("--snapshot", type=Path, default=path(), help="folder of the weights")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    train(parse())
