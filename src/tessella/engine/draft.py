"""The draft that rewriting methods are given of a running model, and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..core.errors import MethodError, UnsupportedError
from ..core.layout import Block, Layout
from ..core.rewriting import Draft, Grid, Picture
from ..models.adapter import Adapter
from ..models.footprint import Footprint
from ..models.on_host import on_host
from ..ops.similarity import cosine_similarity
from .companions import Companions
from .draft_attention import last_attention
from .draft_sequence import DraftSequence, length_of, mask_of, through, tokens_of, visual_places
from .encoder import Encoding

_OF_PICTURES = ("pixel_values", "image_sizes", "interpolate_pos_encoding", "image_grid_thw")


class EngineDraft(Draft):
    """A draft for one adapter, as the method `reader` sees it.

    `origin` is that of a `Rewrite`; None while nothing has changed.
    """

    def __init__(
        self,
        adapter: Adapter,
        arguments: Mapping[str, Any],
        layout: Layout,
        pictures: Sequence[Picture],
        companions: Companions,
        reader: str,
        origin: Int[Tensor, "B R"] | None = None,
    ) -> None:
        self.info = adapter.info
        self.arguments, self.layout = arguments, layout
        self.origin = origin
        self._adapter, self._companions, self._reader = adapter, companions, reader
        self._items = tuple(pictures)
        self.pictures = tuple(p for p in pictures if isinstance(p, Tensor))

    def for_method(self, reader: str) -> EngineDraft:
        """The same draft as another method sees it."""
        return EngineDraft(
            self._adapter, self.arguments, self.layout, self._items, self._companions, reader, self.origin
        )

    @property
    def is_made(self) -> bool:
        """True if some of the pictures are grids of a rewriter's own making."""
        return len(self.pictures) < len(self._items)

    def picture_size(self, rows: int, columns: int) -> tuple[int, int]:
        return self._adapter.picture_size(rows, columns)

    def native_size(self) -> tuple[int, int]:
        return self._adapter.native_size()

    def encode(self, pictures: Sequence[Tensor]) -> list[Tensor]:
        return list(self._adapter.encode_pictures(pictures, self.arguments).pooler_output)  # type: ignore[arg-type]

    def question(self, prompt: int) -> str:
        tokenizer = self._companions.tokenizer_for(self._reader)
        ids = self.arguments.get("input_ids")
        if ids is None:
            raise UnsupportedError(f"{self._reader} reads words, and inputs_embeds have none: give input_ids.")
        text, slots = self._text(prompt), self.layout.slot[prompt]
        behind = text[text > slots.max()]
        chosen = on_host(ids)[prompt, behind if len(behind) else text]
        return str(tokenizer.decode(chosen, skip_special_tokens=True)).strip()

    def text_similarity(self) -> list[Tensor]:
        load = self._companions.load_tower
        if load is None:
            raise UnsupportedError(f"{self._reader} needs a text tower, and its needs() do not say so.")
        tower, prompts = load(), [r for r, n in enumerate(self.layout.num_images) for _ in range(n)]
        questions = tower.of_texts([self.question(r) for r in prompts])
        seen = tower.of_patches(self._class_tokens())
        return list(cosine_similarity(seen[:, None], questions.to(seen.device)[:, None])[:, 0, 0])

    def last_attention(self, tokens: Sequence[Tensor], layer: int) -> list[Tensor]:
        given = iter(tokens)
        out: list[Tensor] = []
        for row, count in enumerate(self.layout.num_tokens):
            mine = [next(given) for _ in range(self.layout.num_images[row])]
            firsts = self._firsts(row, count)
            text = self._text(row)
            out += last_attention(self._adapter, self.arguments, row, text, firsts, mine, layer, self._reader)
        return out

    def replace(self, pictures: Sequence[Sequence[Picture]]) -> EngineDraft:
        if len(pictures) != len(self._items):
            raise MethodError(f"the prompts hold {len(self._items)} pictures; {len(pictures)} replacements were given.")
        if all(len(new) == 1 and new[0] is old for new, old in zip(pictures, self._items, strict=True)):
            return self
        blocks, repeats = self._plan(pictures)
        text = visual_places(self.layout, repeats.shape[1]).to(torch.int8).argmin(dim=1)
        sequence = DraftSequence.of(self.arguments, repeats, text)
        origin = sequence.origin if self.origin is None else through(sequence.origin, self.origin)
        slots = self._slots(sequence)
        arguments = {n: sequence.take(n, v) for n, v in self.arguments.items()}
        flat = [p for new in pictures for p in new]
        layout = Layout.build(slots, blocks)
        return EngineDraft(self._adapter, arguments, layout, flat, self._companions, self._reader, origin)

    def finish(self) -> tuple[dict[str, Any], Encoding | None]:
        """Arguments with the pictures encoded; where grids are a method's own, an encoding that tells of them."""
        out = {n: v for n, v in self.arguments.items() if n not in _OF_PICTURES}
        if not self._items:
            return out, None
        encoding = None
        if self.is_made:
            output, encoding = self._made()
        else:
            output = self._adapter.encode_pictures(self.pictures, self.arguments)
        out["mm_encoder_outputs"] = {"image": output}
        grids = [(b.rows, b.columns) for blocks in self.layout.blocks for b in blocks]
        return out | self._adapter.picture_arguments(grids, tokens_of(self.arguments).device), encoding

    def kept(self) -> Bool[Tensor, "B V"] | None:
        """Which visual tokens stay of the grids that methods have made; None for all."""
        if not any(g.kept is not None for p in self._items if not isinstance(p, Tensor) for g in p):
            return None
        out = self.layout.mask.clone()
        items = iter(self._items)
        for row, count in enumerate(self.layout.num_tokens):
            first = 0
            for image in range(self.layout.num_images[row]):
                item, size = next(items), int((self.layout.image[row, :count] == image).sum())
                if not isinstance(item, Tensor):
                    out[row, first : first + size] = torch.cat([_kept_of(g) for g in item])
                first += size
        return out

    def _class_tokens(self) -> Float[Tensor, "P Ce"]:
        """Each picture's class token as the encoder's last layer leaves it."""
        if not self.info.has_class_token:
            raise UnsupportedError(f"{self._reader} reads class tokens; this {self.info.family} encoder has none.")
        outputs: list[Tensor] = []

        def keep(module: nn.Module, args: object, output: Tensor | tuple[Tensor, ...]) -> None:
            outputs.append((output if isinstance(output, Tensor) else output[0])[0, 0])

        handle = self._adapter.encoder_layers[-1].register_forward_hook(keep)
        try:
            for picture in self.pictures:
                self.encode([picture])
        finally:
            handle.remove()
        return torch.stack(outputs)

    def _made(self) -> tuple[BaseModelOutputWithPooling, Encoding]:
        """All pictures as grids: those that are pixels still are encoded, whole."""
        encoded = iter(self.encode(self.pictures) if self.pictures else ())
        entries: list[Tensor] = []
        footprints: list[Footprint] = []
        shown: list[tuple[Tensor, ...]] = []
        for item in self._items:
            grids = (self._whole(item, next(encoded)),) if isinstance(item, Tensor) else item
            entries.append(torch.cat([g.tokens for g in grids]))
            patches = torch.arange(len(entries[-1]))[:, None]
            items = tuple(range(len(grids)))
            footprints.append(Footprint(_blocks_of(grids, 0), patches, len(patches), items=items, num_items=len(items)))
            shown.append(tuple(g.picture for g in grids))
        output = BaseModelOutputWithPooling()
        output.pooler_output = entries  # type: ignore[assignment]
        return output, Encoding("image", {}, footprints, list(range(len(entries) + 1)), shown=shown)

    def _whole(self, picture: Tensor, tokens: Float[Tensor, "N C"]) -> Grid:
        (block,) = self._adapter.picture_blocks(picture, 0)
        return Grid(tokens, block.rows, block.columns, picture)

    def _plan(self, pictures: Sequence[Sequence[Picture]]) -> tuple[list[list[Block]], Int[Tensor, "B S"]]:
        """The new blocks of each row, and how often each token of a row stands in the new one."""
        layout, given = self.layout, iter(pictures)
        repeats = torch.ones(len(layout.slot), length_of(self.arguments), dtype=torch.long)
        blocks: list[list[Block]] = []
        for row, count in enumerate(layout.num_tokens):
            mine: list[Block] = []
            for image in range(layout.num_images[row]):
                slots = layout.slot[row, :count][layout.image[row, :count] == image]
                before, number = sum(b.num_tokens for b in mine), mine[-1].image + 1 if mine else 0
                for picture in next(given):
                    mine += self._blocks(picture, number)
                    number += 1
                wanted = sum(b.num_tokens for b in mine) - before
                repeats[row, slots[wanted:]] = 0
                if wanted > len(slots):
                    repeats[row, slots[-1]] += wanted - len(slots)
            blocks.append(mine)
        return blocks, repeats

    def _blocks(self, picture: Picture, image: int) -> tuple[Block, ...]:
        if isinstance(picture, Tensor):
            return self._adapter.picture_blocks(picture, image)
        return _blocks_of(picture, image)

    def _slots(self, sequence: DraftSequence) -> list[Tensor]:
        """Slots of the new visual tokens."""
        visual = visual_places(self.layout, length_of(self.arguments))
        here = visual.gather(1, sequence.host_origin.clamp(min=0)) & (sequence.host_origin >= 0)
        return [row.nonzero()[:, 0] for row in here]

    def _text(self, row: int) -> Int[Tensor, " T"]:
        """Places of a prompt's text."""
        length, mask = length_of(self.arguments), mask_of(self.arguments)
        real = torch.ones(length, dtype=torch.bool) if mask is None else on_host(mask)[row] != 0
        return (real & ~visual_places(self.layout, length)[row]).nonzero()[:, 0]

    def _firsts(self, row: int, count: int) -> list[int]:
        """Place of the first token of each picture of a prompt."""
        slots, images = self.layout.slot[row, :count], self.layout.image[row, :count]
        return [int(slots[images == image][0]) for image in range(self.layout.num_images[row])]


def _blocks_of(grids: Sequence[Grid], image: int) -> tuple[Block, ...]:
    """Grids as the blocks of image number `image` of a prompt, a tile each."""
    return tuple(Block(image, g.rows, g.columns, tile=i, role=g.role) for i, g in enumerate(grids))


def _kept_of(grid: Grid) -> Bool[Tensor, " N"]:
    return torch.ones(len(grid.tokens), dtype=torch.bool) if grid.kept is None else grid.kept
