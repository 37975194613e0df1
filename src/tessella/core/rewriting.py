"""What a Rewriter is given: the inputs of a batch of prompts, and how their pictures may change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from .layout import Layout
from .model_info import ModelInfo


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
    def encode(self, pictures: Sequence[Float[Tensor, "c _ _"]]) -> list[Float[Tensor, "_ C"]]:
        """Pictures as the language model would read them; each may have a size of its own."""

    @abstractmethod
    def replace(self, pictures: Sequence[Sequence[Float[Tensor, "c _ _"]]]) -> Draft:
        """A draft in which each picture has given way to others: none, one or several in its place.

        Placeholders, masks, positions and token types follow. The same pictures give the same draft.
        """
