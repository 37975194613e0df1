"""The view of a running model: what a method may look at, computed only when asked."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..core.budget import on_device
from ..core.errors import MethodError, UnsupportedError
from ..core.layout import Units
from ..core.reduction import VisualTokens
from ..core.view import Keys, Place, Queries, Softmax, Span, Unpooled, View
from ..models.adapter import Adapter
from ..models.on_host import on_host
from ..ops import attention, draws
from .capture import PREFIX, Recorder, Switch, attach, detach
from .encoder import Encoding
from .finite import Finite
from .sequence import Segment
from .sources import Origin, Sources, origins_of
from .timing import Stopwatch
from .unpooling import patch_rows


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
        finite: Finite,
    ) -> None:
        self.info = adapter.info
        self.state = state
        self._method_id = method_id
        self._adapter, self._sources, self._segment, self._history = adapter, sources, segment, history
        self._units, self._hidden, self._layer, self._rotary, self._stopwatch = units, hidden, layer, rotary, stopwatch
        self._layer_inputs, self._finite = layer_inputs, finite
        self._rows = on_device(units.source_row, hidden.device)
        self._index = units.index.to(hidden.device, non_blocking=True)
        mask = self._index >= 0
        self._places = segment.visual[self._rows[:, None], self._index.clamp(min=0)].clamp(min=0)
        where = f"the output of decoder layer {layer - 1}" if layer else "the connector's output"
        embeddings = self._checked(where, hidden[self._rows[:, None], self._places])
        self.tokens = VisualTokens(embeddings, units.layout, mask, mask.to(torch.float32))

    # -- the vision encoder ------------------------------------------------------------------------------------------

    def features(self) -> Float[Tensor, "B V Ce"]:
        self._require_features()
        where = f"the output of encoder layer {self.info.feature_layer}"
        return self._checked(where, self._sources.features(self._adapter, self._token_numbers()))

    def class_features(self) -> Float[Tensor, "B Ce"]:
        def read(encoding: Encoding) -> Tensor:
            if encoding.class_features is None:
                raise self._undeclared("class_features")
            return encoding.class_features

        return self._per_item(read, f"the output of encoder layer {self.info.feature_layer}")

    def class_attention(self, layer: int) -> Float[Tensor, "B H V"]:
        def read(encoding: Encoding) -> Tensor:
            recorder = self._recorded(encoding, layer)
            rows = [
                attention.attention_rows(q[:, :, :1], k, recorder.scaling)[:, :, 0].transpose(1, 2)
                for q, k in zip(recorder.queries, recorder.keys, strict=True)
            ]
            return self._by_patch(rows)

        return self._per_token(read, _attention_of(layer)).transpose(1, 2)

    def attention_received(self, layer: int) -> Float[Tensor, "B V"]:
        return self._shared_by_grid(self._per_token(self._reading_received(layer), _attention_of(layer)))

    def patch_attention(self, layer: int) -> tuple[Float[Tensor, "B V"], Float[Tensor, "B V"]]:
        def read(encoding: Encoding) -> Tensor:
            recorder = self._recorded(encoding, layer)
            first = int(self.info.has_class_token)
            calls = zip(recorder.queries, recorder.keys, strict=True)
            pairs = [attention.patch_attention(q, k, recorder.scaling, first) for q, k in calls]
            both = [torch.stack(pair, dim=2) for pair in pairs]
            if first:  # a class token's place, which is left out again
                both = [torch.nn.functional.pad(p, (0, 0, first, 0)) for p in both]
            return self._over_grids(both)

        received, given = self._shared_by_grid(self._per_token(read, _attention_of(layer))).unbind(dim=2)
        return received, given

    def encoder_keys(self, layer: int) -> Float[Tensor, "B H V D"]:
        def read(encoding: Encoding) -> Tensor:
            return self._by_patch([k.transpose(1, 2) for k in self._recorded(encoding, layer).keys])

        return self._per_token(read, f"the keys of encoder layer {layer}").transpose(1, 2)

    def class_projection(self, layer: int) -> tuple[Float[Tensor, "B H D"], Float[Tensor, "B H D"]]:
        if not self.info.has_class_token:
            raise UnsupportedError(f"{self._method_id} needs a class token; this {self.info.family} encoder has none.")

        def first(calls: list[Tensor]) -> Tensor:
            return torch.cat([t[:, :, 0] for t in calls])

        return (
            self._per_item(lambda e: first(self._recorded(e, layer).queries), f"the queries of encoder layer {layer}"),
            self._per_item(lambda e: first(self._recorded(e, layer).keys), f"the keys of encoder layer {layer}"),
        )

    def class_logits(self, layer: int) -> Float[Tensor, "B V"]:
        def read(encoding: Encoding) -> Tensor:
            recorder = self._recorded(encoding, layer)
            calls = zip(recorder.queries, recorder.keys, strict=True)
            logits = [torch.einsum("bhd,bhsd->bs", q[:, :, 0].float(), k.float()) / q.shape[1] for q, k in calls]
            return self._by_patch(logits) * recorder.scaling

        return self._per_token(read, f"the class token's logits in encoder layer {layer}")

    def encoder_hidden(self, layer: int) -> Float[Tensor, "B V Ce"]:
        def read(encoding: Encoding) -> Tensor:
            if layer not in encoding.hidden:
                raise self._undeclared(f"encoder_hidden({layer})")
            hidden = encoding.hidden[layer]
            return hidden if hidden.ndim == 2 else self._adapter.as_patches(hidden)

        return self._per_token(read, f"the output of encoder layer {layer}")

    def connector(self, features: Float[Tensor, "B K Ce"], precise: bool = False) -> Float[Tensor, "B K C"]:
        if not precise:
            return self._adapter.project(features)
        with torch.autocast(features.device.type, enabled=False):
            return torch.func.functional_call(_Projection(self._adapter), self._precise_weights, features.float())

    def unpooled(self) -> Unpooled:
        self._require_encodings()
        rows = patch_rows(self._units, self._places_of_blocks(), self._sources)
        if rows is None:
            return super().unpooled()
        self._require_features()
        made = self._adapter.project(self._sources.feature_rows(self._adapter)[rows.given.to(self.device)])

        def received(layer: int) -> Float[Tensor, "B P"]:
            values = self._sources.per_patch(self._reading_received(layer))[rows.patch.to(self.device)]
            return self._checked(_attention_of(layer), rows.beside(values, self.attention_received(layer)))

        embeddings = rows.beside(self._checked("the connector's output", made), self.tokens.embeddings)
        pool = rows.pooling(*self._sources.patches_of(self._token_numbers()))
        return Unpooled(embeddings, rows.layout, received, pool)

    def pixels(self) -> Float[Tensor, "B c h w"]:
        out = []
        for place in self._origins():
            picture = self._sources.pictures[place.part]
            if not picture.has_pixels:
                raise UnsupportedError(
                    f"{self._method_id} reads pixels; the call was given mm_encoder_outputs without them."
                )
            shown = self._adapter.restore(picture.content, picture.footprint)
            out.append(shown[picture.footprint.items[place.block]])
        if len({p.shape for p in out}) > 1:
            raise UnsupportedError(
                f"{self._method_id} reads pixels of pictures of several sizes; read one prompt at a time."
            )
        return torch.stack(out)

    # -- the language model ------------------------------------------------------------------------------------------

    def attention_rows(
        self, layer: int, queries: Queries = "last", softmax: Softmax = "all", keys: Keys = "visual"
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
        columns = self.places(keys)
        if softmax == "visual":
            asking, seen = self.places(queries), (columns >= 0)[:, None, None, :]
            picked, near = _picked(query[self._rows], asking), _picked(key[self._rows], columns)
            rows = attention.attention_rows(picked, near, recorder.scaling, seen, recorder.softcap)
            return self._checked(f"attention in decoder layer {layer}", rows * (asking >= 0)[:, None, :, None])
        # rows of text are the same for all items of a prompt
        each = self._rows if queries == "visual" else torch.arange(len(query), device=query.device)
        asking = self.places(queries) if queries == "visual" else self._text_or_last(queries)
        picked, seen_keys = _picked(query[each], asking), key[each]
        block = max(1, attention.BLOCK_ELEMENTS // (len(each) * query.shape[1] * key.shape[2]))
        out = []
        for some, places in zip(picked.split(block, dim=2), asking.split(block, dim=1), strict=True):
            allowed = self._allowed(places, mask, key.shape[2], each)
            rows = attention.attention_rows(some, seen_keys, recorder.scaling, allowed, recorder.softcap)
            rows = rows * (places >= 0)[:, None, :, None]
            out.append(_columns(rows if queries == "visual" else rows[self._rows], columns))
        return self._checked(f"attention in decoder layer {layer}", torch.cat(out, dim=2))

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
        query, key = (
            self._checked(f"the {n} of decoder layer {layer}", t[0][self._rows])
            for n, t in (("queries", recorder.queries), ("keys", recorder.keys))
        )
        return query, key

    def attention_scale(self, layer: int) -> float | None:
        return getattr(self._adapter.decoder_attention(layer), "scaling", None)

    def places(self, of: Place) -> Int[Tensor, "B N"]:
        if of == "visual":
            return torch.where(self.mask, self._places, -1)
        return self._text_or_last(of)[self._rows]

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
        everything = self._text_places(self._history[0])[self._rows]
        if span == "all":
            return everything
        first = self._history[0].layout
        ends: list[tuple[int, int]] = []
        for row, blocks in zip(self._units.source_row, self._units.layout.blocks, strict=True):
            count = first.num_tokens[row]
            mine = torch.isin(first.image[row, :count], torch.tensor([b.image for b in blocks]))
            ends.append(_question_of(first.slot[row, :count], int(first.slot[row, :count][mine].amax())))
        behind, end = on_device([e for pair in ends for e in pair], everything.device).view(-1, 2, 1).unbind(dim=1)
        chosen = (everything > behind) & (everything < end)
        chosen = torch.where(chosen.any(dim=1, keepdim=True), chosen, everything >= 0)
        order = torch.sort((~chosen).to(torch.int8), dim=1, stable=True).indices
        return torch.where(chosen.gather(1, order), everything.gather(1, order), -1)

    def uniforms(self, seed: int) -> Float[Tensor, "B V"]:
        out = torch.zeros(self._index.shape, dtype=torch.float64)
        places, layout = self._places_of_blocks(), self._units.layout
        for u, (row, count) in enumerate(zip(self._units.source_row, self._units.num_tokens, strict=True)):
            first = layout.blocks[u][0]
            sample = self._sources.sample_ids[places[(row, *first.key)].part]
            group = int(layout.tile[u, 0]) * 1_000_003 + int(layout.frame[u, 0])
            image = int(layout.image[u, 0])
            out[u, :count] = torch.as_tensor(draws.philox_uniforms(seed, sample, image, group, count))
        return out.to(self.device, non_blocking=True)

    @contextmanager
    def clock(self, part: str) -> Iterator[None]:
        with self._stopwatch.clock(part, self.device):
            yield

    # -- helpers -----------------------------------------------------------------------------------------------------

    @cached_property
    def _precise_weights(self) -> dict[str, Tensor]:
        """The connector's weights in float32, by their names in a `_Projection`; copies live as long as the view."""
        weights = _Projection(self._adapter).state_dict(keep_vars=True)
        return {name: w.float() for name, w in weights.items() if w.is_floating_point()}

    def _checked(self, where: str, values: Tensor) -> Tensor:
        """Values that a method is about to read; see `Finite.check`."""
        return self._finite.check(f"{self._method_id}: {where}", values)

    def _reading_received(self, layer: int) -> Callable[[Encoding], Tensor]:
        """Reads from an encoding the attention that each of its patches receives."""

        def read(encoding: Encoding) -> Tensor:
            recorder = self._recorded(encoding, layer)
            calls = zip(recorder.queries, recorder.keys, strict=True)
            return self._over_grids([attention.attention_received(q, k, recorder.scaling) for q, k in calls])

        return read

    def _per_token(self, read: Callable[[Encoding], Tensor], where: str) -> Float[Tensor, "B V *rest"]:
        """Values that `read` gives for each patch, as the units' tokens have them."""
        self._require_encodings()
        return self._checked(where, self._sources.per_token(read, self._token_numbers()))

    def _per_item(self, read: Callable[[Encoding], Tensor], where: str) -> Float[Tensor, "B *rest"]:
        """Values that `read` gives for each item of the encoder's batch, for each unit, which must be one item."""
        self._require_encodings()
        items = [self._sources.item(p.part, p.block) for p in self._origins()]
        values = torch.cat([read(e) for e in self._sources.encodings])
        return self._checked(where, values[on_device(items, values.device)])

    def _token_numbers(self) -> Int[Tensor, "B V"]:
        """The units' tokens, counted through all visual tokens of the prompts before any cut."""
        counts = self._history[0].layout.num_tokens
        starts = on_device([0, *itertools.accumulate(counts)][:-1], self.device)
        origin = self._segment.origin[self._rows[:, None], self._index.clamp(min=0)]
        return starts[self._rows][:, None] + origin.clamp(min=0)

    def _places_of_blocks(self) -> dict[tuple[int, ...], Origin]:
        return origins_of(self._history[0].layout.blocks, self._sources.pictures)

    def _origins(self) -> list[Origin]:
        """Where each unit comes from; raises UnsupportedError where one joins several encoded pictures."""
        places, out = self._places_of_blocks(), []
        for row, blocks in zip(self._units.source_row, self._units.layout.blocks, strict=True):
            keys = dict.fromkeys(b.key for b in blocks)
            if len(keys) != 1:
                raise UnsupportedError(
                    f"{self._method_id} needs one encoded picture a decision; "
                    f"scope {self._units.unit!r} joins {len(keys)}."
                )
            out.append(places[(row, *next(iter(keys)))])
        return out

    def _recorded(self, encoding: Encoding, layer: int) -> Recorder:
        recorder = encoding.attention.get(layer)
        if recorder is None:
            raise self._undeclared(f"encoder layer {layer}")
        return recorder

    def _over_grids(self, calls: list[Float[Tensor, "items S *rest"]]) -> Float[Tensor, "N *rest"]:
        """Means over the queries of a call, by patch; where calls are windows, sums over them."""
        return self._by_patch([c * c.shape[1] for c in calls] if self.info.packs_pictures else calls)

    def _shared_by_grid(self, values: Float[Tensor, "B V *rest"]) -> Float[Tensor, "B V *rest"]:
        """Sums over the queries of a window as means over those of the whole grid."""
        if not self.info.packs_pictures:
            return values
        sizes = self._sources.grid_sizes.to(values.device, non_blocking=True)[self._token_numbers()]
        return values / sizes.reshape(*sizes.shape, *[1] * (values.ndim - 2))

    def _by_patch(self, calls: list[Float[Tensor, "items S *rest"]]) -> Float[Tensor, "N *rest"]:
        """What several calls of an attention module gave, one row a patch."""
        return torch.cat([self._adapter.as_patches(c) for c in calls])

    def _require_encodings(self) -> None:
        if not self._sources.pictures or any(p.encoding is None for p in self._sources.pictures):
            raise UnsupportedError(
                f"{self._method_id} reads the vision encoder, but the call was given mm_encoder_outputs that were made "
                "outside this run. Make them inside it, or give pixel_values."
            )

    def _require_features(self) -> None:
        self._require_encodings()
        if any(e.features is None for e in self._sources.encodings):
            raise self._undeclared("features")

    def _text_or_last(self, of: Place) -> Int[Tensor, "R N"]:
        """Places of each batch row's text tokens, of all its tokens, or of its last one."""
        if of == "last":
            return self._last_places()
        return self._text_places() if of == "text" else self._real_places()

    def _real_places(self) -> Int[Tensor, "R S"]:
        """Places of each row's real tokens, padded with -1 at the end."""
        segment = self._segment
        here = torch.arange(segment.length, device=segment.places.device).expand(len(segment.places), -1)
        if segment.valid is None:
            return here
        place = torch.where(segment.valid, here, segment.length).sort(dim=1).values
        return torch.where(place < segment.length, place, -1)

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
        order = torch.sort((~text).to(torch.int8), dim=1, stable=True).indices[:, : length - min(segment.num_visual)]
        return torch.where(text.gather(1, order), order, -1)

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

    def _undeclared(self, what: str) -> MethodError:
        return MethodError(f"{self._method_id} asks for {what}, which its captures() does not declare.")


def _attention_of(layer: int) -> str:
    return f"attention in encoder layer {layer}"


class _Projection(nn.Module):
    """An adapter's `project` as a module, which can be called with other weights."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.connector, self.forward = adapter.connector, adapter.project


def _picked(values: Float[Tensor, "B H S D"], where: Int[Tensor, "B N"]) -> Float[Tensor, "B H N D"]:
    """Values at places; padding reads place 0."""
    return values.gather(2, where.clamp(min=0)[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[3]))


def _columns(rows: Float[Tensor, "B H Q S"], where: Int[Tensor, "B N"]) -> Float[Tensor, "B H Q N"]:
    """Columns at places; zero for padding."""
    index = where.clamp(min=0)[:, None, None, :].expand(-1, rows.shape[1], rows.shape[2], -1)
    return rows.gather(3, index) * (where >= 0)[:, None, None, :]


def _question_of(slots: Int[Tensor, " V"], last: int) -> tuple[int, int]:
    """Between which places the text behind an image stands, whose last token is at `last`.

    Images that follow each other without text share the text behind the last of them.
    """
    later = slots[slots >= last]
    gaps = (later[1:] - later[:-1] > 1).nonzero()
    if len(gaps) == 0:
        return int(later[-1]), _FAR
    return int(later[gaps[0, 0]]), int(later[gaps[0, 0] + 1])


_FAR = 2**62
