"""What a reduced model of any family must answer, computed by hand: one row, no padding, no cache, no engine.

For every new token the untouched model reads the whole sequence once, under plain hooks that note what each decoder
layer was given. Then the sequence is cut by hand in front of one layer, the mask and the positions of every layer are
cut like it, and the layers run one after the other.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

TEXT_TYPES = {"paligemma": 1}  # token_type_ids of written tokens, where 0 is not what says "text, causal"


@dataclass
class Given:
    """What the decoder was given: by layer its arguments, in front of layer 0 the hidden states `[S, C]`.

    `added` are features `[V, C]` that join the visual tokens behind the first layers (deep-stack).
    """

    hidden: Tensor
    layers: list[dict[str, Any]]
    added: list[Tensor]


class FamilyOracle:
    """One prompt without padding, of whose visual tokens `kept` are left from layer `at_layer` on.

    `kept` counts through the visual tokens in the order of the prompt. Under the positions `compact` tokens are
    numbered anew, from the first token's own position; under `original` each keeps its own. Masks are those of the
    places in the full prompt under both.
    """

    def __init__(
        self,
        model: Any,
        inputs: Mapping[str, Tensor],
        kept: Sequence[int],
        at_layer: int = 0,
        positions: str = "original",
    ) -> None:
        assert inputs["input_ids"].shape[0] == 1
        assert inputs["attention_mask"].all()
        self.model, self.inputs = model, dict(inputs)
        body = model.model
        self.decoder: Any = body.language_model if hasattr(body, "language_model") else body.text_model
        assert not any(m._forward_pre_hooks for m in self.decoder.layers), "the oracle must not run under a reduction"
        self.at_layer, self.positions = at_layer, positions
        self.visual = visual_slots(model, inputs["input_ids"][0])
        stay = {self.visual[i] for i in kept}
        self.gone = [slot for slot in self.visual if slot not in stay]

    def read(self, more: Sequence[int] = ()) -> Given:
        """What the untouched decoder is given of the prompt and `more` tokens behind it."""
        given = Given(torch.empty(0), [], [])
        hooks = [self.decoder.register_forward_pre_hook(partial(_note_added, given), with_kwargs=True)]
        for layer in self.decoder.layers:
            hooks.append(layer.register_forward_pre_hook(partial(_note_layer, given), with_kwargs=True))
        try:
            self.model(**longer(self.model, self.inputs, more), use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        return given

    def states(self, more: Sequence[int] = ()) -> tuple[list[int], Tensor]:
        """Slots of the tokens that are left at the end, and their hidden states `[R, C]` behind the norm."""
        given = self.read(more)
        hidden, slots = given.hidden, list(range(len(given.hidden)))
        for number, layer in enumerate(self.decoder.layers):
            if number == self.at_layer:
                slots = [slot for slot in slots if slot not in set(self.gone)]
                hidden = hidden[slots]
            hidden = layer(hidden[None], **self._arguments(given.layers[number], slots, hidden))
            hidden = (hidden[0] if isinstance(hidden, tuple) else hidden)[0]
            if number < len(given.added):
                place = {slot: i for i, slot in enumerate(self.visual)}
                for i, slot in enumerate(slots):
                    if slot in place:
                        hidden[i] = hidden[i] + given.added[number][place[slot]]
        return slots, self.decoder.norm(hidden)

    def logits(self, more: Sequence[int] = ()) -> Tensor:
        """Logits `[R, vocabulary]` of the tokens that are left."""
        return self._head(self.states(more)[1])

    def beams(self, count: int, width: int) -> list[list[int]]:
        """Beam search without an end token: all beams, best first."""
        running: list[tuple[float, list[int]]] = [(0.0, [])]
        for _ in range(count):
            scores = [s + self.speakable(self.logits(b)[-1].log_softmax(dim=-1)) for s, b in running]
            best = torch.cat(scores).topk(width)
            size = len(scores[0])
            found = zip(best.values.tolist(), best.indices.tolist(), strict=True)
            running = [(value, [*running[i // size][1], i % size]) for value, i in found]
        return [tokens for _, tokens in running]

    def loss(self, labels: Sequence[int]) -> tuple[Tensor, int]:
        """Summed next-token loss over the cut sequence, and the number of targets; -100 is ignored."""
        slots, hidden = self.states()
        left = torch.tensor([labels[s] for s in slots])
        total = nn.functional.cross_entropy(self._head(hidden)[:-1], left[1:], ignore_index=-100, reduction="sum")
        return total, int((left[1:] != -100).sum())

    def _head(self, hidden: Tensor) -> Tensor:
        logits = self.model.lm_head(hidden)
        bound = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        if "final_logit_softcapping" not in inspect.getsource(type(self.model).forward):
            bound = None  # transformers 5.18 does not heed it
        return logits if bound is None else torch.tanh(logits / bound) * bound

    def _arguments(self, given: dict[str, Any], slots: list[int], hidden: Tensor) -> dict[str, Any]:
        """A layer's arguments for the tokens in `slots`."""
        rows = slots if self.positions == "original" else list(range(len(slots)))  # of one axis: one row a position
        out = {k: v for k, v in given.items() if k not in ("cache", "past_key_values", "hidden_states")}
        out["attention_mask"] = _dense(given["attention_mask"], max(slots) + 1, hidden.dtype)[..., slots, :][..., slots]
        out["position_embeddings"] = tuple(table[..., rows, :] for table in given["position_embeddings"])
        if given.get("position_ids") is not None:
            out["position_ids"] = given["position_ids"][..., rows]
        return out

    def speakable(self, logits: Tensor) -> Tensor:
        """Logits without what the model never writes."""
        return logits.index_fill(-1, torch.tensor(self.model.generation_config.suppress_tokens), float("-inf"))


def visual_slots(model: Any, ids: Tensor) -> list[int]:
    """Where a prompt `[S]` has placeholders of pictures or clips."""
    names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
    tokens = {getattr(model.config, name, None) for name in names} - {None}
    return [slot for slot, token in enumerate(ids.tolist()) if token in tokens]


def longer(model: Any, inputs: Mapping[str, Tensor], more: Sequence[int]) -> dict[str, Tensor]:
    """Inputs of one row with written tokens behind it."""
    out = dict(inputs)
    ends = {"input_ids": list(more), "attention_mask": 1, "mm_token_type_ids": 0}
    ends["token_type_ids"] = TEXT_TYPES.get(model.config.model_type, 0)
    for name, end in ends.items():
        if name in out:
            new = torch.tensor(end, dtype=out[name].dtype).expand(1, len(more))
            out[name] = torch.cat([out[name], new], dim=1)
    return out


def _note_layer(given: Given, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if not given.layers:
        given.hidden = (args[0] if args else kwargs["hidden_states"])[0]
    given.layers.append(dict(kwargs))


def _note_added(given: Given, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    given.added = list(kwargs.get("deepstack_visual_embeds") or [])


def _dense(mask: Tensor | None, size: int, dtype: torch.dtype) -> Tensor:
    """An additive mask `[1, 1, S, S]`; where a layer was given none it is causal."""
    if mask is None:
        mask = torch.ones(1, 1, size, size, dtype=torch.bool).tril()
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros((), dtype=dtype).where(mask, torch.finfo(dtype).min)
