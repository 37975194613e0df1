"""Headline claims about more than one square picture: pictures in context, clips, tiles; before their numbers.

Losses and layers are taken over as in `stated_headlines`.
"""

from __future__ import annotations

from ...mini.clips import CLIP_KINDS
from ...mini.questions import KINDS
from .claim import Claim
from .conditions import LARGE_PICTURES, TILES, Has
from .stated_headlines import FLOOR, LAYERS, SEED

SHOTS = ("shots",)  # demonstrations, each a picture with a text, and a last picture to be answered alike


CONTEXTS = (
    Claim(
        "catp-in-context",
        "With two ninths of the tokens of pictures in context CATP stays within one point of the full model.",
        "arXiv:2508.07871: 100.1 % of the full score with 22.2 % of the tokens, four pictures in context",
        (("catp:2/9", "none"),),
        SHOTS,
        ("catp",),
        margin=-0.01,
        seed=SEED,
        preconditions=(FLOOR, LAYERS),
    ),
    Claim(
        "catp-rivals-in-context",
        "With two ninths of the tokens of pictures in context CATP is better than FastV, DivPrune and a random choice.",
        "arXiv:2508.07871: 100.1 % of the full score against 82.4, 86.3 and 85.4 %",
        tuple(("catp:2/9", f"{rival}:2/9") for rival in ("fastv", "divprune", "random")),
        SHOTS,
        ("catp",),
        seed=SEED,
        preconditions=(FLOOR, LAYERS),
    ),
)

FRAMES = (
    Claim(
        "quota-frames",
        "With a quarter of the tokens of a clip, giving more of them to frames that matter to the question (QuoTA) is "
        "better than pooling every frame alike.",
        "arXiv:2503.08689: 3.2 % better than the same model at the same number of tokens",
        (("quota:1/4", "pool:1/4"),),
        CLIP_KINDS,
        ("quota",),
        seed=SEED,
        preconditions=(FLOOR, Has("made_tokens")),
    ),
    Claim(
        "evs-fifth",
        "With a fifth of the tokens of a clip EVS stays within four points of the full model.",
        "arXiv:2510.14624; 0.750 and 0.781 on Video-MME",
        (("evs:1/5", "none"),),
        CLIP_KINDS,
        ("evs",),
        margin=-0.04,
        seed=SEED,
        preconditions=(FLOOR, Has("frames")),
    ),
    Claim(
        "aot-quarter",
        "With a quarter of the tokens of a clip AOT stays within one point of the full model.",
        "arXiv:2603.01400: about 1 % lost with 10 to 25 % of the tokens",
        (("aot:1/4", "none"),),
        CLIP_KINDS,
        ("aot",),
        margin=-0.01,
        seed=SEED,
        preconditions=(FLOOR, Has("frames")),
    ),
)

LARGE = (
    Claim(
        "globalcom2-thumbnail",
        "Tiles that the thumbnail gives different shares answer better than tiles of equal shares (FasterVLM).",
        "arXiv:2501.05179: the best of the methods compared on tiles of a picture",
        (("globalcom2:1/4", "fastervlm:1/4 per tile"),),
        KINDS,
        ("globalcom2",),
        seed=SEED,
        preconditions=(FLOOR, Has("class_token"), Has(TILES)),
    ),
    Claim(
        "slime-fewer-tokens",
        "Fewer and more informative tokens of the tiles, as SliME's router takes them, make answers better.",
        "arXiv:2406.08487",
        (("slime", "none"),),
        KINDS,
        ("slime",),
        seed=SEED,
        preconditions=(FLOOR, Has(TILES)),
    ),
    Claim(
        "adaptvision-tiles",
        "As many tiles as a picture is large make text and digits easier to read.",
        "arXiv:2408.16986: strong on natural and text-centric sets up to 1008 x 1008 pixels",
        (("adaptvision", "none"),),
        ("digit", "reading"),
        ("adaptvision",),
        seed=SEED,
        preconditions=(Has("several_grids"), Has(LARGE_PICTURES)),
    ),
    Claim(
        "lrs-pyramid-large-pictures",
        "On large pictures a pyramid led by the question is better than as many tokens of a smaller picture and than "
        "pooling.",
        "arXiv:2503.07588: better than other ways of reading large pictures on four sets",
        tuple(("lrs_pyramid:1/4", f"{rival}:1/4") for rival in ("downsample", "pool")),
        KINDS,
        ("lrs_pyramid",),
        seed=SEED,
        preconditions=(FLOOR, Has("several_grids"), Has(LARGE_PICTURES)),
    ),
)

SCENES = (*CONTEXTS, *FRAMES, *LARGE)
