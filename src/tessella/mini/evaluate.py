"""Measure the shipped weights on fresh pictures: `python -m tessella.mini.evaluate --per-type 2000`.

Greedy decoding, exact match, all visual tokens; `--blind` leaves the picture out of the prompt.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from tessella.mini import path
from tessella.mini.questions import KINDS, Sample, sample

BATCH = 50


def build_prompt(processor: Any, question: str, blind: bool = False) -> str:
    """The chat text of one question; without the picture when blind."""
    content = [] if blind else [{"type": "image"}]
    content.append({"type": "text", "text": question})
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


@torch.no_grad()
def answer(model: Any, processor: Any, samples: list[Sample], blind: bool = False) -> list[str]:
    """The model's greedy answers to a batch of samples."""
    prompts = [build_prompt(processor, item.question, blind) for item in samples]
    images = None if blind else [[item.image] for item in samples]
    inputs = processor(text=prompts, images=images, padding=True, return_tensors="pt", add_special_tokens=False)
    out = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    return processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def _batches(kind: str, count: int, split: str, first: int) -> Iterator[list[Sample]]:
    for start in range(first, first + count, BATCH):
        yield [sample(kind, seed, split) for seed in range(start, min(start + BATCH, first + count))]


def measure(
    model: Any, processor: Any, per_type: int, blind: bool = False, split: str = "test", first: int = 0
) -> dict[str, dict[str, float]]:
    """For each type: accuracy, and the share of the most frequent answer, which needs no picture."""
    table = {}
    for kind in KINDS:
        right, truths = 0, Counter()
        for batch in _batches(kind, per_type, split, first):
            answers = answer(model, processor, batch, blind)
            right += sum(given == item.answer for given, item in zip(answers, batch, strict=True))
            truths.update(item.answer for item in batch)
        table[kind] = {"accuracy": right / per_type, "constant": truths.most_common(1)[0][1] / per_type}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy of the embedded model on held-out pictures.")
    parser.add_argument("--per-type", type=int, default=2000, help="questions of each type")
    parser.add_argument("--blind", action="store_true", help="leave the picture out of the prompt")
    parser.add_argument("--first", type=int, default=0, help="seed of the first picture")
    parser.add_argument("--folder", type=Path, default=path(), help="folder of the weights")
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    processor = AutoProcessor.from_pretrained(options.folder)
    model = AutoModelForImageTextToText.from_pretrained(options.folder).eval()
    table = measure(model, processor, options.per_type, options.blind, first=options.first)
    print(f"{options.per_type} questions a type, {'without' if options.blind else 'with'} the picture")
    print(f"{'type':<10} {'accuracy':>8} {'constant':>8}")
    for kind, row in table.items():
        print(f"{kind:<10} {row['accuracy']:>8.4f} {row['constant']:>8.4f}")
    print(f"{'mean':<10} {sum(row['accuracy'] for row in table.values()) / len(table):>8.4f}")
    if options.json:
        record = {"per_type": options.per_type, "first": options.first, "blind": options.blind, "types": table}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
