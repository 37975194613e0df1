"""The oracle of a reduction: the untouched model with as many tokens in every layer, which scores and selects nothing.

It says how fast a reduction could be at best. It reads the first tokens of a prompt, whatever they are: its answers
mean nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..core.layout import CLASS, NEWLINE, THUMBNAIL
from ..models.adapter import Adapter, find_adapter
from ..models.placing import layout_of


@dataclass(frozen=True)
class Oracle:
    """Prefills of a model on encoded prompts of a batch, whole or cut to given lengths.

    `inputs` are the processor's with pixels, `encoded` the encoder's output for them. All rows have as many visual
    tokens, and no tokens but patches: see `why_not`.
    """

    model: Any
    inputs: Mapping[str, Tensor]
    encoded: Mapping[str, Any]

    def prefill(self, lengths: Sequence[int] = ()) -> Any:
        """The model's output where decoder layer i holds `lengths[i]` tokens of each row; without lengths all."""
        ids, mask = self.inputs["input_ids"], self.inputs["attention_mask"]
        first = lengths[0] if lengths else ids.shape[1]
        gone = ids.shape[1] - first
        image = self.encoded["image"]
        encoded = type(image)(**image)
        if gone:
            visual = ids == find_adapter(self.model).entry.config.image_token_id
            kept = int(visual[0].sum()) - gone
            stays = ~visual | (visual.cumsum(dim=1) <= kept)
            ids, mask = ids[stays].view(len(ids), first), mask[stays].view(len(ids), first)
            encoded.pooler_output = _shorter(image.pooler_output, len(ids), kept)
        layers = find_adapter(self.model).decoder_layers
        with sliced(layers, lengths):
            given = {"input_ids": ids, "attention_mask": mask, "mm_encoder_outputs": {"image": encoded}}
            return self.model(**given, use_cache=True, logits_to_keep=1)


def why_not(adapter: Adapter, inputs: Mapping[str, Any]) -> str | None:
    """Why a batch has no oracle; None if it has one."""
    layout = layout_of(adapter, inputs)
    assert layout is not None
    if adapter.info.multi_axis_positions or set(adapter.modalities) != {"image"}:
        return f"a {adapter.info.family} model reads grids beside its tokens"
    if len(set(layout.num_tokens)) > 1 or any(layout.has(role) for role in (NEWLINE, THUMBNAIL, CLASS)):
        return "its prompts have different numbers of visual tokens, or tokens that are no patches"
    return None


def cache_name(model: Any) -> str:
    """The argument of forward that takes the cache; transformers 5.24 renamed it."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


@contextmanager
def sliced(layers: nn.ModuleList, lengths: Sequence[int]) -> Iterator[None]:
    """Decoder layers that see the first `lengths[i]` tokens only; without hooks as long as nothing gets shorter."""

    def cut(length: int) -> Any:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args[0].shape[1] == 1:  # a decode step: its layer's cache is as short as it is
                return None
            kwargs = {**kwargs, "position_embeddings": tuple(t[:, :length] for t in kwargs["position_embeddings"])}
            kwargs["position_ids"] = kwargs["position_ids"][:, :length]
            if kwargs.get("attention_mask") is not None:
                kwargs["attention_mask"] = kwargs["attention_mask"][..., :length, :length]
            return (args[0][:, :length], *args[1:]), kwargs

        return before

    later = [(layer, n) for layer, n in zip(layers, lengths, strict=False) if n < lengths[0]]
    handles = [layer.register_forward_pre_hook(cut(n), with_kwargs=True) for layer, n in later]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _shorter(features: Any, rows: int, kept: int) -> list[Tensor]:
    """Features of each picture such that every row has `kept` tokens: those of its first pictures."""
    pictures = list(features)
    each = len(pictures) // rows
    out = []
    for row in range(rows):
        left = kept
        for picture in pictures[row * each : (row + 1) * each]:
            out.append(picture[: max(left, 0)])
            left -= len(picture)
    return out


__all__ = ["Oracle", "cache_name", "sliced", "why_not"]
