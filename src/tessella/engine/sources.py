"""What views of one forward read from: its arguments, its pictures with their encodings, and what was recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.layout import Block
from ..models.adapter import Adapter, gather_patches
from ..models.footprint import Footprint, join
from ..models.placing import Placed
from ..ops import draws
from .capture import Recorder
from .companions import Companions
from .encoder import Encoding, Picture


@dataclass
class Sources:
    """`pictures` are those of the prompts, in the order of their tokens; `embeddings [B, S, C]` those of layer 0.

    `is_unpadded`: whether the prompts' mask hides nothing, where that is known.
    """

    inputs: dict[str, Any] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)
    decoder: dict[int, Recorder] = field(default_factory=dict)
    embeddings: Tensor | None = None
    is_unpadded: bool | None = None
    companions: Companions = field(default_factory=Companions)

    def attach(self, encoding: Encoding) -> None:
        """Say that the pictures of a modality are those just encoded, in order."""
        self.pictures = [replace(p, encoding=encoding) if p.modality == encoding.modality else p for p in self.pictures]

    @cached_property
    def sample_ids(self) -> list[int]:
        """What tells the content of each picture from another's: its pixels, whose bits do not depend on a batch."""
        return [draws.sample_id_of(p.shown[0] if p.shown else p.content) for p in self.pictures]

    @cached_property
    def encodings(self) -> list[Encoding]:
        """The encodings behind the pictures, each once."""
        return list(dict.fromkeys(p.encoding for p in self.pictures if p.encoding is not None))

    def per_token(
        self, read: Callable[[Encoding], Float[Tensor, "N *rest"]], tokens: Int[Tensor, "B V"]
    ) -> Float[Tensor, "B V *rest"]:
        """Values that `read` gives for each patch, of visual tokens: the mean over a token's patches.

        `tokens` count through all visual tokens of the batch, row by row.
        """
        values = self.per_patch(read)
        patches, shares = self._patches_on(values.device)
        chosen = tokens.reshape(-1).to(values.device)
        out = gather_patches(values, patches[chosen], None if shares is None else shares[chosen])
        return out.unflatten(0, tokens.shape)

    def features(self, adapter: Adapter, tokens: Int[Tensor, "B V"]) -> Float[Tensor, "B V Ce"]:
        """The connector's input of visual tokens."""
        rows = self.feature_rows(adapter)
        where, shares = join(
            [p.footprint.as_inputs() for p in self.pictures], [self.start(p, "input_starts") for p in self.pictures]
        )
        chosen = tokens.reshape(-1).to(rows.device)
        weights = None if shares is None else shares.to(rows.device, non_blocking=True)[chosen]
        out = adapter.token_features(rows, where.to(rows.device, non_blocking=True)[chosen], weights)
        return out.unflatten(0, tokens.shape)

    def feature_rows(self, adapter: Adapter) -> Float[Tensor, "N Ce"]:
        """The connector's input, one row a patch or a token."""
        parts = [e.features for e in self.encodings]
        return _joined([adapter.feature_rows(f) for f in parts])  # type: ignore[arg-type]  # the caller has looked

    def per_patch(self, read: Callable[[Encoding], Float[Tensor, "N *rest"]]) -> Float[Tensor, "N *rest"]:
        """Values that `read` gives for each patch of all pictures."""
        return _joined([read(e) for e in self.encodings])

    def patches_of(self, tokens: Int[Tensor, "B V"]) -> tuple[Int[Tensor, "B V P"], Float[Tensor, "B V P"]]:
        """Patches of visual tokens, -1 for none, and their shares in them; `tokens` as in `per_token`."""
        patches, shares = self._patches_on(tokens.device)
        if shares is None:
            shares = torch.full(patches.shape, 1 / patches.shape[1], device=patches.device)
        return patches[tokens], shares[tokens]

    def item(self, part: int, block: int) -> int:
        """The encoder's batch item of a block of a picture, counted through all encodings."""
        picture = self.pictures[part]
        before = sum(e.item_starts[-1] for e in self.encodings[: self._which(picture)])
        assert picture.encoding is not None
        return before + picture.encoding.item_starts[picture.number] + picture.footprint.items[block]

    @cached_property
    def grid_sizes(self) -> Int[Tensor, " T"]:
        """For each visual token the number of patches of its own grid."""
        sizes = [p.footprint.num_patches // max(len(p.footprint.blocks), 1) for p in self.pictures]
        counts = torch.tensor([p.footprint.num_tokens for p in self.pictures], dtype=torch.long)
        return torch.tensor(sizes, dtype=torch.long).repeat_interleave(counts)

    @cached_property
    def _patches(self) -> tuple[Int[Tensor, "T P"], Float[Tensor, "T P"] | None]:
        return join([p.footprint for p in self.pictures], [self.start(p, "patch_starts") for p in self.pictures])

    def _patches_on(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        patches, shares = self._patches
        return patches.to(device, non_blocking=True), None if shares is None else shares.to(device, non_blocking=True)

    def start(self, picture: Picture, counted: str) -> int:
        """What an Encoding counts in its list `counted`, in front of a picture's own, through all encodings."""
        before = sum(getattr(e, counted)[-1] for e in self.encodings[: self._which(picture)])
        return int(before + getattr(picture.encoding, counted)[picture.number])

    def _which(self, picture: Picture) -> int:
        return next(i for i, e in enumerate(self.encodings) if e is picture.encoding)


@dataclass(frozen=True)
class Origin:
    """Where a block of a prompt comes from: a picture, and the block in its footprint."""

    part: int
    block: int


def origins_of(blocks: Sequence[Sequence[Block]], pictures: Sequence[Picture]) -> dict[tuple[int, ...], Origin]:
    """By batch row and block key, where each block of a layout comes from."""
    origins = [Origin(part, i) for part, p in enumerate(pictures) for i in range(len(p.footprint.blocks))]
    keys = [(row, *b.key) for row, mine in enumerate(blocks) for b in mine]
    out: dict[tuple[int, ...], Origin] = {}
    for key, origin in zip(keys, origins, strict=True):
        out.setdefault(key, origin)  # a lone newline has the key of the block in front of it
    return out


def footprints_of(pictures: Sequence[Picture]) -> dict[str, list[Footprint]]:
    """The footprints of pictures by modality."""
    out: dict[str, list[Footprint]] = {}
    for picture in pictures:
        out.setdefault(picture.modality, []).append(picture.footprint)
    return out


def in_order(pictures: Sequence[Picture], placed: Placed) -> list[Picture]:
    """Pictures in the order of their tokens."""
    by_modality: dict[str, list[Picture]] = {}
    for picture in pictures:
        by_modality.setdefault(picture.modality, []).append(picture)
    return [by_modality[name][number] for name, number in placed.parts]


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat([p.to(parts[0].device) for p in parts])
