"""What a reduced LLaVA must answer, computed by hand: one row, no padding, no cache, no hooks, nothing of the engine.

Every new token recomputes the whole sequence. The kept tokens are given; the oracle only cuts them out in front of a
layer and runs the decoder layers one after the other with a dense mask and explicit positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tessella.testing.tiny import IMAGE_TOKEN

Kept = Sequence[int]  # indices among the visual tokens of a row


@dataclass(frozen=True)
class State:
    """The sequence in front of a layer (or behind the last): slots of the full prompt and hidden states `[R, C]`."""

    slots: list[int]
    hidden: Tensor


class Oracle:
    """One row. `cuts` are (layer, kept visual tokens), layers ascending; `first` is the position of its first token.

    Kept tokens that are not in ascending order stand in the sequence in theirs, each in the place of another. `new` are
    vectors that kept tokens get at the cut in front of a layer, by layer and token.
    """

    def __init__(
        self,
        model: nn.Module,
        ids: Sequence[int],
        pictures: Tensor | None = None,
        cuts: Sequence[tuple[int, Kept]] = (),
        positions: str = "original",
        first: int = 0,
        new: Mapping[int, Mapping[int, Tensor]] | None = None,
    ) -> None:
        self.body, self.head = model.model, model.lm_head
        self.decoder = self.body.language_model
        assert not any(m._forward_pre_hooks for m in self.decoder.layers), "the oracle must not run under a reduction"
        self.ids, self.pictures, self.positions, self.first = list(ids), pictures, positions, first
        self.visual = [slot for slot, token in enumerate(self.ids) if token == IMAGE_TOKEN]
        self._encoded: Tensor | None = None
        self.unseen: set[int] = set()  # slots that tokens after the prompt may not look at
        self.cuts = [(layer, [self.visual[i] for i in kept]) for layer, kept in cuts]
        self.new = {layer: {self.visual[i]: v for i, v in by.items()} for layer, by in (new or {}).items()}

    def embed(self, more: Sequence[int] = ()) -> Tensor:
        """Embeddings `[N, C]` of the prompt and what follows it, pictures in their places."""
        embedded = self.decoder.embed_tokens(torch.tensor([*self.ids, *more]))
        if self.pictures is None or not self.visual:
            return embedded
        rows = list(embedded)
        for slot, feature in zip(self.visual, self._encode(), strict=True):
            rows[slot] = feature
        return torch.stack(rows)

    def states(self, more: Sequence[int] = ()) -> list[State]:
        """In front of every layer, cuts made, and behind the last layer and norm."""
        hidden = self.embed(more)
        slots = list(range(len(hidden)))
        places = slots
        visual = set(self.visual)
        out = []
        for number, layer in enumerate(self.decoder.layers):
            for at_layer, kept in self.cuts:
                if at_layer == number:
                    line = iter(kept if self.positions == "compact" else [s for s in slots if s in set(kept)])
                    stay = [
                        slot if slot not in visual else next(line)
                        for slot in slots
                        if slot not in visual or slot in kept
                    ]
                    changed = self.new.get(at_layer, {})
                    hidden = torch.stack([changed[s] if s in changed else hidden[slots.index(s)] for s in stay])
                    slots = stay
                    places = slots if self.positions == "original" else list(range(len(slots)))
            out.append(State(slots, hidden))
            hidden = self._layer(layer, hidden, slots, places)
        return [*out, State(slots, self.decoder.norm(hidden))]

    def attention(self, layer: int) -> Tensor:
        """Attention probabilities `[H, R, R]` of a layer in front of which the sequence was never cut."""
        state = self.states()[layer]
        module = self.decoder.layers[layer].self_attn
        hidden = self.decoder.layers[layer].input_layernorm(state.hidden)
        size, width = len(hidden), module.head_dim
        query = module.q_proj(hidden).view(size, -1, width).transpose(0, 1)
        key = module.k_proj(hidden).view(size, -1, width).transpose(0, 1)
        cos, sin = self._rotary(hidden, state.slots)

        def rotate(x: Tensor) -> Tensor:
            return x * cos[0] + torch.cat([-x[..., width // 2 :], x[..., : width // 2]], dim=-1) * sin[0]

        key = rotate(key).repeat_interleave(len(query) // len(key), dim=0)
        logits = rotate(query) @ key.transpose(1, 2) * width**-0.5
        return (logits + _causal(size, logits.dtype)).softmax(dim=-1)

    def logits(self, more: Sequence[int] = ()) -> Tensor:
        """Logits `[R, vocabulary]` of the tokens that are left."""
        return self.head(self.states(more)[-1].hidden)

    def greedy(self, count: int, more: Sequence[int] = ()) -> list[int]:
        """The next tokens, image token excluded."""
        out: list[int] = []
        for _ in range(count):
            out.append(int(suppressed(self.logits([*more, *out])[-1]).argmax()))
        return out

    def beams(self, count: int, width: int) -> list[list[int]]:
        """Beam search without an end token: all beams, best first."""
        running: list[tuple[float, list[int]]] = [(0.0, [])]
        for _ in range(count):
            scores = [s + suppressed(self.logits(b)[-1].log_softmax(dim=-1)) for s, b in running]
            flat = torch.cat(scores)
            best = flat.topk(width).indices.tolist()
            vocabulary = len(scores[0])
            running = [(float(flat[i]), [*running[i // vocabulary][1], i % vocabulary]) for i in best]
        return [tokens for _, tokens in running]

    def loss(self, labels: Sequence[int]) -> tuple[Tensor, int]:
        """Summed next-token loss over the cut sequence, and the number of targets; -100 is ignored."""
        slots, logits = self.states()[-1].slots, self.logits()
        left = torch.tensor([labels[s] for s in slots])
        total = nn.functional.cross_entropy(logits[:-1], left[1:], ignore_index=-100, reduction="sum")
        return total, int((left[1:] != -100).sum())

    def _encode(self) -> Tensor:
        """Projected features `[V, C]` of the pictures."""
        if self._encoded is None or torch.is_grad_enabled():
            features = self.body.get_image_features(self.pictures, return_dict=True).pooler_output
            self._encoded = torch.cat(list(features))
        return self._encoded

    def _layer(self, layer: nn.Module, hidden: Tensor, slots: list[int], places: list[int]) -> Tensor:
        mask = _causal(len(hidden), hidden.dtype)
        for i, slot in enumerate(slots):
            if slot in self.unseen:
                mask[[s >= len(self.ids) for s in slots], i] = torch.finfo(hidden.dtype).min
        out = layer(
            hidden[None],
            attention_mask=mask[None, None],
            position_embeddings=self._rotary(hidden, places),
        )
        return out[0]

    def _rotary(self, hidden: Tensor, places: list[int]) -> tuple[Tensor, Tensor]:
        return self.decoder.rotary_emb(hidden[None], torch.tensor(places)[None] + self.first)


def suppressed(logits: Tensor) -> Tensor:
    """Logits without the image token."""
    return logits.index_fill(-1, torch.tensor([IMAGE_TOKEN]), float("-inf"))


def _causal(size: int, dtype: torch.dtype) -> Tensor:
    return torch.full((size, size), torch.finfo(dtype).min, dtype=dtype).triu(1)
