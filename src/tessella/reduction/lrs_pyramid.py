"""LRS pyramid: a very large picture from coarse to fine, of which only the tiles that the question asks for are seen.

Paper    Luo et al., ICCV 2025, arXiv:2503.07588
Acts     input: levels of tiles are encoded one after the other, and tokens of the last one are cut
Needs    pixels, text, and a model that takes several grids in the place of a picture
Differs  the paper's trained module that scores tokens is not there: the model's own first decoder layers stand in for
         it (`score_layer`, which no source states). No newlines: the models that can carry this have none, so that the
         tiles under them, which the authors' code always fetches, are not fetched. `zooms` goes on to finer levels,
         which the authors' code has switched off. Tiles are padded with zeros of normalised pixels; a tile of an odd
         side is shrunk to half of it, rounded up. The thumbnail keeps all its tokens, on top of a keep. A picture no
         larger than level 0 is no pyramid: its tokens compete as they are. The processor must leave pictures large,
         as by `do_resize=False, do_center_crop=False`
Names    alpha: pruning_ratio, for zooming, and at the end where no keep is given; base: 1008 pixels in tiles of 336
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import interpolate

from ..core.budget import Counts
from ..core.cards import Card
from ..core.contracts import Rewriter
from ..core.errors import MethodError
from ..core.layout import THUMBNAIL
from ..core.model_info import PaperLayer
from ..core.registry import register
from ..core.rewriting import Draft, Grid
from ..ops.pixels import cut_tiles, resized_to
from ..ops.pyramid import Level, level_of, scales_of, tiles_under


@dataclass(frozen=True)
class Look:
    """What has been seen of a picture: the tokens `[rows, columns, C]` of its last level, and which of them are there.

    `finer`: the levels that are left, coarse to fine. `thumbnail`: the grid in front of the level's, if there is one.
    """

    picture: Float[Tensor, "c _ _"]
    tokens: Float[Tensor, "r k C"]
    there: Bool[Tensor, "r k"]  # on the host
    level: Level
    finer: tuple[Level, ...] = ()
    thumbnail: Grid | None = None

    @property
    def sequence(self) -> Float[Tensor, "_ C"]:
        """The thumbnail's tokens, then those of the level that are there."""
        mine = self.tokens.flatten(0, 1)[self.places.to(self.tokens.device)]
        return mine if self.thumbnail is None else torch.cat([self.thumbnail.tokens, mine])

    @property
    def places(self) -> Int[Tensor, " N"]:
        """Places of the level's tokens that are there, in raster order, on the host."""
        return self.there.flatten().nonzero()[:, 0]


@register
@dataclass(frozen=True)
class LRSPyramid(Rewriter):
    alpha: float = 0.25
    threshold: float | None = None  # zoom by stretched attention above this (the paper's is 0.2), not by alpha
    final_threshold: float = 0.1  # the same for the last cut, where no keep is given
    zooms: int = 1
    base: int = 3  # tiles along the long side of level 0
    score_layer: int = PaperLayer(8, depth=32)  # ours

    card = Card(
        title="LRS pyramid",
        stages=("input",),
        paper="2503.07588",
        year=2025,
        needs=("pixels", "grid", "text", "sizes", "several_grids"),
        count="adaptive",
        count_reason="the thumbnail, and of the last level's tokens those kept, or as many as the tiles seen have",
        rounding="floor",
        rounding_source="the authors' int(n * alpha)",
        prompt_dependent=True,
        nearest="downsample",
    )

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise MethodError(f"lrs_pyramid: alpha must be in (0, 1]; got {self.alpha}.")
        for name, value, least in (("zooms", self.zooms, 0), ("base", self.base, 1)):
            if value < least:
                raise MethodError(f"lrs_pyramid: {name} must be at least {least}; got {value}.")

    def rewrite(self, draft: Draft, counts: Counts) -> Draft:
        """Every picture as its thumbnail and the tokens of its last level that stay."""
        if counts.asked and counts.is_everything:
            return draft
        tile, side = draft.native_size()[0], draft.native_size()[0] // draft.picture_size(1, 1)[0]
        looks = [self._first(draft, picture, tile, side) for picture in draft.pictures]
        for _ in range(self.zooms):
            if not any(look.finer for look in looks):
                break
            attention = self._attention(draft, looks)
            looks = [self._closer(draft, *pair, side) for pair in zip(looks, attention, strict=True)]
        attention = self._attention(draft, looks)
        asked = counts.num_keep if counts.asked else [None] * len(looks)
        answers = zip(looks, attention, asked, strict=True)
        return draft.replace([[self._answer(look, a, keep)] for look, a, keep in answers])

    def _first(self, draft: Draft, picture: Float[Tensor, "c _ _"], tile: int, side: int) -> Look:
        """The thumbnail and level 0; the picture itself where it is no larger."""
        height, width = picture.shape[1:]
        if max(height, width) <= self.base * tile:
            rows, columns = (n // (tile // side) for n in (height, width))
            (tokens,) = draft.encode([picture])
            there = torch.ones(rows, columns, dtype=torch.bool)
            return Look(picture, tokens.unflatten(0, (rows, columns)), there, Level((height, width), (1, 1), tile))
        small, first, *finer = (level_of(height, width, s, tile) for s in scales_of(height, width, tile, self.base))
        thumbnail = resized_to(picture, *small.size)
        (tokens,) = draft.encode(list(cut_tiles(thumbnail, tile)[0]))
        seen = Grid(tokens, side, side, thumbnail, role=THUMBNAIL)
        everywhere = torch.ones(first.tiles, dtype=torch.bool)
        tokens, there = self._encoded(draft, picture, first, everywhere, side)
        return Look(picture, tokens, there, first, tuple(finer), seen)

    def _closer(self, draft: Draft, look: Look, attention: Float[Tensor, " N"], side: int) -> Look:
        """The next level, of which the tiles under the chosen tokens are encoded."""
        if not look.finer:
            return look
        places = look.places[self._chosen(attention).cpu()]
        wanted = tiles_under(places, tuple(look.there.shape), look.finer[0].tiles)
        tokens, there = self._encoded(draft, look.picture, look.finer[0], wanted, side)
        return replace(look, tokens=tokens, there=there, level=look.finer[0], finer=look.finer[1:])

    def _encoded(
        self, draft: Draft, picture: Float[Tensor, "c _ _"], level: Level, wanted: Bool[Tensor, "R T"], side: int
    ) -> tuple[Float[Tensor, "r k C"], Bool[Tensor, "r k"]]:
        """Tokens of a level, those of wanted tiles alone, and where they are; without what only pads the tiles."""
        half = math.ceil(side / 2)
        tiles = cut_tiles(resized_to(picture, *level.size), level.tile)
        tokens = torch.stack(draft.encode(list(tiles[wanted.to(tiles.device)])))
        canvas = tokens.new_zeros(*level.tiles, half, half, tokens.shape[2])
        canvas[wanted.to(canvas.device)] = halved(tokens.unflatten(1, (side, side)))
        rows, columns = level.grid(half)
        there = wanted.repeat_interleave(half, dim=0).repeat_interleave(half, dim=1)
        return canvas.transpose(1, 2).flatten(2, 3).flatten(0, 1)[:rows, :columns], there[:rows, :columns]

    def _attention(self, draft: Draft, looks: Sequence[Look]) -> list[Float[Tensor, " N"]]:
        """How much the last token of its prompt looks at each token of a level, out of those of the level alone."""
        products = draft.last_attention([look.sequence for look in looks], self.score_layer)
        numbers = [len(look.places) for look in looks]
        return [p[:, -n:].softmax(dim=1).mean(dim=0) for p, n in zip(products, numbers, strict=True)]

    def _chosen(self, attention: Float[Tensor, " N"]) -> Int[Tensor, " K"]:
        """Tokens into which to zoom."""
        if self.threshold is not None:
            return above(attention, self.threshold)
        return highest(attention, int(len(attention) * self.alpha))

    def _answer(self, look: Look, attention: Float[Tensor, " N"], keep: int | None) -> tuple[Grid, ...]:
        """The thumbnail, and the level's grid with the tokens that stay."""
        if keep is not None:
            chosen = highest(attention, min(keep, len(attention)))
        elif self.threshold is not None:
            chosen = above(attention, self.final_threshold)
        else:
            chosen = highest(attention, int(len(attention) * self.alpha))
        kept = torch.zeros(look.there.numel(), dtype=torch.bool)
        kept[look.places[chosen.cpu()]] = True
        rows, columns = look.there.shape
        shown = resized_to(look.picture, *look.level.size)
        grid = Grid(look.tokens.flatten(0, 1), rows, columns, shown, kept=kept)
        return (grid,) if look.thumbnail is None else (look.thumbnail, grid)


def halved(grids: Float[Tensor, "B s s C"]) -> Float[Tensor, "B h h C"]:
    """Bilinear at half as many tokens a side, rounded up."""
    half = math.ceil(grids.shape[1] / 2)
    planes = grids.float().permute(0, 3, 1, 2)
    small = interpolate(planes, size=(half, half), mode="bilinear", align_corners=False)
    return small.permute(0, 2, 3, 1).to(grids.dtype)


def highest(attention: Float[Tensor, " N"], count: int) -> Int[Tensor, " K"]:
    """The `count` tokens, one at least, of highest attention, ascending; earlier ones first among equals."""
    order = torch.sort(attention, descending=True, stable=True).indices
    return order[: max(count, 1)].sort().values


def above(attention: Float[Tensor, " N"], threshold: float) -> Int[Tensor, " K"]:
    """Tokens whose attention, stretched between its 5 % and 95 % quantiles, is above a threshold; one at least."""
    stretched = stretch(attention)
    chosen = (stretched > threshold).nonzero()[:, 0]
    return chosen if len(chosen) else highest(attention, 1)


def stretch(attention: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """0 at the 5 % quantile and below, 1 at the 95 % quantile and above; 0 everywhere where all are equal."""
    low, high = torch.quantile(attention, torch.tensor([0.05, 0.95], device=attention.device))
    return ((attention - low) / (high - low).clamp(min=torch.finfo(attention.dtype).tiny)).clamp(0, 1)


def with_newlines(chosen: Int[Tensor, " K"], grid: tuple[int, int]) -> Int[Tensor, " M"]:
    """Chosen places and those of all newlines, the last column of a grid (rows, columns), ascending."""
    rows, columns = grid
    return torch.cat([chosen, torch.arange(1, rows + 1, device=chosen.device) * columns - 1]).unique()
