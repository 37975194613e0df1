"""The view of a running model: what a method may look at, computed only when asked."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.errors import MethodError, UnsupportedError
from ..core.layout import Units
from ..core.reduction import VisualTokens
from ..core.view import Place, Queries, Softmax, View
from ..models.adapter import Adapter
from ..ops import attention, draws
from .capture import PREFIX, Recorder, Switch, attach, detach
from .encoder import Encoding
from .sequence import Segment
from .timing import Stopwatch


@dataclass
class Sources:
    """What a view reads from: the arguments of one forward, its encoding and what the language model has recorded.

    `items` says which encoded item each picture of the prompts is, where beams or samples share one; None: in order.
    """

    inputs: dict[str, Any] = field(default_factory=dict)
    encoding: Encoding | None = None
    items: Tensor | None = None
    decoder: dict[int, Recorder] = field(default_factory=dict)
    embeddings: Tensor | None = None  # [B, S, C] in front of layer 0
    sample_ids: list[int] | None = None


class EngineView(View):
    """A view of the units of one cut, in front of decoder layer `layer`."""

    def __init__(
        self,
        *,
        method_id: str,
        adapter: Adapter,
        sources: Sources,
        segment: Segment,
        history: list[Segment],
        units: Units,
        hidden: Float[Tensor, "B S C"],
        layer: int,
        layer_inputs: Mapping[int, Tensor],
        rotary: Callable[[int], tuple[Tensor, Tensor]],
        state: dict[str, Any],
        stopwatch: Stopwatch,
    ) -> None:
        self.info = adapter.info
        self.state = state
        self._method_id = method_id
        self._adapter, self._sources, self._segment, self._history = adapter, sources, segment, history
        self._units, self._hidden, self._layer, self._rotary, self._stopwatch = units, hidden, layer, rotary, stopwatch
        self._layer_inputs = layer_inputs
        self._rows = torch.tensor(units.source_row, device=hidden.device)
        self._index = units.index.to(hidden.device)
        mask = self._index >= 0
        self._places = segment.visual[self._rows[:, None], self._index.clamp(min=0)].clamp(min=0)
        embeddings = hidden[self._rows[:, None], self._places]
        self.tokens = VisualTokens(embeddings, units.layout, mask, mask.to(torch.float32))

    # -- the vision encoder ------------------------------------------------------------------------------------------

    def features(self) -> Float[Tensor, "B V Ce"]:
        features = self._encoding.features
        if features is None:
            raise self._undeclared("features")
        return self._per_token(self._adapter.flatten_features(self._pictures(features)))

    def class_features(self) -> Float[Tensor, "B Ce"]:
        features = self._encoding.class_features
        if features is None:
            raise self._undeclared("class_features")
        return self._pictures(features)[self._items()]

    def class_attention(self, layer: int) -> Float[Tensor, "B H V"]:
        recorder = self._encoder(layer)
        query = torch.cat([q[:, :, :1] for q in recorder.queries])
        rows = attention.attention_rows(query, torch.cat(recorder.keys), recorder.scaling)
        return self._encoder_per_token(rows[:, :, 0].transpose(1, 2)).transpose(1, 2)

    def attention_received(self, layer: int) -> Float[Tensor, "B V"]:
        recorder = self._encoder(layer)
        received = torch.cat(
            [
                attention.attention_received(q, k, recorder.scaling)
                for q, k in zip(recorder.queries, recorder.keys, strict=True)
            ]
        )
        return self._encoder_per_token(received)

    def encoder_keys(self, layer: int) -> Float[Tensor, "B H V D"]:
        keys = torch.cat(self._encoder(layer).keys)  # [items, H, S, D]
        return self._encoder_per_token(keys.transpose(1, 2)).transpose(1, 2)

    def class_projection(self, layer: int) -> tuple[Float[Tensor, "B H D"], Float[Tensor, "B H D"]]:
        if not self.info.has_class_token:
            raise UnsupportedError(f"{self._method_id} needs a class token; this {self.info.family} encoder has none.")
        recorder, items = self._encoder(layer), self._items()
        query, key = (torch.cat([t[:, :, 0] for t in ts]) for ts in (recorder.queries, recorder.keys))
        return self._pictures(query)[items], self._pictures(key)[items]

    def encoder_hidden(self, layer: int) -> Float[Tensor, "B V Ce"]:
        if layer not in self._encoding.hidden:
            raise self._undeclared(f"encoder_hidden({layer})")
        return self._encoder_per_token(self._encoding.hidden[layer])

    def connector(self, features: Float[Tensor, "B K Ce"]) -> Float[Tensor, "B K C"]:
        return self._adapter.project(features)

    def pixels(self) -> Float[Tensor, "B c h w"]:
        pixels = self._sources.inputs.get("pixel_values")
        if pixels is None:
            raise UnsupportedError(
                f"{self._method_id} reads pixels; the call was given mm_encoder_outputs without them."
            )
        items = self._items()
        if isinstance(pixels, Tensor):
            return pixels[items]
        chosen = [pixels[i] for i in items.tolist()]
        if len({p.shape for p in chosen}) > 1:
            raise self._several_sizes("pixels")
        return torch.stack(chosen)

    # -- the language model ------------------------------------------------------------------------------------------

    def attention_rows(
        self, layer: int, queries: Queries = "last", softmax: Softmax = "all"
    ) -> Float[Tensor, "B H Q V"]:
        recorder = self._sources.decoder.get(layer)
        if recorder is None or not recorder.queries:
            raise self._undeclared(f"attention_rows(layer={layer})")
        query, key, mask = recorder.queries[-1], recorder.keys[-1], recorder.masks[-1]
        segment = next(s for s in reversed(self._history) if s.start <= layer)
        if segment is not self._segment:
            raise MethodError(
                f"{self._method_id}: layer {layer} ran before the last cut; its attention no longer fits."
            )
        where = self._last_places() if queries == "last" else self._text_places()
        picked = query.gather(2, where.clamp(min=0)[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3]))
        allowed = self._allowed(where, mask, key.shape[2])
        if softmax == "visual":
            return self._visual_rows(picked, key, recorder.scaling, where)
        rows = attention.attention_rows(picked, key, recorder.scaling, allowed)
        columns = self._places[:, None, None, :].expand(-1, rows.shape[1], rows.shape[2], -1)
        out = rows[self._rows].gather(3, columns)
        return out * self.mask[:, None, None, :] * (where >= 0)[self._rows][:, None, :, None]

    def project(self, layer: int, rotate: bool) -> tuple[Float[Tensor, "B H S D"], Float[Tensor, "B G S D"]]:
        hidden = self._hidden if layer >= self._layer else self._layer_inputs.get(layer)
        if hidden is None:
            raise MethodError(
                f"{self._method_id}: layer {layer} has already run and its input is gone; captures() must declare it "
                "in decoder_inputs, and no cut may lie between."
            )
        cos, sin = self._rotary(layer)
        if not rotate:
            cos, sin = torch.ones_like(cos), torch.zeros_like(sin)
        module: Any = self._adapter.decoder_attention(layer)
        recorder, switch = Recorder(answer_zeros=True), Switch([module])
        attach(module, recorder)
        was_on = module.config._attn_implementation.startswith(PREFIX)
        try:
            if not was_on:
                switch.on()
            hidden = self._adapter.decoder_norm(layer)(hidden)
            module(hidden_states=hidden, position_embeddings=(cos, sin), attention_mask=None)
        finally:
            switch.off()
            detach(module, recorder)
        return recorder.queries[0][self._rows], recorder.keys[0][self._rows]

    def places(self, of: Place) -> Int[Tensor, "B N"]:
        if of == "visual":
            return torch.where(self.mask, self._places, -1)
        return (self._last_places() if of == "last" else self._text_places())[self._rows]

    def text_embeddings(self) -> tuple[Float[Tensor, "B T C"], Bool[Tensor, "B T"]]:
        embeddings = self._sources.embeddings
        if embeddings is None:
            raise self._undeclared("text_embeddings")
        where = self._text_places(self._history[0])[self._rows]
        real = where >= 0
        return embeddings[self._rows[:, None], where.clamp(min=0)] * real[:, :, None], real

    def uniforms(self, seed: int) -> Float[Tensor, "B V"]:
        if self._sources.sample_ids is None:
            pixels = self._sources.inputs.get("pixel_values")
            encoded = () if pixels is not None else self._sources.inputs["mm_encoder_outputs"]["image"].pooler_output
            self._sources.sample_ids = [draws.sample_id_of(p) for p in (encoded if pixels is None else pixels)]
        out = torch.zeros(self._index.shape, dtype=torch.float64)
        first_items = self._first_items()
        for u, count in enumerate(self._units.num_tokens):
            image = int(self._units.layout.image[u, 0])
            group = int(self._units.layout.tile[u, 0]) * 1_000_003 + int(self._units.layout.frame[u, 0])
            sample = self._sources.sample_ids[first_items[u]]
            out[u, :count] = torch.as_tensor(draws.philox_uniforms(seed, sample, image, group, count))
        return out.to(self.device)

    @contextmanager
    def clock(self, part: str) -> Iterator[None]:
        with self._stopwatch.clock(part, self.device):
            yield

    # -- helpers -----------------------------------------------------------------------------------------------------

    def _per_token(self, flat: Float[Tensor, "T *rest"]) -> Float[Tensor, "B V *rest"]:
        """Rows of the original prompt's visual tokens, as the units hold them now."""
        first = self._history[0].layout
        starts = torch.tensor([0, *itertools.accumulate(first.num_tokens)][:-1], device=flat.device)
        original = self._original_index().to(flat.device)
        rows = self._rows.to(flat.device)
        return flat[starts[rows][:, None] + original.clamp(min=0)]

    def _original_index(self) -> Int[Tensor, "B V"]:
        """Place of each unit token among its row's visual tokens before any cut."""
        first, now = self._history[0].layout, self._units.layout
        if len(self._history) == 1:
            return self._index
        # the last column takes the -1 of padded tokens
        lookup = torch.full((len(first.slot), int(first.slot.max()) + 2), -1, dtype=torch.long)
        here = torch.arange(first.slot.shape[1]).expand_as(first.slot)
        lookup.scatter_(1, first.slot % lookup.shape[1], here)
        return lookup[self._rows.cpu()].gather(1, now.slot % lookup.shape[1]).to(self._index.device)

    def _items(self) -> Int[Tensor, " B"]:
        """The encoder item of each unit; raises UnsupportedError where a unit joins several pictures."""
        for blocks in self._units.layout.blocks:
            if len(blocks) != 1:
                raise UnsupportedError(
                    f"{self._method_id} needs one encoded picture a decision; "
                    f"scope {self._units.unit!r} joins {len(blocks)}."
                )
        return torch.tensor(self._first_items(), device=self.device)

    def _first_items(self) -> list[int]:
        """The encoder item of each unit's first block."""
        blocks = [(row, b) for row, blocks in enumerate(self._history[0].layout.blocks) for b in blocks]
        number = {(row, b.image, b.tile, b.frame): i for i, (row, b) in enumerate(blocks)}
        firsts = [blocks[0] for blocks in self._units.layout.blocks]
        return [number[row, b.image, b.tile, b.frame] for row, b in zip(self._units.source_row, firsts, strict=True)]

    def _encoder(self, layer: int) -> Recorder:
        recorder = self._encoding.attention.get(layer)
        if recorder is None:
            raise self._undeclared(f"encoder layer {layer}")
        return recorder

    @property
    def _encoding(self) -> Encoding:
        if self._sources.encoding is None:
            raise UnsupportedError(
                f"{self._method_id} reads the vision encoder, but the call was given mm_encoder_outputs that were made "
                "outside this run. Make them inside it, or give pixel_values."
            )
        if self._sources.encoding.is_joined:
            raise self._several_sizes("the vision encoder")
        return self._sources.encoding

    def _several_sizes(self, what: str) -> UnsupportedError:
        return UnsupportedError(
            f"{self._method_id} reads {what}, of pictures that were rewritten to several sizes; give the rewriter a "
            "keep that is the same for all of them, or read one prompt at a time."
        )

    def _pictures(self, values: Float[Tensor, "items *rest"]) -> Float[Tensor, "pictures *rest"]:
        """Values of encoded items for each picture of the prompts."""
        return values if self._sources.items is None else values[self._sources.items.to(values.device)]

    def _encoder_per_token(self, values: Float[Tensor, "items S *rest"]) -> Float[Tensor, "B V *rest"]:
        return self._per_token(self._adapter.flatten_encoder(self._pictures(values)))

    def _last_places(self) -> Int[Tensor, "R 1"]:
        """Place of each batch row's last real token."""
        segment = self._segment
        last = torch.full((len(segment.places), 1), segment.length - 1, device=segment.places.device)
        if segment.valid is None:
            return last
        here = torch.arange(segment.length, device=segment.places.device)
        return torch.where(segment.valid, here, -1).amax(dim=1, keepdim=True)

    def _text_places(self, segment: Segment | None = None) -> Int[Tensor, "R T"]:
        """Places of each row's real text tokens, padded with -1 at the end."""
        segment = segment or self._segment
        batch, length = segment.places.shape
        text = torch.ones(batch, length + 1, dtype=torch.bool, device=segment.places.device)
        text.scatter_(1, torch.where(segment.visual >= 0, segment.visual, length), False)
        text = text[:, :length] if segment.valid is None else text[:, :length] & segment.valid
        order = torch.sort((~text).to(torch.int8), dim=1, stable=True).indices
        return torch.where(text.gather(1, order), order, -1)

    def _allowed(self, where: Int[Tensor, "R Q"], mask: Tensor | None, num_keys: int) -> Bool[Tensor, "R 1 Q S"]:
        """Which keys each chosen query may see."""
        keys = torch.arange(num_keys, device=where.device)
        if mask is not None and mask.ndim == 4:
            index = where.clamp(min=0)[:, None, :, None].expand(-1, 1, -1, num_keys)
            rows = mask[:, :1].expand(len(where), -1, -1, -1).gather(2, index)
            return rows if rows.dtype == torch.bool else rows > torch.finfo(rows.dtype).min / 2
        allowed = keys <= where[:, :, None]
        valid = self._segment.valid
        return (allowed if valid is None else allowed & valid[:, None, :])[:, None]

    def _visual_rows(
        self, query: Float[Tensor, "R H Q D"], key: Float[Tensor, "R G S D"], scaling: float, where: Int[Tensor, "R Q"]
    ) -> Float[Tensor, "B H Q V"]:
        picked = key[self._rows].gather(2, self._places[:, None, :, None].expand(-1, key.shape[1], -1, key.shape[3]))
        rows = attention.attention_rows(query[self._rows], picked, scaling, self.mask[:, None, None, :])
        return rows * (where >= 0)[self._rows][:, None, :, None]

    def _undeclared(self, what: str) -> MethodError:
        return MethodError(f"{self._method_id} asks for {what}, which its captures() does not declare.")
