"""What a run may be given to compare a question with a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from jaxtyping import Float
from torch import Tensor


class TextTower(Protocol):
    """A text encoder that shares a space of D dimensions with a model's vision encoder. Vectors are float32."""

    def of_texts(self, texts: Sequence[str]) -> Float[Tensor, "B D"]:
        """Texts as vectors, on any device, not normalised."""

    def of_patches(self, hidden: Float[Tensor, "*B Ce"]) -> Float[Tensor, "*B D"]:
        """Outputs of the encoder's last layer as vectors, on their device, not normalised.

        Raises UnsupportedError where they come from another encoder.
        """
