"""What a method sees being decided, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from .errors import MethodError
from .layout import Layout

Space = Literal["encoder", "projected"]


@dataclass(frozen=True)
class VisualTokens:
    """The tokens under decision and their layout. `mass [B, V]` is how many original tokens each one stands for."""

    embeddings: Float[Tensor, "B V C"]
    layout: Layout
    mask: Bool[Tensor, "B V"]
    mass: Float[Tensor, "B V"]


@dataclass(frozen=True)
class Reduction:
    """A method's answer for B items of V tokens each.

    - `keep [B, V]`: True where a slot survives.
    - `num_kept`: kept slots per item as ints, when known without asking the device.
    - `embeddings [B, K, C]`: new vectors of the kept slots, in the order of `order` (ascending slots by default); None
      leaves the tokens as they are. `space` says whether they still have to pass the connector.
    - `order [B, K]`: kept slots in the sequence in which the language model reads them, padded with -1. It shows
      under the position policy `compact`; under `original` every token keeps its own place.
    - `source [B, V]`: for each token the slot that it was merged into (itself if kept, -1 if dropped), for pictures.
    - `weights [B, K, V]`: share of each token in each kept one, for methods that conserve mass (may be sparse).
    """

    keep: Bool[Tensor, "B V"]
    num_kept: tuple[int, ...] | None = None
    embeddings: Float[Tensor, "B K C"] | None = None
    space: Space = "projected"
    order: Int[Tensor, "B K"] | None = None
    source: Int[Tensor, "B V"] | None = None
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        if self.keep.ndim != 2:
            raise MethodError(f"Reduction.keep must be [B, V]; got shape {tuple(self.keep.shape)}.")
        if self.num_kept is not None and len(self.num_kept) != len(self.keep):
            raise MethodError(f"Reduction.num_kept has {len(self.num_kept)} counts for {len(self.keep)} items.")
        if self.space not in ("encoder", "projected"):
            raise MethodError(f"Reduction.space must be 'encoder' or 'projected'; got {self.space!r}.")
