"""What the last token of a prompt looks at in an early layer of the language model, before the prompt is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..core.errors import UnsupportedError
from ..models.adapter import Adapter
from .capture import PREFIX, Recorder, Switch, attach, detach


class _Reached(Exception):
    """Ends a forward in front of a layer, with what the layer was given."""

    def __init__(self, hidden: Tensor, kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.hidden, self.kwargs = hidden, kwargs


@torch.no_grad()
def last_attention(
    adapter: Adapter,
    arguments: Mapping[str, Any],
    row: int,
    text: Int[Tensor, " T"],
    firsts: Sequence[int],
    tokens: Sequence[Float[Tensor, "_ C"]],
    layer: int,
    reader: str,
) -> list[Float[Tensor, "H _"]]:
    """Scaled products of the last token's query with the keys of `tokens` in decoder layer `layer`.

    `text` are the places of the prompt's text in batch row `row`; `firsts` says, for each of `tokens`, at which place
    it stands. Nothing is cached, no layer from `layer` on runs, and positions are counted on one axis.
    Raises UnsupportedError for a prompt that ends with a picture.
    """
    if not len(text) or (firsts and int(text[-1]) < max(firsts)):
        raise UnsupportedError(
            f"{reader} goes by what the last token of the prompt looks at, and no text stands behind the last picture."
        )
    embeddings = _text_embeddings(adapter, arguments, row, text)
    ends = [int((text < first).sum()) for first in firsts]
    parts: list[Tensor] = []
    places: list[tuple[int, int]] = []
    done = length = 0
    for end, picture in zip(ends, tokens, strict=True):
        parts += [embeddings[done:end], picture.to(embeddings)]
        places.append((length + end - done, len(picture)))
        length += end - done + len(picture)
        done = end
    hidden = torch.cat([*parts, embeddings[done:]])[None]
    query, key, scale = _projected(adapter, _run_to(adapter, hidden, layer), layer)
    products = torch.einsum("hd,hsd->hs", query[0, :, -1].float(), _per_head(key, query)[0].float()) * scale
    return [products[:, first : first + count] for first, count in places]


def _text_embeddings(
    adapter: Adapter, arguments: Mapping[str, Any], row: int, text: Int[Tensor, " T"]
) -> Float[Tensor, "T C"]:
    ids = arguments.get("input_ids")
    if ids is None:
        given: Tensor = arguments["inputs_embeds"]
        return given[row, text.to(given.device)]
    return adapter.language_model.get_input_embeddings()(ids[row, text.to(ids.device)])  # type: ignore[no-any-return]


def _run_to(adapter: Adapter, embeddings: Float[Tensor, "1 S C"], layer: int) -> _Reached:
    """The hidden states in front of a layer and the layer's other arguments, for a prompt of these embeddings."""

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Reached(args[0] if args else kwargs["hidden_states"], kwargs)

    handle = adapter.decoder_layers[layer].register_forward_pre_hook(stop, with_kwargs=True)
    try:
        adapter.language_model(inputs_embeds=embeddings, use_cache=False)
    except _Reached as reached:
        return reached
    finally:
        handle.remove()
    raise AssertionError("a language model runs all its layers")


def _projected(adapter: Adapter, reached: _Reached, layer: int) -> tuple[Tensor, Tensor, float]:
    """Queries and keys of the layer, rotated, and the scale of their products."""
    module: Any = adapter.decoder_attention(layer)
    recorder, switch = Recorder(answer_zeros=True), Switch([module])
    attach(module, recorder)
    was_on = module.config._attn_implementation.startswith(PREFIX)
    try:
        if not was_on:
            switch.on()
        module(
            hidden_states=adapter.decoder_norm(layer)(reached.hidden),
            position_embeddings=reached.kwargs["position_embeddings"],
            attention_mask=None,
        )
    finally:
        switch.off()
        detach(module, recorder)
    return recorder.queries[0], recorder.keys[0], recorder.scaling


def _per_head(key: Float[Tensor, "1 G S D"], query: Float[Tensor, "1 H S D"]) -> Float[Tensor, "1 H S D"]:
    """Keys for each query head, of which several share one."""
    return key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
