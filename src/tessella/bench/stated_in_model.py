"""The claims about methods inside the language model, written down before their numbers."""

from __future__ import annotations

from .claims import TOP, Claim, Floor, Halfway, Layers

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
        seed=SEED,
        preconditions=(PLACE_FLOOR, LAYERS),
    ),
)

IN_MODEL = EARLY
