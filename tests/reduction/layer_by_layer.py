"""A tiny LLaVA run by hand in float64, one layer after the other, on a sequence that a reference cuts in between."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tessella.testing.tiny import IMAGE_TOKEN


@dataclass(frozen=True)
class Front:
    """What stands in front of a cut: the attention of the layer before, hidden states, and who is where."""

    attention: Tensor  # [H, R, R]
    hidden: Tensor  # [R, C]
    visual: list[int]  # places, in the order of the sequence
    text: list[int]  # places of the prompt's text behind the last picture, as the prompt came
    first: list[int]  # places of the visual tokens in the whole prompt
    embeddings: Tensor  # [R, C], what went into the first layer


@dataclass(frozen=True)
class Left:
    """Which of the places stay and what stands there then, in the order of the sequence where places are re-indexed."""

    places: list[int]
    vectors: Tensor  # [K, C]


Cut = Callable[[int, Front], Left]  # the number of the cut, 0 the first


class LayerByLayer:
    """One prompt without padding. `cut` is asked in front of each of `layers`."""

    def __init__(
        self, model: Any, ids: list[int], pictures: Tensor, layers: tuple[int, ...], cut: Cut, positions: str
    ) -> None:
        self.model = copy.deepcopy(model).double()
        self.decoder, self.layers = self.model.model.language_model, layers
        self.ids, self.pictures, self.cut, self.positions = ids, pictures.double(), cut, positions

    def logits(self, more: tuple[int, ...] = ()) -> tuple[list[int], Tensor]:
        """Slots of the tokens that are left at the end, and the logits of each."""
        tokens = torch.tensor([*self.ids, *more])
        hidden = self.decoder.embed_tokens(tokens)
        first = [i for i, token in enumerate(self.ids) if token == IMAGE_TOKEN]
        features = self.model.model.get_image_features(self.pictures, return_dict=True).pooler_output
        hidden = hidden.index_copy(0, torch.tensor(first), torch.cat(list(features)))
        embeddings, slots, visual = hidden, list(range(len(tokens))), first
        attention = torch.empty(0)
        for number, layer in enumerate(self.decoder.layers):
            if number in self.layers:
                text = [i for i, slot in enumerate(slots) if first[-1] < slot < len(self.ids)]
                front = Front(attention, hidden, visual, text, first, embeddings)
                left = self.cut(self.layers.index(number), front)
                in_place = sorted(left.places) if self.positions == "compact" else left.places
                vectors = dict(zip(in_place, left.vectors, strict=True))
                stay = sorted([i for i in range(len(slots)) if i not in visual] + in_place)
                hidden = torch.stack([vectors.get(i, hidden[i]) for i in stay])
                visual = [new for new, old in enumerate(stay) if old in vectors]
                slots = [slots[i] for i in stay]
            where = torch.tensor(slots if self.positions == "original" else range(len(slots)))[None]
            rotary = self.decoder.rotary_emb(hidden[None], where)
            attention = attention_of(layer, hidden, rotary)
            mask = torch.full((len(slots), len(slots)), torch.finfo(hidden.dtype).min, dtype=hidden.dtype).triu(1)
            hidden = layer(hidden[None], attention_mask=mask[None, None], position_embeddings=rotary)[0]
        return slots, self.model.lm_head(self.decoder.norm(hidden))

    def greedy(self, count: int) -> list[int]:
        """The next tokens, image token excluded."""
        out: list[int] = []
        for _ in range(count):
            last = self.logits(tuple(out))[1][-1].clone()
            last[IMAGE_TOKEN] = -torch.inf
            out.append(int(last.argmax()))
        return out


def attention_of(layer: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Causal attention `[H, R, R]` of a layer on its input."""
    module, normed = layer.self_attn, layer.input_layernorm(hidden)
    width = module.head_dim

    def turned(x: Tensor) -> Tensor:
        x = x.unflatten(1, (-1, width)).transpose(0, 1)
        one, other = x.chunk(2, dim=2)
        return x * rotary[0][0] + torch.cat([-other, one], dim=2) * rotary[1][0]

    query, key = turned(module.q_proj(normed)), turned(module.k_proj(normed))
    key = key.repeat_interleave(len(query) // len(key), dim=0)
    future = torch.ones(len(hidden), len(hidden), dtype=torch.bool).triu(1)
    return (query @ key.transpose(1, 2) * width**-0.5).masked_fill(future, -torch.inf).softmax(dim=2)


def best(scores: list[float], count: int) -> list[int]:
    """Numbers of the highest scores, highest first, the earlier one first among equals."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count]
