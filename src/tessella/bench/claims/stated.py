"""All claims, written down before their numbers."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from ...core.errors import InputError
from ...core.registry import load_class, method_modules
from ...engine.plan import can_apply
from ...mini.questions import KINDS
from .claim import Claim
from .stated_connector import CONNECTOR
from .stated_first import FIRST, FLOOR, KEEPS
from .stated_headlines import HEADLINES
from .stated_in_model import IN_MODEL
from .stated_scenes import SCENES


def compared_with_random(model: Any = None) -> list[str]:
    """Ids of all registered methods that take a keep and wrap no other; with a model those that it can carry."""
    out = []
    for name in method_modules():
        card = load_class(name).card
        if name != "random" and card.takes_keep and card.example is None and (model is None or can_apply(model, name)):
            out.append(name)
    return out


def better_than_random(methods: Sequence[str], keep: str) -> Claim:
    """The claim that each of some methods is better than random selection at a keep; one comparison a method."""
    return Claim(
        f"better-than-random-{keep}",
        f"Every method answers better than random selection of as many tokens ({keep}).",
        "our own",
        tuple((f"{method}:{keep}", f"random:{keep}") for method in methods),
        KINDS,
        preconditions=(FLOOR,),
    )


def stated(model: Any = None) -> tuple[Claim, ...]:
    """All claims; those against random selection are over the methods that the model can carry."""
    methods = compared_with_random(model)
    of_all = (better_than_random(methods, keep) for keep in KEEPS)
    return (*FIRST, *CONNECTOR, *IN_MODEL, *HEADLINES, *SCENES, *of_all)


def choose(claims: Sequence[Claim], names: str | None) -> tuple[Claim, ...]:
    """Those of some claims that a text with commas names, by id or by a method that they are about; None: all.

    Raises InputError with the closest name for one that is neither.
    """
    if names is None:
        return tuple(claims)
    known = {name for claim in claims for name in (claim.id, *claim.about)}
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in known:
            close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
            hint = f" Closest: {close[0]!r}." if close else ""
            raise InputError(f"no claim and no method with a claim is called {name!r}.{hint} List: tessella claims")
    return tuple(c for c in claims if {c.id, *c.about} & set(wanted))
