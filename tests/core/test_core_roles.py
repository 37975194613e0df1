"""What becomes of newlines and thumbnails, and which of them stay beside what was decided."""

from __future__ import annotations

import pytest
import torch

from tessella.core.cards import Card
from tessella.core.errors import MethodError
from tessella.core.layout import NEWLINE, THUMBNAIL, Block, Layout
from tessella.core.roles import RolePolicy
from tessella.engine.bystanders import Bystanders

CARD = Card("Some", stages=("connector",))
LAYOUT = Layout.build(
    [range(10), range(3)],
    [
        [
            Block(0, 1, 2, role=THUMBNAIL),
            Block(0, 2, 2, tile=1, newlines=True),
            Block(1, 1, 1),
            Block(1, 1, 0, newlines=True),
        ],
        [Block(0, 1, 2), Block(0, 1, 0, newlines=True)],
    ],
)  # row 0: t t | p p n | p p n | p | n; row 1: p p | n


def test_a_card_decides_unless_the_user_does() -> None:
    assert RolePolicy().fates(CARD) == {NEWLINE: "follow", THUMBNAIL: "compete"}
    assert RolePolicy().without(CARD) == {NEWLINE}
    assert RolePolicy("compete", "keep").fates(CARD) == {NEWLINE: "compete", THUMBNAIL: "keep"}
    assert RolePolicy("compete", "keep").without(CARD) == {THUMBNAIL}


def test_other_fates_are_refused() -> None:
    with pytest.raises(MethodError, match="newlines must be one of compete, follow, keep, drop; got 'stay'"):
        RolePolicy(newlines="stay")  # type: ignore[arg-type]
    with pytest.raises(MethodError, match="thumbnails must be one of compete, keep, drop; got 'follow'"):
        RolePolicy(thumbnails="follow")


def beside(policy: RolePolicy, kept: list[list[int]], everything: bool = False) -> tuple[list[list[int]], list[int]]:
    """Places that are kept in the end, and how many bystanders each row has."""
    keep = torch.zeros(2, 10, dtype=torch.bool)
    for row, places in enumerate(kept):
        keep[row, places] = True
    bystanders = Bystanders.of(LAYOUT, policy.fates(CARD), everything)
    assert bystanders is not None
    out, more = bystanders.beside(keep)
    return [row.nonzero()[:, 0].tolist() for row in out], more


def test_newlines_follow_their_lines_and_images() -> None:
    assert beside(RolePolicy(), [[0, 5], [1]]) == ([[0, 5, 7], [1, 2]], [1, 1])
    assert beside(RolePolicy(), [[2, 3, 8], []]) == ([[2, 3, 4, 8, 9], []], [2, 0])


def test_a_thumbnail_is_of_no_line() -> None:
    assert beside(RolePolicy(), [[0, 1], [0]]) == ([[0, 1], [0, 2]], [0, 1])


def test_kept_and_dropped() -> None:
    assert beside(RolePolicy("keep", "keep"), [[5], []]) == ([[0, 1, 4, 5, 7, 9], [2]], [5, 1])
    assert beside(RolePolicy("drop"), [[5], [0]]) == ([[5], [0]], [0, 0])
    assert beside(RolePolicy("drop", "drop"), [[5], [0]], everything=True) == ([[0, 1, 4, 5, 7, 9], [0, 2]], [5, 1])


def test_none_where_all_compete() -> None:
    assert Bystanders.of(LAYOUT, RolePolicy("compete", "compete").fates(CARD), False) is None
    assert Bystanders.of(Layout.single(1, 2, 2), RolePolicy("drop", "drop").fates(CARD), False) is None
