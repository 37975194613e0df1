"""The claims that the embedded model is asked about, written down before their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.registry import load_class, method_modules
from ..mini.questions import KINDS
from .claims import BOTTOM, Claim, Floor, Layers

KEEPS = ("1/4", "1/9", "1/16")
LAYERS = Layers(4)  # the fewest in which fastv's one cut and feather's two lie in front of different layers
PLACE_FLOOR, FLOOR = Floor(0.6), Floor(0.5)  # four places: 0.25 without a picture

_PAIRS = tuple((f"feather:{keep}", f"fastv:{keep}") for keep in KEEPS[:2])

FIRST = (
    Claim(
        "feather-place",
        "With as many tokens left at the end, FEATHER answers questions of place better than FastV. (It has more of "
        "them in the layers between its two cuts.)",
        "Feather the Throttle, ICCV 2025",
        _PAIRS,
        ("place",),
        preconditions=(PLACE_FLOOR, LAYERS),
    ),
    Claim(
        "feather-place-same-mean",
        "With as many tokens on the mean over layers, FEATHER answers questions of place better than FastV.",
        "Feather the Throttle, ICCV 2025",
        (("feather:0.5 per layer-mean", "fastv:0.5 per layer-mean"),),
        ("place",),
        preconditions=(PLACE_FLOOR, LAYERS),
    ),
    Claim(
        "fastv-bottom",
        "Of the tokens that FastV keeps, more lie in the bottom third of the picture than of those that FEATHER keeps.",
        "Feather the Throttle, ICCV 2025",
        tuple((second, first) for first, second in _PAIRS),
        ("place",),
        metric=BOTTOM,
        preconditions=(LAYERS,),
    ),
    Claim(
        "divprune-hiprune",
        "With few tokens left, choosing for diversity (DivPrune) answers better than choosing by attention (HiPrune).",
        "arXiv:2503.02175",
        (("divprune:1/16", "hiprune:1/16"),),
        KINDS,
        preconditions=(FLOOR,),
    ),
    Claim(
        "visionzip-merging",
        "Merging what is dropped into its contextual tokens makes VisionZip better than the same selection without it.",
        "arXiv:2412.04467",
        tuple((f"visionzip:{keep}", f"visionzip(merging=False):{keep}") for keep in KEEPS[1:]),
        KINDS,
        preconditions=(FLOOR,),
    ),
)


def compared_with_random(model: Any = None) -> list[str]:
    """Ids of all registered methods that take a keep and wrap no other; with a model those that it can carry."""
    from ..engine.plan import can_apply

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
    return (*FIRST, *(better_than_random(methods, keep) for keep in KEEPS))
