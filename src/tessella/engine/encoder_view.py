"""The part of a view that shows the vision encoder, as far as it was recorded."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..core.budget import on_device
from ..core.errors import UnsupportedError
from ..core.view import Choose, ReadColours, Unpooled
from ..models.adapter import Adapter
from ..ops import attention
from ..ops.padding import blank_margins, padded_share
from .capture import Recorder
from .colours import colour_values
from .encoder import Encoding, Picture
from .sources import Origin
from .units_view import UnitsView
from .unpooling import patch_rows


class EncoderView(UnitsView):
    """Features, attention and hidden states of the encoder, as the units' tokens have them."""

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

    def attention_from(self, layer: int, choose: Choose, total: bool = False) -> Float[Tensor, "B V"]:
        def read(encoding: Encoding) -> Tensor:
            recorder = self._recorded(encoding, layer)
            first = int(self.info.has_class_token)
            calls = zip(recorder.queries, recorder.keys, strict=True)
            of_chosen = [
                attention.attention_from_chosen(q, k, recorder.scaling, first, choose, total) for q, k in calls
            ]
            return self._by_patch([torch.nn.functional.pad(c, (first, 0)) for c in of_chosen])

        return self._per_token(read, _attention_of(layer))

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

    def padding(self) -> Float[Tensor, "B V"]:
        images = [(row, b.image) for row, blocks in enumerate(self._history[0].layout.blocks) for b in blocks]
        grids, first, shares = Counter(images), 0, []
        for picture in self._sources.pictures:
            shares.append(self._padding_of(picture, grids[images[first]] == 1))
            first += len(picture.footprint.blocks)
        return torch.cat(shares)[self._token_numbers()] * self.mask

    def _padding_of(self, picture: Picture, is_alone: bool) -> Float[Tensor, " T"]:
        """The padded share of each token of a picture, which is one grid, or else cut and scaled without padding."""
        block = picture.footprint.blocks[0]
        if not is_alone or block.newlines:
            return torch.zeros(picture.footprint.num_tokens, device=self.device)
        if not picture.has_pixels and not picture.shown:
            raise UnsupportedError(
                f"{self._method_id} reads padding off pixels; the call was given mm_encoder_outputs without them."
            )
        shown = picture.shown or self._adapter.restore(picture.content, picture.footprint)
        height, width = shown[0].shape[1:]
        share = padded_share(blank_margins(shown[0]), (height, width), (block.rows, block.columns))
        return share.flatten().to(self.device, torch.float32, non_blocking=True)

    def per_patch(self, read: ReadColours) -> Float[Tensor, "B V"]:
        return self._per_token(lambda encoding: colour_values(self._adapter, encoding, read), "the pixels")

    @cached_property
    def _precise_weights(self) -> dict[str, Tensor]:
        """The connector's weights in float32, by their names in a `_Projection`; copies live as long as the view."""
        weights = _Projection(self._adapter).state_dict(keep_vars=True)
        return {name: w.float() for name, w in weights.items() if w.is_floating_point()}

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


def _attention_of(layer: int) -> str:
    return f"attention in encoder layer {layer}"


class _Projection(nn.Module):
    """An adapter's `project` as a module, which can be called with other weights."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.connector, self.forward = adapter.connector, adapter.project
