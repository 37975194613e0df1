"""The part of a view that shows decoder layers: attention of chosen queries, projections, places."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.errors import MethodError
from ..core.view import Keys, Place, Queries, Softmax
from ..ops import attention
from .capture import PREFIX, Recorder, Switch, attach, detach
from .places import last_places, real_places, text_places
from .units_view import UnitsView


class DecoderView(UnitsView):
    """Attention in decoder layers that ran since the last cut, and projections of layers that are about to run."""

    def attention_rows(
        self, layer: int, queries: Queries = "last", softmax: Softmax = "all", keys: Keys = "visual"
    ) -> Float[Tensor, "B H Q V"]:
        if softmax == "all":
            return torch.cat([rows for _, rows in self.attention_in_blocks(layer, queries, keys)], dim=2)
        recorder, _ = self._attention_of(layer)
        asking, columns = self.places(queries), self.places(keys)
        seen = (columns >= 0)[:, None, None, :]
        picked, near = (
            _picked(recorder.queries[-1][self._rows], asking),
            _picked(recorder.keys[-1][self._rows], columns),
        )
        rows = attention.attention_rows(picked, near, recorder.scaling, seen, recorder.softcap)
        return self._checked(f"attention in decoder layer {layer}", rows * (asking >= 0)[:, None, :, None])

    def attention_in_blocks(
        self, layer: int, queries: Queries = "visual", keys: Keys = "visual"
    ) -> Iterator[tuple[int, Float[Tensor, "B H q V"]]]:
        recorder, mask = self._attention_of(layer)
        query, key = recorder.queries[-1], recorder.keys[-1]
        columns = self.places(keys)
        # rows of text are the same for all items of a prompt
        each = self._rows if queries == "visual" else torch.arange(len(query), device=query.device)
        asking = self.places(queries) if queries == "visual" else self._of_rows(queries)
        picked, seen_keys = _picked(query[each], asking), key[each]
        block = max(1, attention.BLOCK_ELEMENTS // (len(each) * query.shape[1] * key.shape[2]))
        start = 0
        for some, places in zip(picked.split(block, dim=2), asking.split(block, dim=1), strict=True):
            allowed = self._allowed(places, mask, key.shape[2], each)
            rows = attention.attention_rows(some, seen_keys, recorder.scaling, allowed, recorder.softcap)
            rows = rows * (places >= 0)[:, None, :, None]
            rows = _columns(rows if queries == "visual" else rows[self._rows], columns)
            yield start, self._checked(f"attention in decoder layer {layer}", rows)
            start += rows.shape[2]

    def _attention_of(self, layer: int) -> tuple[Recorder, Tensor | None]:
        """Queries and keys of a layer that has run, or of the one that runs next; and its mask."""
        if self._next_mask is not None and layer == self.at_layer:
            return self._probe(layer, rotate=True), self._next_mask()
        recorder = self._sources.decoder.get(layer)
        if recorder is None or not recorder.queries:
            raise self._undeclared(f"attention_rows(layer={layer})")
        segment = next(s for s in reversed(self._history) if s.start <= layer)
        if segment is not self._segment:
            raise MethodError(
                f"{self._method_id}: layer {layer} ran before the last cut; its attention no longer fits."
            )
        return recorder, recorder.masks[-1]

    def project(self, layer: int, rotate: bool) -> tuple[Float[Tensor, "B H S D"], Float[Tensor, "B G S D"]]:
        recorder = self._probe(layer, rotate)
        query, key = (
            self._checked(f"the {n} of decoder layer {layer}", t[0][self._rows])
            for n, t in (("queries", recorder.queries), ("keys", recorder.keys))
        )
        return query, key

    def _probe(self, layer: int, rotate: bool) -> Recorder:
        """Queries and keys that a layer makes of its input, without running it."""
        hidden = self._hidden if layer >= self.at_layer else self._layer_inputs.get(layer)
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
        return recorder

    def hidden_states(self) -> Float[Tensor, "B S C"]:
        return self._hidden[self._rows]

    def attention_scale(self, layer: int) -> float | None:
        return getattr(self._adapter.decoder_attention(layer), "scaling", None)

    def places(self, of: Place) -> Int[Tensor, "B N"]:
        if of == "visual":
            return torch.where(self.mask, self._places, -1)
        return self._of_rows(of)[self._rows]

    def _of_rows(self, of: Place) -> Int[Tensor, "R N"]:
        """Places of each batch row's text tokens, of all its tokens, or of its last one."""
        if of == "last":
            return last_places(self._segment)
        return text_places(self._segment) if of == "text" else real_places(self._segment)

    def _allowed(
        self, where: Int[Tensor, "N Q"], mask: Tensor | None, num_keys: int, rows_of: Int[Tensor, " N"]
    ) -> Bool[Tensor, "N 1 Q S"]:
        """Which keys each chosen query of the batch rows `rows_of` may see."""
        keys = torch.arange(num_keys, device=where.device)
        if mask is not None and mask.ndim == 4:
            index = where.clamp(min=0)[:, None, :, None].expand(-1, 1, -1, num_keys)
            rows = mask[:, :1].expand(len(self._segment.places), -1, -1, -1)[rows_of].gather(2, index)
            return rows if rows.dtype == torch.bool else rows > torch.finfo(rows.dtype).min / 2
        allowed = keys <= where[:, :, None]
        valid = self._segment.valid
        return (allowed if valid is None else allowed & valid[rows_of][:, None, :])[:, None]


def _picked(values: Float[Tensor, "B H S D"], where: Int[Tensor, "B N"]) -> Float[Tensor, "B H N D"]:
    """Values at places; padding reads place 0."""
    return values.gather(2, where.clamp(min=0)[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[3]))


def _columns(rows: Float[Tensor, "B H Q S"], where: Int[Tensor, "B N"]) -> Float[Tensor, "B H Q N"]:
    """Columns at places; zero for padding."""
    index = where.clamp(min=0)[:, None, None, :].expand(-1, rows.shape[1], rows.shape[2], -1)
    return rows.gather(3, index) * (where >= 0)[:, None, None, :]
