"""Random items for the contract suite: made one by one, so that an item is the same alone and in any batch."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.layout import Block, Layout
from ..core.model_info import ModelInfo
from ..core.view import Captures, Keys, Queries, Softmax
from .array_view import ArrayView, default_info

TEXT, FIRST_SLOT, PIXELS = 5, 3, 48
NUM_TEXT = FIRST_SLOT + TEXT  # text tokens of a sequence, in front of and behind the picture
LOUD = 30.0  # fills padding: whoever reads it is noticed


@dataclass(frozen=True)
class Widths:
    """Sizes of a model as a view shows them: heads and their width, channels of the tokens and of encoder features."""

    heads: int = 4
    head_dim: int = 8
    channels: int = 24
    features: int = 20


@dataclass(frozen=True)
class Item:
    """One picture or clip of the suite: its grid, and the seed of everything that can be seen of it."""

    rows: int
    columns: int
    seed: int = 0
    frames: int = 1

    @property
    def num_tokens(self) -> int:
        return self.frames * self.rows * self.columns

    @property
    def blocks(self) -> list[Block]:
        return [Block(0, self.rows, self.columns, frame=f) for f in range(self.frames)]

    def draw(self, name: str, *shape: int) -> Tensor:
        """Standard normal numbers that depend on the item and the name."""
        seed = zlib.crc32(f"{self.seed} {self.rows} {self.columns} {name}".encode())
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_view(
    items: Sequence[Item],
    captures: Captures,
    dtype: torch.dtype = torch.float32,
    widths: Widths = Widths(),  # frozen
    info: ModelInfo | None = None,
    connector: Callable[[Tensor], Tensor] | None = None,
    at_layer: int = 0,
) -> ArrayView:
    """A view of the items with exactly the layers that `captures` declares; padding holds loud values.

    Rows of attention can be asked of layer `at_layer` too, which runs next.

    The connector widens features with zeros, unless one is given.
    """
    heads, head_dim, channels, width = widths.heads, widths.head_dim, widths.channels, widths.features

    def stack(name: str, *shape: int, axis: int = 0, extra: int = 0, softmax: bool = False) -> Tensor:
        """One array an item, tokens (and `extra` more) along `axis`, padded to the longest item."""
        out = []
        for item in items:
            values = item.draw(name, *shape[:axis], item.num_tokens + extra, *shape[axis:])
            values = values.softmax(dim=axis) if softmax else values
            size = list(values.shape)
            size[axis] = max(i.num_tokens for i in items) - item.num_tokens
            out.append(torch.cat([values, torch.full(size, LOUD)], dim=axis))
        return torch.stack(out)

    def among(name: str) -> Tensor:
        """Attention of the tokens of each item among themselves."""
        widest = max(i.num_tokens for i in items)
        out = torch.full((len(items), heads, widest, widest), LOUD)
        for row, item in zip(out, items, strict=True):
            n = item.num_tokens
            row[:, :n, :n] = item.draw(name, heads, n, n).softmax(dim=2)
        return out

    def rows(layer: int, queries: Queries, softmax: Softmax, keys: Keys) -> Tensor:
        assert layer in (*captures.decoder, at_layer), (
            f"attention_rows(layer={layer}) is asked for, captures() does not declare it"
        )
        share = 0.5 if softmax == "all" else 1.0  # the other keys get the rest
        name = f"rows {layer} {queries}"
        if queries != "visual":
            num_queries = 1 if queries == "last" else NUM_TEXT
            if keys == "text":
                size = (heads, num_queries, NUM_TEXT)
                return torch.stack([i.draw(name + " text", *size).softmax(dim=2) for i in items]) * share
            return stack(name, heads, num_queries, axis=2, softmax=True) * share
        if keys == "text":
            return stack(name + " text", heads, NUM_TEXT, axis=1).softmax(dim=3) * share
        return among(name) * share

    def projection(layer: str) -> tuple[Tensor, Tensor]:
        query, key = (
            stack(f"{n}{layer}", heads // g, head_dim, axis=1, extra=FIRST_SLOT + TEXT)
            for n, g in (("queries", 1), ("keys", 2))
        )
        return query.to(dtype), key.to(dtype)

    def class_pair(layer: int) -> tuple[Tensor, Tensor]:
        query, key = (
            torch.stack([i.draw(f"class {n} {layer}", heads, head_dim) for i in items]) for n in ("query", "key")
        )
        return query.to(dtype), key.to(dtype)

    text = torch.stack([item.draw("text", NUM_TEXT, channels) for item in items])
    question = torch.stack([item.draw("question", width) for item in items])

    def embed(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """One embedding a word, the same for the same word."""
        words = [[Item(1, 1).draw(word, channels) for word in text.split()] for text in texts]
        embedded = torch.nn.utils.rnn.pad_sequence([torch.stack(w) for w in words], batch_first=True)
        lengths = torch.tensor([len(w) for w in words])
        return embedded.to(dtype), torch.arange(embedded.shape[1]) < lengths[:, None]

    def hidden() -> Tensor:
        """The sequence of each item: its visual tokens, and text in front of them and behind."""
        out = []
        for item in items:
            tokens = item.draw("embeddings", item.num_tokens, channels)
            texts = item.draw("hidden text", NUM_TEXT, channels)
            loud = torch.full((max(i.num_tokens for i in items) - item.num_tokens, channels), LOUD)
            out.append(torch.cat([texts[:FIRST_SLOT], tokens, texts[FIRST_SLOT:], loud]))
        return torch.stack(out)

    encoder = captures.encoder
    return ArrayView(
        embeddings=stack("embeddings", channels).to(dtype),
        features=stack("features", width).to(dtype),
        class_features=(
            torch.stack([i.draw("class", width) for i in items]).to(dtype) if captures.class_features else None
        ),
        class_attention={n: stack(f"class {n}", heads, axis=1, softmax=True) for n in encoder},
        class_projection={n: class_pair(n) for n in encoder},
        class_logits={n: stack(f"logits {n}") for n in encoder},
        attention_received={n: stack(f"received {n}", softmax=True) for n in encoder},
        patch_attention={n: (stack(f"from {n}", softmax=True), stack(f"to {n}").sigmoid() / 40) for n in encoder},
        encoder_attention={n: among(f"among {n}") for n in encoder},
        encoder_keys={n: stack(f"keys {n}", heads, head_dim, axis=1).to(dtype) for n in encoder},
        encoder_hidden={n: stack(f"hidden {n}", width).to(dtype) for n in captures.encoder_hidden},
        attention_rows=rows,
        projection={n: projection(f" {n}") for n in captures.decoder_inputs} or projection(""),
        hidden=hidden().to(dtype),
        at_layer=at_layer,
        lengths=[FIRST_SLOT + i.num_tokens + TEXT for i in items],
        text=(text.to(dtype), torch.ones(len(items), NUM_TEXT, dtype=torch.bool)),
        question=(text[:, FIRST_SLOT:].to(dtype), torch.ones(len(items), TEXT, dtype=torch.bool)),
        words=[f"what color is shape {item.seed}" for item in items],
        embed=embed,
        text_tower=(question.to(dtype), stack("patches", width).to(dtype)) if captures.text_tower else None,
        pixels=torch.stack([item.draw("pixels", 3, PIXELS, PIXELS) for item in items]).to(dtype),
        colours=torch.stack([item.draw("pixels", 3, PIXELS, PIXELS).sigmoid() * 255 for item in items]),
        connector=connector or (lambda features: torch.nn.functional.pad(features, (0, channels - width))),
        layout=Layout.build([range(FIRST_SLOT, FIRST_SLOT + i.num_tokens) for i in items], [i.blocks for i in items]),
        info=info or default_info(),
        sample_ids=[i.seed for i in items],
    )
