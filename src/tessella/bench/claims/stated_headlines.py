"""Headline claims on single pictures, for methods without an earlier claim, written down before their numbers.

A loss that a paper reports in per cent of the full model's score is allowed here in points, rounded up to whole ones,
and is at least one point. Layers are the papers' own, fitted to the model's depth.
"""

from __future__ import annotations

from ...mini.questions import KINDS
from .claim import Claim, Halfway
from .conditions import Condition, Floor, Layers, TextDominates
from .evidence import DOMINANCE

SEED = 2  # questions that no earlier claim was decided on
FLOOR, LAYERS = Floor(0.5), Layers(4)
HALF = "0.5 per layer-mean"  # the most that every cut inside a model of few layers can be compared at

Pairs = tuple[tuple[str, str | Halfway], ...]


def _claim(
    method: str, name: str, text: str, source: str, pairs: Pairs, margin: float = 0.0, *more: Condition
) -> Claim:
    """A claim about all question types, decided on this file's questions."""
    return Claim(name, text, source, pairs, KINDS, (method,), margin=margin, seed=SEED, preconditions=(FLOOR, *more))


AROUND_CONNECTOR = (
    _claim(
        "hiprune",
        "hiprune-third",
        "With a third of the tokens HiPrune stays within one point of the full model.",
        "arXiv:2508.00553: up to 99.3 % of the full score with 192 of 576 tokens",
        (("hiprune:1/3", "none"),),
        -0.01,
    ),
    _claim(
        "fastervlm",
        "fastervlm-twentieth",
        "With a twentieth of the tokens FasterVLM stays within ten points of the full model.",
        "arXiv:2412.01818: about 90 % of the full score with 5 % of the tokens",
        (("fastervlm:1/20", "none"),),
        -0.1,
    ),
    _claim(
        "prumerge",
        "prumerge-two-ninths",
        "With two ninths of the tokens PruMerge+ stays within five points of the full model.",
        "arXiv:2403.15388; others measured 95.64 % of the full score with 128 of 576 tokens",
        (("prumerge:2/9", "none"),),
        -0.05,
    ),
    Claim(
        "text-dominance-falls",
        "With a twentieth of the tokens, answers attend less to a text token, compared with a visual one.",
        "arXiv:2508.10552: from 10.23 to 0.86. An index per token falls too where attention in all stays what it was",
        (("text_dominance:1/20", "none"),),
        KINDS,
        ("text_dominance",),
        DOMINANCE,
        "less",
        seed=SEED,
        preconditions=(FLOOR, TextDominates()),
    ),
    _claim(
        "compose",
        "compose-two-papers",
        "FoPru's score with ZOO-Prune's selection is better than either method whole.",
        "our own, on the composition that the method's card gives as its example",
        tuple(
            (f"compose(score=fopru, select=zoo_prune):{keep}", f"{whole}:{keep}")
            for whole in ("fopru", "zoo_prune")
            for keep in ("1/9", "1/16")
        ),
    ),
)

INSIDE = (
    _claim(
        "fastv",
        "fastv-half",
        "With half of the tokens in front of layer 2 FastV stays within three points of the full model.",
        "arXiv:2403.06764; 97.8 % of the full score over 8 benchmarks",
        (("fastv@2:0.5", "none"),),
        -0.03,
        LAYERS,
    ),
    _claim(
        "pyramiddrop",
        "pyramiddrop-schedule",
        "With the paper's schedule PyramidDrop stays within two points of the full model.",
        "arXiv:2410.17247; 98.8 % of the full score",
        (("pyramiddrop", "none"),),
        -0.02,
        LAYERS,
    ),
    _claim(
        "sparsevlm",
        "sparsevlm-two-fifths",
        "With 41 % of the tokens on the mean over layers SparseVLM stays within two points of the full model.",
        "arXiv:2410.04417; 98.8 % of the full score at 41.1 % of the computation",
        (("sparsevlm:0.41 per layer-mean", "none"),),
        -0.02,
        LAYERS,
    ),
    _claim(
        "transprune",
        "transprune-schedule",
        "With the paper's schedule TransPrune stays within one point of the full model.",
        "arXiv:2507.20630: 100.0 % of the full score at 40.8 % of the computation",
        (("transprune", "none"),),
        -0.01,
        LAYERS,
    ),
    _claim(
        "adaptinfer",
        "adaptinfer-same-mean",
        "With half of the tokens on the mean over layers AdaptInfer is better than SparseVLM, FastV and PyramidDrop.",
        "arXiv:2508.06084: better than these three at 128 tokens",
        tuple((f"adaptinfer:{HALF}", f"{rival}:{HALF}") for rival in ("sparsevlm", "fastv", "pyramiddrop")),
        0.0,
        LAYERS,
    ),
    _claim(
        "adatoken3d",
        "adatoken3d-schedule",
        "With 37 % of the tokens on the mean over layers AdaToken-3D stays within one point of the full model.",
        "arXiv:2505.12782: accuracy kept with 63 % less computation",
        (("adatoken3d:0.37 per layer-mean", "none"),),
        -0.01,
        LAYERS,
    ),
    _claim(
        "vflowopt",
        "vflowopt-same-mean",
        "With half of the tokens on the mean over layers VFlowOpt is better than FastV and SparseVLM.",
        "arXiv:2508.05211: 99.9 % of the full score, FastV 96.5 and SparseVLM 97.1 %",
        tuple((f"vflowopt:{HALF}", f"{rival}:{HALF}") for rival in ("fastv", "sparsevlm")),
        0.0,
        LAYERS,
    ),
    _claim(
        "yopo",
        "yopo-half-of-the-layers",
        "Without visual tokens in the second half of the layers answers stay within one point of the full model.",
        "arXiv:2410.06169: performance kept with 88 % less computation, of which this is one of four parts",
        (("yopo", "none"),),
        -0.01,
        LAYERS,
    ),
    _claim(
        "layered",
        "layered-several-cuts",
        "With as many tokens on the mean over layers, FastV's score in several cuts is better than in one.",
        "our own, after arXiv:2410.17247",
        ((f"layered(method=fastv):{HALF}", f"fastv:{HALF}"),),
        0.0,
        LAYERS,
    ),
)

HEADLINES = (*AROUND_CONNECTOR, *INSIDE)
