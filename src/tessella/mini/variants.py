"""Looks of single pictures: sparse or crowded, small or large objects; within what the model is trained on."""

from __future__ import annotations

from dataclasses import dataclass

from tessella.mini.world import PLAIN_SIZES, Sizes


@dataclass(frozen=True)
class Variant:
    """How pictures look: the fewest and most objects in one (None: as the kind has it), and their sizes."""

    objects: tuple[int, int] | None = None
    sizes: Sizes = PLAIN_SIZES

    def extras(self, needed: int, low: int, high: int) -> tuple[int, int]:
        """The fewest and most objects beside the `needed` ones of a question that has `low` to `high` by default."""
        if self.objects is None:
            return low, high
        fewest, most = self.objects
        return max(0, fewest - needed), max(0, most - needed)


VARIANTS = {
    "plain": Variant(),
    "sparse": Variant((1, 2)),
    "crowded": Variant((8, 9)),
    "small": Variant(sizes=Sizes((16, 18), (20,), (12,))),
    "large": Variant(sizes=Sizes((26, 28), (28,), (15, 16))),
}
