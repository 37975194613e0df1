"""The claims that were written down first."""

from __future__ import annotations

from ...mini.questions import KINDS
from .claim import Claim
from .conditions import Floor, Layers
from .evidence import BOTTOM

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
        about=("feather",),
        preconditions=(PLACE_FLOOR, LAYERS),
    ),
    Claim(
        "feather-place-same-mean",
        "With as many tokens on the mean over layers, FEATHER answers questions of place better than FastV.",
        "Feather the Throttle, ICCV 2025",
        (("feather:0.5 per layer-mean", "fastv:0.5 per layer-mean"),),
        ("place",),
        about=("feather",),
        preconditions=(PLACE_FLOOR, LAYERS),
    ),
    Claim(
        "fastv-bottom",
        "Of the tokens that FastV keeps, more lie in the bottom third of the picture than of those that FEATHER keeps.",
        "Feather the Throttle, ICCV 2025",
        tuple((second, first) for first, second in _PAIRS),
        ("place",),
        about=("feather",),
        metric=BOTTOM,
        preconditions=(LAYERS,),
    ),
    Claim(
        "divprune-hiprune",
        "With few tokens left, choosing for diversity (DivPrune) answers better than choosing by attention (HiPrune).",
        "arXiv:2503.02175",
        (("divprune:1/16", "hiprune:1/16"),),
        KINDS,
        about=("divprune",),
        preconditions=(FLOOR,),
    ),
    Claim(
        "visionzip-merging",
        "Merging what is dropped into its contextual tokens makes VisionZip better than the same selection without it.",
        "arXiv:2412.04467",
        tuple((f"visionzip:{keep}", f"visionzip(merging=False):{keep}") for keep in KEEPS[1:]),
        KINDS,
        about=("visionzip",),
        preconditions=(FLOOR,),
    ),
)
