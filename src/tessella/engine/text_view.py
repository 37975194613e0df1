"""The part of a view that shows the prompt's text: embeddings, words, and a space that it shares with the patches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.budget import on_device
from ..core.errors import UnsupportedError
from ..core.view import Span
from ..models.on_host import on_host
from .places import question_of, text_places
from .units_view import UnitsView


class TextView(UnitsView):
    """The text of each unit's prompt, or the part of it that is the question."""

    def text_embeddings(self, span: Span = "all") -> tuple[Float[Tensor, "B T C"], Bool[Tensor, "B T"]]:
        embeddings = self._sources.embeddings
        if embeddings is None:
            raise self._undeclared("text_embeddings")
        where = self.span(span)
        real = where >= 0
        return embeddings[self._rows[:, None], where.clamp(min=0)] * real[:, :, None], real

    def words(self, span: Span = "question") -> list[str]:
        tokenizer = self._sources.companions.tokenizer_for(self._method_id)
        ids = self._sources.inputs.get("input_ids")
        if ids is None:
            raise UnsupportedError(f"{self._method_id} reads words, and inputs_embeds have none: give input_ids.")
        rows, where = on_host(ids)[list(self._units.source_row)], on_host(self.span(span))
        tokens = [row[place[place >= 0]].tolist() for row, place in zip(rows, where, strict=True)]
        return [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    def embed(self, texts: Sequence[str]) -> tuple[Float[Tensor, "B T C"], Bool[Tensor, "B T"]]:
        tokenizer = self._sources.companions.tokenizer_for(self._method_id)
        tokens = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        width = max(map(len, tokens), default=0)
        padded = on_device([i for row in tokens for i in (*row, *[0] * (width - len(row)))], self.device)
        lengths = on_device([len(row) for row in tokens], self.device)
        real = torch.arange(width, device=self.device) < lengths[:, None]
        embedding = self._adapter.language_model.get_input_embeddings()
        return embedding(padded.view(len(tokens), width)) * real[:, :, None], real

    def text_tower(self) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B V D"]]:
        load = self._sources.companions.load_tower
        if load is None:
            raise self._undeclared("text_tower")
        tower, words = load(), self.words()
        texts = list(dict.fromkeys(words))  # the tiles of a picture share their question
        question = tower.of_texts(texts).to(self.device)[on_device([texts.index(w) for w in words], self.device)]
        return question, tower.of_patches(self.encoder_hidden(self.info.num_encoder_layers - 1))

    def span(self, span: Span) -> Int[Tensor, "B T"]:
        """Places, in the prompt before any cut, of each item's text tokens in a span, padded with -1 at the end."""
        everything = text_places(self._history[0])[self._rows]
        if span == "all":
            return everything
        first = self._history[0].layout
        ends: list[tuple[int, int]] = []
        for row, blocks in zip(self._units.source_row, self._units.layout.blocks, strict=True):
            count = first.num_tokens[row]
            mine = torch.isin(first.image[row, :count], torch.tensor([b.image for b in blocks]))
            ends.append(question_of(first.slot[row, :count], int(first.slot[row, :count][mine].amax())))
        behind, end = on_device([e for pair in ends for e in pair], everything.device).view(-1, 2, 1).unbind(dim=1)
        chosen = (everything > behind) & (everything < end)
        chosen = torch.where(chosen.any(dim=1, keepdim=True), chosen, everything >= 0)
        order = torch.sort((~chosen).to(torch.int8), dim=1, stable=True).indices
        return torch.where(chosen.gather(1, order), everything.gather(1, order), -1)
