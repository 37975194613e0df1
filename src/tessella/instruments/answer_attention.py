"""Attention from generated tokens to text and to visual tokens, read from queries and cached keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from ..core.layout import Layout
from ..engine.cache import Ledger, cache_in, ledger_of
from ..engine.capture import Recorder, Switch, attach, detach
from ..models.adapter import find_adapter
from ..ops.attention import attention_rows


@dataclass(frozen=True)
class Masses:
    """Attention of n samples in L layers, summed over the rows of generated tokens and averaged over heads.

    `text` and `visual` [n, L]: on the prompt's text and on the visual tokens that a layer holds when the answer begins,
    over their sum; `text_without_first` leaves the prompt's first token out. `num_rows [n]`: generated tokens.
    """

    text: Float[ndarray, "n L"]
    visual: Float[ndarray, "n L"]
    text_without_first: Float[ndarray, "n L"]
    num_text: Int[ndarray, "n L"]
    num_text_without_first: Int[ndarray, "n L"]
    num_visual: Int[ndarray, "n L"]
    num_rows: Int[ndarray, " n"]

    @classmethod
    def join(cls, parts: Sequence[Masses]) -> Masses:
        return cls(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)})

    @property
    def has_rows(self) -> Bool[ndarray, " n"]:
        return self.num_rows > 0

    def with_rows(self) -> Masses:
        """The samples whose answers have a row."""
        return Masses(**{f.name: getattr(self, f.name)[self.has_rows] for f in fields(self)})


class AnswerAttention:
    """A context in which one `generate` of a run is observed: which weights each new token gives to what is cached."""

    def __init__(self, model: Any, layers: Sequence[int]) -> None:
        self._model, self._adapter = model, find_adapter(model)
        self._recorders = {layer: Recorder() for layer in layers}
        self._modules = {layer: self._adapter.decoder_attention(layer) for layer in layers}
        self._switch = Switch(self._modules.values())
        self._steps: list[list[tuple[Tensor, Tensor]]] = []  # of each new token and layer: weights and places [B, S]
        self._has_read = False
        self._handle: Any = None

    def __enter__(self) -> AnswerAttention:
        for layer, module in self._modules.items():
            attach(module, self._recorders[layer])
        self._switch.on()
        self._handle = self._adapter.language_model.register_forward_hook(self._after, with_kwargs=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.remove()
        self._switch.off()
        for layer, module in self._modules.items():
            detach(module, self._recorders[layer])

    def _after(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        ledger = ledger_of(cache_in(kwargs))
        if self._has_read and ledger is not None:
            self._steps.append([self._weights(layer, ledger) for layer in self._recorders])
        self._has_read = True  # the first forward reads the prompt
        for recorder in self._recorders.values():
            recorder.clear()

    def _weights(self, layer: int, ledger: Ledger) -> tuple[Float[Tensor, "B S"], Int[Tensor, "B S"]]:
        """Mean over heads of the new token's attention to what a layer holds; the places of that, -1 for padding."""
        recorder, stored = self._recorders[layer], ledger.segment_of(layer)
        query, key, mask = recorder.queries[-1], recorder.keys[-1], recorder.masks[-1]
        held = key.shape[2]  # a sliding layer holds the end
        places = stored.places[:, -held:]
        if stored.valid is not None:
            places = torch.where(stored.valid[:, -held:], places, -1)
        allowed = (places >= 0)[:, None, None, :]
        if mask is not None and mask.ndim == 4:
            seen = mask[:, :1, -1:, -held:]
            allowed = allowed & (seen if seen.dtype == torch.bool else seen > torch.finfo(seen.dtype).min / 2)
        rows = attention_rows(query[:, :, -1:], key, recorder.scaling, allowed, recorder.softcap)
        return rows.mean(dim=1)[:, 0], places

    def masses(self, inputs: Any, output: Int[Tensor, "B N"], layout: Layout) -> Masses:
        """What was seen, summed over the tokens of each answer up to its end. `layout`: the whole prompt's."""
        length = inputs["input_ids"].shape[1]
        is_visual = torch.zeros(len(layout.slot), length + 1, dtype=torch.bool)
        is_visual.scatter_(1, torch.where(layout.mask, layout.slot, length), True)
        is_visual = is_visual[:, :length].to(output.device)
        real = inputs["attention_mask"].bool()
        first = real.long().argmax(dim=1, keepdim=True)
        live = self._live(output[:, length:])
        sums = torch.zeros(3, len(output), len(self._recorders))  # on text, on text but the first token, on pictures
        counts = torch.zeros_like(sums)
        for step, layers in enumerate(self._steps):
            for column, (weights, places) in enumerate(layers):
                prompt = (places >= 0) & (places < length)
                visual = is_visual.gather(1, places.clamp(0, length - 1)) & prompt
                text = prompt & ~visual
                groups = torch.stack([text, text & (places != first), visual])
                sums[:, :, column] += (weights * live[:, step, None] * groups).sum(dim=2).cpu()
                if step == 0:
                    counts[:, :, column] = groups.sum(dim=2).cpu()
        sums /= (sums[0] + sums[2]).clamp(min=torch.finfo(torch.float32).tiny)
        on_text, without_first, on_visual = sums.double().numpy()
        num_text, num_without_first, num_visual = counts.long().numpy()
        return Masses(
            text=on_text,
            visual=on_visual,
            text_without_first=without_first,
            num_text=num_text,
            num_text_without_first=num_without_first,
            num_visual=num_visual,
            num_rows=live.sum(dim=1).cpu().numpy(),
        )

    def _live(self, answers: Int[Tensor, "B A"]) -> Bool[Tensor, "B steps"]:
        """Whether the token that a step read belongs to the answer: no end stands at it or before it."""
        ends = self._model.generation_config.eos_token_id
        ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        ended = torch.isin(answers, torch.tensor(ends, dtype=answers.dtype, device=answers.device)).cumsum(dim=1) > 0
        return ~ended[:, : len(self._steps)]
