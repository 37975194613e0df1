"""What becomes of visual tokens that are no patches of a picture: newlines between rows, and thumbnails."""

from __future__ import annotations

from dataclasses import dataclass

from .cards import FATES, THUMBNAIL_FATES, Card, Fate
from .errors import MethodError
from .layout import NEWLINE, THUMBNAIL


@dataclass(frozen=True)
class RolePolicy:
    """What becomes of newlines and of thumbnails, the small whole picture beside its tiles; None: as the card says.

    - `compete`: the method decides on them as on any other token.
    - `follow`, for newlines: one stays where a token of its line stays; one behind a whole image stays with the image.
    - `keep`, `drop`: they all stay, or all go.

    A keep counts tokens that compete; the others come on top of it, and the report says how many. Where everything is
    kept nothing is dropped.
    """

    newlines: Fate | None = None
    thumbnails: Fate | None = None

    def __init__(self, newlines: str | None = None, thumbnails: str | None = None) -> None:
        for name, given, allowed in (("newlines", newlines, FATES), ("thumbnails", thumbnails, THUMBNAIL_FATES)):
            if given is not None and given not in allowed:
                raise MethodError(f"{name} must be one of {', '.join(allowed)}; got {given!r}.")
            object.__setattr__(self, name, given)

    def fates(self, card: Card) -> dict[int, Fate]:
        """The fate of each role under a method's card."""
        return {NEWLINE: self.newlines or card.newlines, THUMBNAIL: self.thumbnails or card.thumbnails}

    def without(self, card: Card) -> frozenset[int]:
        """Roles that do not compete under a method's card."""
        return frozenset(role for role, fate in self.fates(card).items() if fate != "compete")


BY_CARD = RolePolicy()  # as each method's card says
