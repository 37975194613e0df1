"""All that a method may look at. A view computes what it is asked for, when it is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .layout import Layout
from .model_info import ModelInfo
from .reduction import VisualTokens

Queries = Literal["last", "text", "visual"]
Keys = Literal["visual", "text"]
Span = Literal["all", "question"]
Softmax = Literal["all", "visual"]
Place = Literal["visual", "last", "text", "all"]
Choose = Callable[[Float[Tensor, "I N"]], Int[Tensor, "I Q"]]
ReadColours = Callable[[Float[Tensor, "I c h w"], int, int], Float[Tensor, "I N"]]


@dataclass(frozen=True)
class Captures:
    """Layers that a method will ask about; the engine records these and no others.

    `encoder` and `decoder`: layers whose queries and keys are read. `class_features`: the class token at the feature
    layer. `encoder_hidden`: encoder layers whose outputs are read. `decoder_inputs`: decoder layers whose inputs are
    kept until the next cut, so that `project` can look back at them. `text_tower`: a text encoder that shares a space
    with the vision encoder.
    """

    encoder: tuple[int, ...] = ()
    decoder: tuple[int, ...] = ()
    encoder_hidden: tuple[int, ...] = ()
    class_features: bool = False
    decoder_inputs: tuple[int, ...] = ()
    text_tower: bool = False

    def __or__(self, other: Captures) -> Captures:
        """All that either names."""
        return Captures(
            encoder=_union(self.encoder, other.encoder),
            decoder=_union(self.decoder, other.decoder),
            encoder_hidden=_union(self.encoder_hidden, other.encoder_hidden),
            class_features=self.class_features or other.class_features,
            decoder_inputs=_union(self.decoder_inputs, other.decoder_inputs),
            text_tower=self.text_tower or other.text_tower,
        )

    @property
    def reads_encoder(self) -> bool:
        """True if a layer of the encoder is named."""
        return bool(self.encoder or self.encoder_hidden or self.class_features)


def _union(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted({*one, *other}))


@dataclass(frozen=True)
class Point:
    """Where in the decoder `Method.observe` is called: behind a module inside a layer, or behind the whole layer."""

    layer: int
    module: str = ""


@dataclass(frozen=True)
class Unpooled:
    """What the connector makes of B items, before the model pools it to their tokens.

    - `embeddings [B, P, C]`: its rows, frame by frame; `layout`: their grids, with slots that count an item's rows.
    - `received(layer) [B, P]`: attention that each row receives in an encoder layer, as `View.attention_received`.
    - `pool`: values of the rows as those of the tokens, `[B, P, C]` to `[B, V, C]`, as the model pools.
    """

    embeddings: Float[Tensor, "B P C"]
    layout: Layout
    received: Callable[[int], Float[Tensor, "B P"]]
    pool: Callable[[Float[Tensor, "B P C"]], Float[Tensor, "B V C"]]


class View(ABC):
    """What a method sees of B items (the units of its scope) with up to V visual tokens each.

    Items are padded at the end; `mask [B, V]` is True where a token is real. Scores of padded tokens are ignored.

    `at_layer` is the decoder layer that runs next, 0 at the connector. `state` is the method's own memory through one
    prompt: a tensor `[B, V, ...]` in it stays with its tokens, through every cut and whichever groups decide.
    """

    tokens: VisualTokens
    info: ModelInfo
    at_layer: int
    state: dict[str, Any]

    @property
    def layout(self) -> Layout:
        return self.tokens.layout

    @property
    def mask(self) -> Bool[Tensor, "B V"]:
        return self.tokens.mask

    @property
    def device(self) -> torch.device:
        return self.tokens.embeddings.device

    @abstractmethod
    def features(self) -> Float[Tensor, "B V Ce"]:
        """Encoder features of the tokens, before the connector."""

    @abstractmethod
    def class_features(self) -> Float[Tensor, "B Ce"]:
        """The class token at the feature layer."""

    @abstractmethod
    def class_attention(self, layer: int) -> Float[Tensor, "B H V"]:
        """Softmaxed attention of the class token to each patch; the softmax includes the class token itself."""

    @abstractmethod
    def attention_received(self, layer: int) -> Float[Tensor, "B V"]:
        """Attention that each patch receives in an encoder layer, mean over heads and over all queries."""

    @abstractmethod
    def patch_attention(self, layer: int) -> tuple[Float[Tensor, "B V"], Float[Tensor, "B V"]]:
        """Attention among the patches of an encoder layer: what each receives from them, and what each gives to them.

        Means over heads and over the patches; the softmax includes a class token, where there is one, so that what a
        patch gives is the share that it does not give to the class token, over the number of patches.
        """

    @abstractmethod
    def attention_from(self, layer: int, choose: Choose, total: bool = False) -> Float[Tensor, "B V"]:
        """Attention that each patch of an encoder layer receives of chosen patches of its own picture, mean over heads.

        `choose` is given what the N patches of each of I pictures receive of all of them, `[I, N]`, mean over heads and
        queries, and answers with the numbers of some, `[I, Q]`, padded with -1. The answer is the mean over those, or
        with `total` their sum; over all where none is chosen. The softmax includes a class token, where there is one.
        """

    @abstractmethod
    def encoder_keys(self, layer: int) -> Float[Tensor, "B H V D"]:
        """Key vectors of the patches in an encoder layer, bias included, before scaling."""

    @abstractmethod
    def class_projection(self, layer: int) -> tuple[Float[Tensor, "B H D"], Float[Tensor, "B H D"]]:
        """Query and key of the class token in an encoder layer, bias included, before scaling."""

    @abstractmethod
    def class_logits(self, layer: int) -> Float[Tensor, "B V"]:
        """Scaled product of the class token's query and each patch's key, mean over heads, before any softmax.

        Each patch is asked by the class token of its own tile or frame.
        """

    @abstractmethod
    def encoder_hidden(self, layer: int) -> Float[Tensor, "B V Ce"]:
        """Output of an encoder layer for each patch."""

    @abstractmethod
    def connector(self, features: Float[Tensor, "B K Ce"], precise: bool = False) -> Float[Tensor, "B K C"]:
        """Features taken through the model's connector; with `precise` in float32, whatever the model's dtype."""

    @abstractmethod
    def attention_rows(
        self, layer: int, queries: Queries = "last", softmax: Softmax = "all", keys: Keys = "visual"
    ) -> Float[Tensor, "B H Q V"]:
        """Attention from chosen queries to each visual token in decoder layer `layer`, in float32.

        `captures` names the layers that have run since the last cut; of the layer that runs next (`at_layer`) the
        rows are worked out without running it, and nothing need be declared.
        `softmax="all"` normalises over every key that the query may see; "visual" over the item's visual tokens only.
        Queries and columns stand in the order of `places`. `keys="text"` gives columns of the text tokens instead,
        under `softmax="all"` only. Rows and columns of padding are zero.
        """

    def attention_in_blocks(
        self, layer: int, queries: Queries = "visual", keys: Keys = "visual"
    ) -> Iterator[tuple[int, Float[Tensor, "B H q V"]]]:
        """Rows as `attention_rows` has them under `softmax="all"`, some queries at a time, each with its first query.

        For all rows of a long sequence, which would be too many at once.
        """
        yield 0, self.attention_rows(layer, queries, keys=keys)

    @abstractmethod
    def project(self, layer: int, rotate: bool) -> tuple[Float[Tensor, "B H S D"], Float[Tensor, "B G S D"]]:
        """Queries and keys that decoder layer `layer` makes of the whole current sequence; `places` says what is where.

        A layer that has not run yet is given the current hidden states; one that has run since the last cut is given
        its own input, if `captures` names it in `decoder_inputs`. Nothing runs twice and no cache is written to.
        """

    @abstractmethod
    def hidden_states(self) -> Float[Tensor, "B S C"]:
        """Hidden states of the whole current sequence, text too, as layer `at_layer` gets them; see `places`."""

    def attention_scale(self, layer: int) -> float | None:
        """By what a decoder layer multiplies products of queries and keys; None: one by the root of their width."""
        return None

    @abstractmethod
    def places(self, of: Place) -> Int[Tensor, "B N"]:
        """Where each visual token, the last token (N = 1), each text token or every token stands in the sequence.

        Padded with -1 at the end; padding of the prompt is nowhere. "all" names the tokens of other items too.
        """

    @abstractmethod
    def text_embeddings(self, span: Span = "all") -> tuple[Float[Tensor, "B T C"], Bool[Tensor, "B T"]]:
        """Embeddings of the prompt's text tokens and their mask.

        `span="question"`: only the text behind the item's image, up to the next image that has text in front of it; all
        of the prompt's text where nothing stands behind.
        """

    @abstractmethod
    def words(self, span: Span = "question") -> list[str]:
        """The text of a span as words. Raises UnsupportedError where the run was given no tokenizer."""

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> tuple[Float[Tensor, "B T C"], Bool[Tensor, "B T"]]:
        """Input embeddings of one text an item, without special tokens, and their mask; needs a tokenizer too."""

    @abstractmethod
    def text_tower(self) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B V D"]]:
        """The question and each patch in the space that a text tower shares with the vision encoder, not normalised."""

    def unpooled(self) -> Unpooled:
        """The connector's own rows behind the tokens: the tokens themselves, unless the model pools clips behind it."""
        return Unpooled(self.tokens.embeddings, self.layout, self.attention_received, pool=lambda values: values)

    @abstractmethod
    def pixels(self) -> Float[Tensor, "B c h w"]:
        """Pixels of each item's image, as the encoder got them."""

    def padding(self) -> Float[Tensor, "B V"]:
        """The share of each token's part of the picture that is padding to another shape, from 0 to 1.

        Padding are the lines of pixels at the border of a picture of one grid that show the mean colour alone; nothing
        else is known of it. By default nothing is padded.
        """
        return torch.zeros(self.mask.shape, device=self.device)

    @abstractmethod
    def per_patch(self, read: ReadColours) -> Float[Tensor, "B V"]:
        """Values that `read` gives for the patches of every picture that was encoded, as the tokens have them.

        `read` is given the colours of I pictures, `[I, c, h, w]` from 0 to 255, and how many rows and columns of
        patches fill them; it answers with `[I, rows * columns]` values. The normalisation is undone as the model's
        folder records it, or as is usual in its family where that is not known.
        """

    @abstractmethod
    def uniforms(self, seed: int) -> Float[Tensor, "B V"]:
        """Uniform draws in [0, 1) that depend on the seed, the sample and the item only, not on batch or device."""

    @contextmanager
    def clock(self, part: str) -> Iterator[None]:
        """Time a part of the method's work (`score`, `select`) for the report."""
        yield
