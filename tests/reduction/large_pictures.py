"""Pictures larger than those for which the tiny encoder was made, left large."""

from __future__ import annotations

import torch
from torch import Tensor

from tessella.testing.tiny import IMAGE_TOKEN, tiny_inputs

SIDE = 28  # pixels of a picture for which the tiny encoder was made: 4 x 4 tokens


def large_inputs(*sizes: tuple[int, int], text: int = 6) -> dict[str, Tensor]:
    """A prompt with pictures of one size (height, width), as a processor that resizes nothing makes it."""
    inputs = tiny_inputs((len(sizes),), text_length=text)
    (size,) = set(sizes)
    ids, run = [], 0
    for token in inputs["input_ids"][0].tolist():
        run = run + 1 if token == IMAGE_TOKEN else 0
        ids += [token] * ((size[0] // 7) * (size[1] // 7) if run == 1 else 0 if run else 1)
    pixels = torch.randn(len(sizes), 3, *size, generator=torch.Generator().manual_seed(3))
    return {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        "pixel_values": pixels,
    }
