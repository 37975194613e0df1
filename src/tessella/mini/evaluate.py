"""Measure the shipped weights on fresh pictures: `python -m tessella.mini.evaluate --per-type 2000`.

Greedy decoding, exact match, all visual tokens; `--blind` leaves the pictures out of the prompt, `--kinds all` asks
about contexts of several pictures and clips too, `--variant crowded` about crowded pictures.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from tessella.mini import path
from tessella.mini.clips import CLIP_KINDS
from tessella.mini.contexts import CONTEXT_KINDS, Prompt
from tessella.mini.prompts import ALL_KINDS, draw_prompt
from tessella.mini.questions import KINDS, Sample
from tessella.mini.variants import VARIANTS
from tessella.mini.world import WORLD_VERSION

BATCH = 50
BATCH_OF_MANY = 10  # prompts of several pictures
GROUPS = {"single": KINDS, "contexts": CONTEXT_KINDS, "clips": CLIP_KINDS, "all": ALL_KINDS}


def build_prompt(processor: Any, question: str, blind: bool = False) -> str:
    """The chat text of one question; without the picture when blind."""
    return render(processor, [question] if blind else [None, question])


def render(processor: Any, parts: Sequence[Any]) -> str:
    """The chat text of a prompt; whatever is no text is a picture."""
    content = [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in parts]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


@torch.no_grad()
def answer(model: Any, processor: Any, samples: Sequence[Sample | Prompt], blind: bool = False) -> list[str]:
    """The model's greedy answers to a batch of samples; without their pictures when blind."""
    pictures = [[part for part in item.parts if not isinstance(part, str)] for item in samples]
    texts = [[part for part in item.parts if isinstance(part, str) or not blind] for item in samples]
    prompts = [render(processor, parts) for parts in texts]
    images = None if blind else pictures
    inputs = processor(text=prompts, images=images, padding=True, return_tensors="pt", add_special_tokens=False)
    out = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    return processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def _batches(kind: str, count: int, split: str, first: int, variant: str) -> Iterator[list[Prompt]]:
    size = BATCH if kind in KINDS else BATCH_OF_MANY
    for start in range(first, first + count, size):
        stop = min(start + size, first + count)
        yield [draw_prompt(kind, seed, split, variant) for seed in range(start, stop)]


def measure(
    model: Any,
    processor: Any,
    per_type: int,
    blind: bool = False,
    split: str = "test",
    first: int = 0,
    kinds: Sequence[str] = KINDS,
    variant: str = "plain",
) -> dict[str, dict[str, float]]:
    """For each type: accuracy, and the share of the most frequent answer, which needs no picture."""
    table = {}
    for kind in kinds:
        right, truths = 0, Counter()
        for batch in _batches(kind, per_type, split, first, variant):
            answers = answer(model, processor, batch, blind)
            right += sum(given == item.answer for given, item in zip(answers, batch, strict=True))
            truths.update(item.answer for item in batch)
        table[kind] = {"accuracy": right / per_type, "constant": truths.most_common(1)[0][1] / per_type}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy of the embedded model on held-out pictures.")
    parser.add_argument("--per-type", type=int, default=2000, help="questions of each type")
    parser.add_argument("--kinds", choices=GROUPS, default="single", help="types to ask")
    parser.add_argument("--variant", choices=VARIANTS, default="plain", help="look of single pictures")
    parser.add_argument("--blind", action="store_true", help="leave the picture out of the prompt")
    parser.add_argument("--first", type=int, default=0, help="seed of the first picture")
    parser.add_argument("--folder", type=Path, default=path(), help="folder of the weights")
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    processor = AutoProcessor.from_pretrained(options.folder)
    model = AutoModelForImageTextToText.from_pretrained(options.folder).eval()
    table = measure(
        model,
        processor,
        options.per_type,
        options.blind,
        first=options.first,
        kinds=GROUPS[options.kinds],
        variant=options.variant,
    )
    print(f"{options.per_type} questions a type, {'without' if options.blind else 'with'} the picture")
    print(f"{'type':<10} {'accuracy':>8} {'constant':>8}")
    for kind, row in table.items():
        print(f"{kind:<10} {row['accuracy']:>8.4f} {row['constant']:>8.4f}")
    print(f"{'mean':<10} {sum(row['accuracy'] for row in table.values()) / len(table):>8.4f}")
    if options.json:
        asked = {name: getattr(options, name) for name in ("per_type", "first", "blind", "variant")}
        record = {"world": WORLD_VERSION, **asked, "types": table}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
