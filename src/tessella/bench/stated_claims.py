"""The claims that the embedded model is asked about, written down before their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.registry import load_class, method_modules
from ..mini.questions import KINDS
from .claims import BOTTOM, Claim, Floor, Layers
from .stated_in_model import IN_MODEL

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


def _at(keeps: Sequence[str], first: str, second: str) -> tuple[tuple[str, str], ...]:
    """The same two methods at several keeps."""
    return tuple((f"{first}:{keep}", f"{second}:{keep}") for keep in keeps)


def _everywhere(
    name: str, text: str, source: str, comparisons: tuple[tuple[str, str], ...], margin: float = 0.0
) -> Claim:
    """A claim about all question types."""
    return Claim(name, text, source, comparisons, KINDS, margin=margin, preconditions=(FLOOR,))


CONNECTOR = (
    _everywhere(
        "vtc-cls-several-layers",
        "Class attention summed over several encoder layers chooses better than that of one layer (FasterVLM).",
        "arXiv:2412.05819",
        _at(KEEPS, "vtc_cls", "fastervlm"),
    ),
    _everywhere(
        "fopru-quarter",
        "With a quarter of the tokens FoPru stays within one point of the full model.",
        "arXiv:2411.14164",
        (("fopru:1/4", "none"),),
        margin=-0.01,
    ),
    _everywhere(
        "todre-diversity",
        "With few tokens left, greedy diversity from the most attended token (ToDRE) is better than attention alone.",
        "arXiv:2505.18757",
        _at(KEEPS[1:], "todre(fading=False)", "fastervlm"),
    ),
    _everywhere(
        "todre-fading",
        "Removing all visual tokens of a late layer, where attention to them has faded, costs at most one point.",
        "arXiv:2505.18757",
        (("todre:1/4", "todre(fading=False):1/4"),),
        margin=-0.01,
    ),
    _everywhere(
        "mmtok-both-coverages",
        "Covering the words of the question and the picture is better than covering either alone.",
        "arXiv:2508.18264",
        (*_at(KEEPS[1:], "mmtok", "mmtok(vision_weight=0)"), *_at(KEEPS[1:], "mmtok", "mmtok(vision_weight=1000)")),
    ),
    _everywhere(
        "holov-holistic",
        "With few tokens left, dividing the count over crops (HoloV) is better than the highest attention (FasterVLM).",
        "arXiv:2510.02912",
        _at(KEEPS[1:], "holov", "fastervlm"),
    ),
    _everywhere(
        "zoo-prune-sensitivity",
        "Sensitivity times diversity (ZOO-Prune) is better than diversity alone (DivPrune).",
        "arXiv:2509.24837",
        _at(KEEPS, "zoo_prune", "divprune"),
    ),
    _everywhere(
        "agilepruner-both",
        "Diversity adapted to the picture (AgilePruner) is better than attention alone and than diversity alone.",
        "arXiv:2603.01236",
        (*_at(KEEPS[1:], "agilepruner", "fastervlm"), *_at(KEEPS[1:], "agilepruner", "divprune")),
    ),
    _everywhere(
        "flashvlm-text",
        "Relevance to the question makes FlashVLM better than its own choice without the question.",
        "arXiv:2512.20561",
        _at(KEEPS, "flashvlm", "flashvlm(eta=0)"),
    ),
    _everywhere(
        "recoverable-text",
        "Tokens recovered by their likeness to the question are worth more than the same number of the most attended.",
        "arXiv:2409.01179",
        _at(KEEPS[1:], "recoverable", "fastervlm"),
    ),
    _everywhere(
        "visiondrop-progressive",
        "With as many tokens on the mean over layers, merging in several steps (VisionDrop) is better than in one "
        "(VisionZip).",
        "arXiv:2506.22283",
        tuple((f"visiondrop:{keep} per layer-mean", f"visionzip:{keep}") for keep in KEEPS[:2]),
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
    return (*FIRST, *CONNECTOR, *IN_MODEL, *(better_than_random(methods, keep) for keep in KEEPS))
