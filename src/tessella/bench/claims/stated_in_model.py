"""The claims about methods inside the language model, written down before their numbers."""

from __future__ import annotations

from ...mini.questions import KINDS
from .claim import Claim, Halfway
from .conditions import Floor, Layers
from .evidence import TOP

SEED = 1  # questions that no earlier claim was decided on
KEEPS = ("1/9", "1/16", "1/49")
EASY = ("colour", "shape", "existence")
PLACE_FLOOR, FLOOR, LAYERS = Floor(0.6), Floor(0.5), Layers(4)

EARLY = (
    Claim(
        "fastv-loses-place",
        "FastV in front of layer 2 costs more than five points of the questions of place.",
        "Feather the Throttle, ICCV 2025",
        tuple((f"fastv@2:{keep}", "none") for keep in KEEPS),
        ("place",),
        about=("feather",),
        direction="less",
        margin=0.05,
        seed=SEED,
        preconditions=(PLACE_FLOOR, LAYERS),
    ),
    Claim(
        "fastv-easy-types-survive",
        "FastV in front of layer 2 costs at most five points of the questions of colour, shape and existence.",
        "Feather the Throttle, ICCV 2025",
        tuple((f"fastv@2:{keep}", "none") for keep in KEEPS),
        EASY,
        about=("feather",),
        margin=-0.05,
        seed=SEED,
        preconditions=(FLOOR, LAYERS),
    ),
    Claim(
        "fastv-loses-top",
        "Of the tokens that FastV keeps in front of layer 2, fewer lie in the top third of the picture than of an even "
        "lattice.",
        "Feather the Throttle, ICCV 2025",
        tuple((f"fastv@2:{keep}", f"uniform:{keep}") for keep in KEEPS[:2]),
        ("place",),
        about=("feather",),
        direction="less",
        metric=TOP,
        seed=SEED,
        preconditions=(LAYERS,),
    ),
    Claim(
        "feather-wins-back-half",
        "FEATHER wins back at least half of what FastV in front of layer 2 loses of the questions of place.",
        "Feather the Throttle, ICCV 2025",
        tuple((f"feather:{keep}", Halfway(f"fastv@2:{keep}", "none")) for keep in KEEPS[1:]),
        ("place",),
        about=("feather",),
        seed=SEED,
        preconditions=(PLACE_FLOOR, LAYERS),
    ),
)

# What `tessella calibrate "information_horizon(method=none)" --data mini:256` measured on questions of the training
# split, eps 0.01: all visual tokens may leave in front of layer 7; for questions of existence in front of layer 5.
HORIZON, EXISTENCE_HORIZON = 7, 5
LATE = (
    f"fastv@{HORIZON}:1/16",
    f"pyramiddrop(layers=({HORIZON},), ratios=(0.0625,))",
    f"adaptinfer(layers=({HORIZON},), ratios=(0.0625,))",
    f"sparsevlm(layers=({HORIZON},), ratios=(0.0625,), merging=False)",
    f"transprune(layers=({HORIZON},), ratios=(0.0625,))",
    f"uniform@{HORIZON}:1/16",
)
DRAWN = f"random@{HORIZON}:1/16"

BEYOND = (
    Claim(
        "random-equals-scores-beyond-horizon",
        "Behind the measured horizon a random sixteenth of the tokens is worth what any method's sixteenth is, to "
        "within two points.",
        "arXiv:2512.07580",
        tuple(pair for late in LATE for pair in ((DRAWN, late), (late, DRAWN))),
        KINDS,
        about=("information_horizon",),
        margin=-0.02,
        seed=SEED,
        preconditions=(FLOOR, LAYERS),
    ),
    Claim(
        "random-behind-horizon-costs-nothing",
        "With as many tokens on the mean over layers, drawing half of them at the horizon costs DivPrune at most one "
        "point.",
        "arXiv:2512.07580",
        tuple(
            (f"information_horizon(method=divprune)@{HORIZON}:{keep} per layer-mean", f"divprune:{keep}")
            for keep in KEEPS[:2]
        ),
        KINDS,
        about=("information_horizon",),
        margin=-0.01,
        seed=SEED,
        preconditions=(FLOOR, LAYERS),
    ),
    Claim(
        "existence-needs-no-more",
        "At the horizon of questions of existence, taking all visual tokens away costs them at most one point.",
        "arXiv:2512.07580",
        ((f"yopo@{EXISTENCE_HORIZON}", "none"),),
        ("existence",),
        about=("information_horizon",),
        margin=-0.01,
        seed=SEED,
        preconditions=(FLOOR, LAYERS),
    ),
    Claim(
        "reading-needs-more",
        "At the horizon of questions of existence, taking all visual tokens away costs reading more than one point.",
        "arXiv:2512.07580",
        ((f"yopo@{EXISTENCE_HORIZON}", "none"),),
        ("reading",),
        about=("information_horizon",),
        direction="less",
        margin=0.01,
        seed=SEED,
        preconditions=(FLOOR, LAYERS),
    ),
)

# The trend of FastV's scores on 512 questions of the training split (`tessella calibrate attention_debias`). For
# AdaptInfer and SparseVLM, whose scores fall along the raster, the fit is 0, which corrects nothing.
TREND = 0.0005074450687498494
DEBIASED = f"attention_debias(coefficients=({TREND},), length=196, pad_threshold=None)"

DEBIASING = (
    Claim(
        "debiasing-helps",
        "FastV is better with its scores divided by their fitted trend along the raster.",
        "arXiv:2508.17807",
        tuple((f"{DEBIASED}:{keep}", f"fastv@2:{keep}") for keep in KEEPS),
        KINDS,
        about=("attention_debias",),
        seed=SEED,
        preconditions=(FLOOR, LAYERS),
    ),
)

IN_MODEL = (*EARLY, *BEYOND, *DEBIASING)
