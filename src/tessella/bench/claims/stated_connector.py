"""The claims about methods around the connector, written down before their numbers."""

from __future__ import annotations

from collections.abc import Sequence

from ...mini.questions import KINDS
from .claim import Claim
from .stated_first import FLOOR, KEEPS


def _at(keeps: Sequence[str], first: str, second: str) -> tuple[tuple[str, str], ...]:
    """The same two methods at several keeps."""
    return tuple((f"{first}:{keep}", f"{second}:{keep}") for keep in keeps)


def _everywhere(
    about: str, name: str, text: str, source: str, comparisons: tuple[tuple[str, str], ...], margin: float = 0.0
) -> Claim:
    """A claim about all question types."""
    return Claim(name, text, source, comparisons, KINDS, (about,), margin=margin, preconditions=(FLOOR,))


CONNECTOR = (
    _everywhere(
        "vtc_cls",
        "vtc-cls-several-layers",
        "Class attention summed over several encoder layers chooses better than that of one layer (FasterVLM).",
        "arXiv:2412.05819",
        _at(KEEPS, "vtc_cls", "fastervlm"),
    ),
    _everywhere(
        "fopru",
        "fopru-quarter",
        "With a quarter of the tokens FoPru stays within one point of the full model.",
        "arXiv:2411.14164",
        (("fopru:1/4", "none"),),
        margin=-0.01,
    ),
    _everywhere(
        "todre",
        "todre-diversity",
        "With few tokens left, greedy diversity from the most attended token (ToDRE) is better than attention alone.",
        "arXiv:2505.18757",
        _at(KEEPS[1:], "todre(fading=False)", "fastervlm"),
    ),
    _everywhere(
        "todre",
        "todre-fading",
        "Removing all visual tokens of a late layer, where attention to them has faded, costs at most one point.",
        "arXiv:2505.18757",
        (("todre:1/4", "todre(fading=False):1/4"),),
        margin=-0.01,
    ),
    _everywhere(
        "mmtok",
        "mmtok-both-coverages",
        "Covering the words of the question and the picture is better than covering either alone.",
        "arXiv:2508.18264",
        (*_at(KEEPS[1:], "mmtok", "mmtok(vision_weight=0.0)"), *_at(KEEPS[1:], "mmtok", "mmtok(vision_weight=1000.0)")),
    ),
    _everywhere(
        "holov",
        "holov-holistic",
        "With few tokens left, dividing the count over crops (HoloV) is better than the highest attention (FasterVLM).",
        "arXiv:2510.02912",
        _at(KEEPS[1:], "holov", "fastervlm"),
    ),
    _everywhere(
        "zoo_prune",
        "zoo-prune-sensitivity",
        "Sensitivity times diversity (ZOO-Prune) is better than diversity alone (DivPrune).",
        "arXiv:2509.24837",
        _at(KEEPS, "zoo_prune", "divprune"),
    ),
    _everywhere(
        "agilepruner",
        "agilepruner-both",
        "Diversity adapted to the picture (AgilePruner) is better than attention alone and than diversity alone.",
        "arXiv:2603.01236",
        (*_at(KEEPS[1:], "agilepruner", "fastervlm"), *_at(KEEPS[1:], "agilepruner", "divprune")),
    ),
    _everywhere(
        "flashvlm",
        "flashvlm-text",
        "Relevance to the question makes FlashVLM better than its own choice without the question.",
        "arXiv:2512.20561",
        _at(KEEPS, "flashvlm", "flashvlm(eta=0.0)"),
    ),
    _everywhere(
        "recoverable",
        "recoverable-text",
        "Tokens recovered by their likeness to the question are worth more than the same number of the most attended.",
        "arXiv:2409.01179",
        _at(KEEPS[1:], "recoverable", "fastervlm"),
    ),
    _everywhere(
        "visiondrop",
        "visiondrop-progressive",
        "With as many tokens on the mean over layers, merging in several steps (VisionDrop) is better than in one "
        "(VisionZip).",
        "arXiv:2506.22283",
        tuple((f"visiondrop:{keep} per layer-mean", f"visionzip:{keep}") for keep in KEEPS[:2]),
    ),
)
