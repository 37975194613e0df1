"""What a Rewriter is given: the inputs of a batch of prompts, and how their pictures may change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from .errors import MethodError
from .layout import PATCH, Layout
from .model_info import ModelInfo


@dataclass(frozen=True, eq=False)
class Grid:
    """Visual tokens of a rewriter's own making: `tokens [rows * columns, C]`, as the language model reads them.

    - `picture [c, h, w]`: normalised pixels of what the grid shows, to be drawn.
    - `kept [rows * columns]`, on the host: the tokens that stay, the others are cut in front of the language model's
      first layer; None for all. A grid of which nothing stays keeps its picture's place among the others.

    Raises MethodError unless there is a token for each cell.
    """

    tokens: Float[Tensor, "N C"]
    rows: int
    columns: int
    picture: Float[Tensor, "c _ _"]
    role: int = PATCH
    kept: Bool[Tensor, " M"] | None = None

    def __post_init__(self) -> None:
        wrong = [t for t in (self.tokens, self.kept) if t is not None and len(t) != self.rows * self.columns]
        if wrong:
            raise MethodError(f"a grid of {self.rows} x {self.columns} tokens was given {len(wrong[0])}.")


Picture = Float[Tensor, "c _ _"] | tuple[Grid, ...]  # pixels, or grids that are read one after the other


class Draft(ABC):
    """Inputs as they came, or as the rewriters so far have left them. Nothing is written to: a change is a new draft.

    - `arguments`: those of `generate` or `forward`, to be read.
    - `layout`: the visual tokens that the pictures give.
    - `pictures`: normalised pixels in the order of the prompts, one for each picture of each prompt.
    """

    info: ModelInfo
    arguments: Mapping[str, Any]
    layout: Layout
    pictures: tuple[Float[Tensor, "c _ _"], ...]

    @abstractmethod
    def picture_size(self, rows: int, columns: int) -> tuple[int, int]:
        """Height and width, in pixels, of a picture that gives `rows` x `columns` visual tokens.

        Raises UnsupportedError where the model's encoder takes no picture of that size.
        """

    @abstractmethod
    def native_size(self) -> tuple[int, int]:
        """Height and width, in pixels, of the pictures for which the encoder was made.

        Raises UnsupportedError for an encoder that reads pictures of any size.
        """

    @abstractmethod
    def encode(self, pictures: Sequence[Float[Tensor, "c _ _"]]) -> list[Float[Tensor, "_ C"]]:
        """Pictures as the language model would read them; each may have a size of its own."""

    @abstractmethod
    def question(self, prompt: int) -> str:
        """The text behind a prompt's last picture, or all of its text where nothing stands behind.

        Raises UnsupportedError where the run knows no tokenizer, or the prompt came as embeddings.
        """

    @abstractmethod
    def text_similarity(self) -> list[Float[Tensor, ""]]:
        """Cosine of each picture, its class token, with its prompt's question in the space of the run's text tower."""

    @abstractmethod
    def last_attention(self, tokens: Sequence[Float[Tensor, "_ C"]], layer: int) -> list[Float[Tensor, "H _"]]:
        """How much each prompt's last token looks at `tokens`, which stand in for its pictures, in a decoder layer.

        The layers in front of `layer` run on each prompt by itself, without a cache, positions counted on one axis.
        What is given back are the scaled products of query and keys, in float32, before any softmax: that is for the
        caller to take over the tokens that compete. Raises UnsupportedError where a prompt ends with a picture.
        """

    @abstractmethod
    def replace(self, pictures: Sequence[Sequence[Picture]]) -> Draft:
        """A draft in which each picture has given way to others: none, one or several in its place.

        Placeholders, masks, positions and token types follow. The same pictures give the same draft. Rewriters that
        follow can change pixels only, so that grids come last.
        """
