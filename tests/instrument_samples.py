"""Samples for tests of instruments: noise and words that the tiny families know."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tessella.samples import Sample
from tessella.testing.families.text import WORDS


def noise_samples(count: int, sizes: tuple[tuple[int, int], ...], answer: str | None = None) -> list[Sample]:
    """Noise pictures of these sizes in turn, with questions of 2, 3, 4, ... words, of the kinds 'even' and 'odd'."""
    out = []
    for n in range(count):
        rng = np.random.default_rng(n)
        width, height = sizes[n % len(sizes)]
        picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        question = " ".join(rng.choice(WORDS, 2 + n))
        out.append(Sample((picture,), question, answer, ("even", "odd")[n % 2]))
    return out
