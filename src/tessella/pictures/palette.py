"""Colours for groups of patches: safe for colour-blind readers, and never the same for groups that touch."""

from __future__ import annotations

from collections import Counter, defaultdict

from .fates import Fate

Colour = tuple[int, int, int]

# Okabe and Ito's set without black, ordered so that those that follow each other differ in lightness too
PALETTE: tuple[Colour, ...] = (
    (0, 114, 178),  # blue
    (230, 159, 0),  # orange
    (0, 158, 115),  # green
    (204, 121, 167),  # purple
    (86, 180, 233),  # sky
    (213, 94, 0),  # vermilion
    (240, 228, 66),  # yellow
)


def group_colours(fate: Fate) -> dict[int, Colour]:
    """A colour for each patch that took others in, which stands for its whole group.

    Groups that touch, at a corner too, differ as long as a group has fewer than seven neighbours with a colour; among
    the colours that are left the least used one is taken.
    """
    touching = _touching(fate)
    out: dict[int, Colour] = {}
    used: Counter[Colour] = Counter()
    for parent in sorted({fate.parent[i] for i in fate.merged}):
        near = Counter(out[other] for other in touching[parent] if other in out)
        colour = min(PALETTE, key=lambda c: (near[c], used[c], PALETTE.index(c)))
        out[parent] = colour
        used[colour] += 1
    return out


def _touching(fate: Fate) -> dict[int, set[int]]:
    """For each parent the parents of other patches beside, below or diagonal to one of its group."""
    out: dict[int, set[int]] = defaultdict(set)
    for i, parent in enumerate(fate.parent):
        row, column = divmod(i, fate.columns)
        for down, right in ((0, 1), (1, -1), (1, 0), (1, 1)):
            if row + down < fate.rows and 0 <= column + right < fate.columns:
                other = fate.parent[i + down * fate.columns + right]
                if -1 not in (parent, other) and other != parent:
                    out[parent].add(other)
                    out[other].add(parent)
    return out
