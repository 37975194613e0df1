"""A view made of plain arrays, so that a method can be called without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..core.errors import MethodError
from ..core.layout import Block, Layout
from ..core.model_info import ModelInfo
from ..core.reduction import VisualTokens
from ..core.view import Choose, Keys, Place, Queries, ReadColours, Softmax, Span, Unpooled, View
from ..ops import attention
from ..ops.draws import group_of, philox_uniforms, sample_id_of

Array = Tensor | np.ndarray
ByLayer = Array | Mapping[int, Array]
Pair = tuple[Array, Array]
Rows = ByLayer | Callable[[int, Queries, Softmax, Keys], Tensor]

TOKEN_AXIS = {
    "embeddings": 1,
    "features": 1,
    "attention_received": 1,
    "class_logits": 1,
    "encoder_hidden": 1,
    "class_attention": 2,
    "encoder_attention": 2,
    "encoder_keys": 2,
    "attention_rows": 3,
}


class ArrayView(View):
    """What a method sees, from arrays: `[B, ...]`, of the shapes that the functions of `View` return.

    Layer arrays (`class_attention`, `class_projection`, `class_logits`, `attention_received`, `patch_attention`,
    `encoder_attention` among the patches `[B, H, V, V]`, `encoder_keys`, `encoder_hidden`, `attention_rows`,
    `projection`) are one array (or pair) for whatever layer is asked, or a mapping by layer. The tokens of an item are
    one grid: `grids` is its (rows, columns), for all items or one each; without it they are one row, `num_tokens[b]`
    long. A `layout` takes the place of all three. Visual tokens of a `projection`, and of the `hidden` states of a
    sequence, stand at their slots, every other place is text; `lengths` are the sequences without padding, by default
    all of it. Without `attention_rows` they are made of the `projection`, under a causal mask. `question` is the part
    of the `text` that is the question, by default all of it, `words` the same in words, and `embed` makes embeddings
    and a mask of other words. `colours` are what `per_patch` reads of each item's first grid. The connector is the
    identity unless given, nothing is `unpooled`, and no token lies on `padding`. Asking for what was not given raises
    MethodError.

    >>> view = ArrayView(embeddings=torch.randn(2, 6, 8), grids=(2, 3))
    >>> view.layout.grids, view.tokens.embeddings.shape
    (((2, 3), (2, 3)), torch.Size([2, 6, 8]))
    """

    def __init__(
        self,
        *,
        embeddings: Array | None = None,
        features: Array | None = None,
        class_features: Array | None = None,
        class_attention: ByLayer | None = None,
        class_projection: Pair | Mapping[int, Pair] | None = None,
        class_logits: ByLayer | None = None,
        attention_received: ByLayer | None = None,
        patch_attention: Pair | Mapping[int, Pair] | None = None,
        encoder_attention: ByLayer | None = None,
        encoder_keys: ByLayer | None = None,
        encoder_hidden: ByLayer | None = None,
        attention_rows: Rows | None = None,
        projection: Pair | Mapping[int, Pair] | None = None,
        hidden: Array | None = None,
        at_layer: int = 0,
        lengths: Sequence[int] | None = None,
        text: Pair | None = None,
        question: Pair | None = None,
        words: Sequence[str] | None = None,
        embed: Callable[[Sequence[str]], tuple[Tensor, Tensor]] | None = None,
        text_tower: Pair | None = None,
        pixels: Array | None = None,
        colours: Array | None = None,
        padding: Array | None = None,
        unpooled: Unpooled | None = None,
        connector: Callable[[Tensor], Tensor] | None = None,
        grids: tuple[int, int] | Sequence[tuple[int, int]] | None = None,
        num_tokens: Sequence[int] | None = None,
        first_slot: int = 0,
        layout: Layout | None = None,
        info: ModelInfo | None = None,
        sample_ids: Sequence[int] | None = None,
    ) -> None:
        self._given: dict[str, Any] = {
            "embeddings": embeddings,
            "features": features,
            "class_features": class_features,
            "class_attention": class_attention,
            "class_projection": class_projection,
            "class_logits": class_logits,
            "attention_received": attention_received,
            "patch_attention": patch_attention,
            "encoder_attention": encoder_attention,
            "encoder_keys": encoder_keys,
            "encoder_hidden": encoder_hidden,
            "attention_rows": attention_rows,
            "projection": projection,
            "hidden": hidden,
            "text": text,
            "question": text if question is None else question,
            "words": words,
            "embed": embed,
            "text_tower": text_tower,
            "pixels": pixels,
            "colours": colours,
            "padding": padding,
        }
        self._connector, self._unpooled = connector, unpooled
        self._layout = layout or self._lay(grids, num_tokens, first_slot)
        self._sample_ids, self._lengths = sample_ids, lengths
        self.info = info or default_info()
        self.at_layer = at_layer
        self.state = {}

    @property
    def tokens(self) -> VisualTokens:  # type: ignore[override]
        return VisualTokens(self._array("embeddings"), self.layout, self.mask, self.mask.to(torch.float32))

    @property
    def layout(self) -> Layout:
        return self._layout

    @property
    def mask(self) -> Bool[Tensor, "B V"]:
        return self._layout.mask.to(self.device)

    @property
    def device(self) -> torch.device:
        found = [v for v in map(_first_array, self._given.values()) if isinstance(v, Tensor)]
        return found[0].device if found else torch.device("cpu")

    def features(self) -> Float[Tensor, "B V Ce"]:
        return self._array("features")

    def class_features(self) -> Float[Tensor, "B Ce"]:
        return self._array("class_features")

    def class_attention(self, layer: int) -> Float[Tensor, "B H V"]:
        return self._at("class_attention", layer)

    def class_projection(self, layer: int) -> tuple[Float[Tensor, "B H D"], Float[Tensor, "B H D"]]:
        query, key = self._at("class_projection", layer)
        return torch.as_tensor(query), torch.as_tensor(key)

    def class_logits(self, layer: int) -> Float[Tensor, "B V"]:
        return self._at("class_logits", layer)

    def attention_received(self, layer: int) -> Float[Tensor, "B V"]:
        return self._at("attention_received", layer)

    def patch_attention(self, layer: int) -> tuple[Float[Tensor, "B V"], Float[Tensor, "B V"]]:
        received, given = self._at("patch_attention", layer)
        return torch.as_tensor(received), torch.as_tensor(given)

    def attention_from(self, layer: int, choose: Choose, total: bool = False) -> Float[Tensor, "B V"]:
        weights = self._at("encoder_attention", layer).float().mean(dim=1)
        out = torch.zeros(weights.shape[:2])
        for row, given, count in zip(out, weights, self.layout.num_tokens, strict=True):
            rows = given[:count, :count]
            (chosen,) = choose(rows.mean(dim=0, keepdim=True))
            asking = rows[chosen[chosen >= 0]] if (chosen >= 0).any() else rows
            row[:count] = asking.sum(dim=0) if total else asking.mean(dim=0)
        return out

    def encoder_keys(self, layer: int) -> Float[Tensor, "B H V D"]:
        return self._at("encoder_keys", layer)

    def encoder_hidden(self, layer: int) -> Float[Tensor, "B V Ce"]:
        return self._at("encoder_hidden", layer)

    def connector(self, features: Float[Tensor, "B K Ce"], precise: bool = False) -> Float[Tensor, "B K C"]:
        features = features.float() if precise else features
        return features if self._connector is None else self._connector(features)

    def attention_rows(
        self, layer: int, queries: Queries = "last", softmax: Softmax = "all", keys: Keys = "visual"
    ) -> Float[Tensor, "B H Q V"]:
        rows = self._given["attention_rows"]
        if callable(rows) and not isinstance(rows, Tensor):
            return rows(layer, queries, softmax, keys)
        if rows is None and self._given["projection"] is not None:
            return self._projected_rows(layer, queries, softmax, keys)
        return self._at("attention_rows", layer)

    def project(self, layer: int, rotate: bool) -> tuple[Float[Tensor, "B H S D"], Float[Tensor, "B G S D"]]:
        query, key = self._at("projection", layer)
        return torch.as_tensor(query), torch.as_tensor(key)

    def hidden_states(self) -> Float[Tensor, "B S C"]:
        return self._array("hidden")

    def places(self, of: Place) -> Int[Tensor, "B N"]:
        slots = self._layout.slot
        if of == "visual":
            return slots.to(self.device)
        size = self._sequence_length()
        lengths = torch.tensor(self._lengths or [size] * len(slots))[:, None]
        if of == "last":
            return (lengths - 1).to(self.device)
        here = torch.arange(size)
        if of == "all":
            return torch.where(here < lengths, here, -1).to(self.device)
        text = torch.ones(len(slots), size + 1, dtype=torch.bool).scatter(1, slots % (size + 1), False)[:, :size]
        place = torch.where(text & (here < lengths), here, size).sort(dim=1).values
        return torch.where(place < size, place, -1).to(self.device)

    def text_embeddings(self, span: Span = "all") -> tuple[Float[Tensor, "B T C"], Bool[Tensor, "B T"]]:
        embeddings, mask = self._array("text" if span == "all" else "question")
        return torch.as_tensor(embeddings), torch.as_tensor(mask)

    def words(self, span: Span = "question") -> list[str]:
        return list(self._array("words"))

    def embed(self, texts: Sequence[str]) -> tuple[Float[Tensor, "B T C"], Bool[Tensor, "B T"]]:
        return self._array("embed")(texts)

    def text_tower(self) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B V D"]]:
        question, patches = self._array("text_tower")
        return torch.as_tensor(question), torch.as_tensor(patches)

    def unpooled(self) -> Unpooled:
        return self._unpooled or super().unpooled()

    def pixels(self) -> Float[Tensor, "B c h w"]:
        return self._array("pixels")

    def padding(self) -> Float[Tensor, "B V"]:
        return super().padding() if self._given["padding"] is None else self._array("padding")

    def per_patch(self, read: ReadColours) -> Float[Tensor, "B V"]:
        each = zip(self._array("colours"), self.layout.blocks, strict=True)
        return pad_sequence([read(c[None], b.rows, b.columns)[0] for c, (b, *_) in each], batch_first=True)

    def uniforms(self, seed: int) -> Float[Tensor, "B V"]:
        layout, ids = self._layout, self._sample_ids
        if ids is None:
            pixels = self._given["pixels"]
            ids = range(len(layout.slot)) if pixels is None else [sample_id_of(torch.as_tensor(p)) for p in pixels]
        out = torch.zeros(layout.slot.shape, dtype=torch.float64)
        for b, count in enumerate(layout.num_tokens):
            image, tile, frame = (int(t[b, 0]) if count else 0 for t in (layout.image, layout.tile, layout.frame))
            out[b, :count] = torch.as_tensor(philox_uniforms(seed, ids[b], image, group_of(tile, frame), count))
        return out.to(self.device)

    def _projected_rows(self, layer: int, queries: Queries, softmax: Softmax, keys: Keys) -> Float[Tensor, "B H Q V"]:
        """Attention rows of a projection, under a causal mask."""
        query, key = self.project(layer, rotate=True)
        asking, columns = self.places(queries), self.places(keys)
        picked = query.gather(2, _everywhere(asking, query))
        if softmax == "visual":
            near = key.gather(2, _everywhere(columns, key))
            rows = attention.attention_rows(picked, near, query.shape[3] ** -0.5, (columns >= 0)[:, None, None, :])
        else:
            everything = self.places("all")
            seen = torch.arange(key.shape[2]) <= asking[:, :, None]
            real = torch.zeros(len(key), key.shape[2] + 1, dtype=torch.bool)
            real.scatter_(1, torch.where(everything < 0, key.shape[2], everything), True)
            allowed = (seen & real[:, None, :-1])[:, None]
            rows = attention.attention_rows(picked, key, query.shape[3] ** -0.5, allowed)
            index = columns.clamp(min=0)[:, None, None, :].expand(-1, rows.shape[1], rows.shape[2], -1)
            rows = rows.gather(3, index)
        return rows * (asking >= 0)[:, None, :, None] * (columns >= 0)[:, None, None, :]

    def _sequence_length(self) -> int:
        """Places of a sequence, from the first array that shows a whole one."""
        for name, axis in (("projection", 2), ("hidden", 1)):
            array = _first_array(self._given[name])
            if array is not None:
                return array.shape[axis]
        if self._lengths:
            return max(self._lengths)
        raise MethodError("this view does not show how long its sequences are: give it lengths.")

    def _lay(
        self, grids: tuple[int, int] | Sequence[tuple[int, int]] | None, num_tokens: Sequence[int] | None, first: int
    ) -> Layout:
        batch, width = self._size()
        if grids is None:
            shapes = [(1, n) for n in (num_tokens or [width] * batch)]
        elif isinstance(grids[0], int):
            shapes = [grids] * batch  # type: ignore[list-item]
        else:
            shapes = list(grids)  # type: ignore[arg-type]
        slots = [range(first, first + rows * columns) for rows, columns in shapes]
        return Layout.build(slots, [[Block(0, rows, columns)] for rows, columns in shapes])

    def _size(self) -> tuple[int, int]:
        """Items and tokens, from the first array that has both."""
        for name, axis in TOKEN_AXIS.items():
            array = _first_array(self._given[name])
            if array is not None:
                return array.shape[0], array.shape[axis]
        raise MethodError(f"an ArrayView needs a layout or one of: {', '.join(TOKEN_AXIS)}.")

    def _array(self, name: str) -> Any:
        value = self._given[name]
        if value is None:
            given = [n for n, v in self._given.items() if v is not None]
            raise MethodError(f"this view has no {name}; it was given: {', '.join(given) or 'nothing'}.")
        return torch.as_tensor(value) if isinstance(value, Array) else value

    def _at(self, name: str, layer: int) -> Any:
        value = self._array(name)
        if isinstance(value, Mapping):
            if layer not in value:
                raise MethodError(f"this view has no {name} of layer {layer}; it was given layers: {sorted(value)}.")
            value = value[layer]
        return torch.as_tensor(value) if isinstance(value, Array) else value


def default_info() -> ModelInfo:
    """A model deep enough for every paper's layers, with a class token."""
    return ModelInfo(
        family="arrays",
        num_layers=96,
        num_encoder_layers=48,
        feature_layer=22,
        has_class_token=True,
        hidden_size=64,
        num_heads=4,
    )


def _everywhere(where: Tensor, like: Tensor) -> Tensor:
    """An index of places for vectors `[B, H, S, D]`; padding names place 0."""
    return where.clamp(min=0)[:, None, :, None].expand(-1, like.shape[1], -1, like.shape[3])


def _first_array(value: Any) -> Array | None:
    if isinstance(value, Mapping):
        value = next(iter(value.values()), None)
    if isinstance(value, tuple):
        value = value[0]
    return value if isinstance(value, Array) else None
