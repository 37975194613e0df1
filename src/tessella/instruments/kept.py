"""Which visual tokens each method keeps of the same prompts: what spectra, overlaps and maps are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from ..core.errors import InputError
from ..core.layout import NEWLINE, Block, Layout
from ..core.pipeline import Pipeline, as_pipeline
from ..engine.apply import reduce
from ..samples import Sample, batches
from .sampling import Advance, check_samples, num_batches, silent


@dataclass(frozen=True)
class Places:
    """Where the visual tokens of one prompt lie in their pictures: middles of their parts, from 0 to 1.

    A tile that is not part of a mosaic counts as a picture. `is_patch` is False for newlines. `grid` is the rows and
    columns of the picture, None where the prompt has several pictures or grids.
    """

    down: Float[ndarray, " V"]
    across: Float[ndarray, " V"]
    is_patch: Bool[ndarray, " V"]
    grid: tuple[int, int] | None


@dataclass(frozen=True)
class KeptSets:
    """For each pipeline and sample the visual tokens, in prompt order, that are there behind its last cut.

    `left_out` says why a pipeline has none.
    """

    kept: dict[str, tuple[Bool[ndarray, " V"], ...]]
    places: tuple[Places, ...]
    left_out: dict[str, str]

    @property
    def num(self) -> int:
        return len(self.places)


@torch.inference_mode()
def read_kept(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    methods: Sequence[str | Pipeline],
    *,
    batch: int = 8,
    advance: Advance = silent,
) -> KeptSets:
    """Run every pipeline, with its budgets, on all samples. Raises InputError if none has a set to compare."""
    check_samples(samples)
    pipelines = [as_pipeline(m) for m in methods]
    if not pipelines:
        raise InputError("name at least one method whose kept tokens are to be looked at.")
    kept: dict[str, list[Bool[ndarray, " V"]]] = {str(p): [] for p in pipelines}
    places: list[Places] = []
    left_out: dict[str, str] = {}
    for done, (_, inputs) in enumerate(batches(model, processor, samples, batch)):
        layout = None
        for pipeline in pipelines:
            with reduce(model, pipeline, processor=processor) as run:
                model(**inputs, logits_to_keep=1)
            if run.is_rewritten:
                left_out[str(pipeline)] = "it reads other pictures than the prompt's, so that its tokens are others"
                continue
            layout = run.layout
            kept[str(pipeline)] += [_mask_of(layout, row, images) for row, images in enumerate(run.kept)]
        if layout is not None:
            places += [places_of(layout, row) for row in range(len(layout.num_tokens))]
        advance(done + 1, num_batches(samples, batch))
    sets = {name: tuple(masks) for name, masks in kept.items() if name not in left_out}
    if not sets:
        raise InputError(f"no method keeps tokens that can be compared: {', '.join(left_out)} read other pictures.")
    return KeptSets(sets, tuple(places), left_out)


def _mask_of(layout: Layout, row: int, images: Sequence[Tensor]) -> Bool[ndarray, " V"]:
    """Kept tokens in prompt order, from the indices of each image, which count through its grids."""
    count = layout.num_tokens[row]
    order = torch.argsort(layout.frame[row, :count] * (count + 1) + layout.tile[row, :count], stable=True)
    out = np.zeros(count, dtype=bool)
    for number, indices in enumerate(images):
        out[order[layout.image[row, order] == number][indices].numpy()] = True
    return out


def places_of(layout: Layout, row: int) -> Places:
    """Where the tokens of one prompt lie."""
    count, blocks = layout.num_tokens[row], layout.blocks[row]
    columns = {name: getattr(layout, name)[row, :count].numpy() for name in ("image", "tile", "frame", "row", "column")}
    down, across = np.zeros(count), np.zeros(count)
    for block in blocks:
        mine = (columns["image"] == block.image) & (columns["tile"] == block.tile) & (columns["frame"] == block.frame)
        height, width = _size_of(block, blocks)
        down[mine] = (columns["row"][mine] + (block.top or 0) + 0.5) / height
        across[mine] = (columns["column"][mine] + block.left + 0.5) / max(width, 1)
    alone = blocks[0] if len(blocks) == 1 else None
    grid = None if alone is None else (alone.rows, alone.columns)
    return Places(down, across, layout.role[row, :count].numpy() != NEWLINE, grid)


def _size_of(block: Block, blocks: Sequence[Block]) -> tuple[int, int]:
    """Rows and columns of the picture that a grid is of: of the whole mosaic for one of its tiles."""
    if block.top is None:
        return block.rows, block.columns
    mosaic = [b for b in blocks if b.image == block.image and b.top is not None]
    return max((b.top or 0) + b.rows for b in mosaic), max(b.left + b.columns for b in mosaic)
