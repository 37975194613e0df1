"""Question, projected tokens and encoder features of one image; picks in the order taken."""

from __future__ import annotations

import torch
from recorded import Golden, every, negated

from tessella.core.contracts import mask_of
from tessella.core.registry import make
from tessella.reduction import mmtok
from tessella.testing import ArrayView

FLIPS = {
    "similarity": (mmtok, "cosine_similarity", negated),
    "text": (mmtok.MMTok, "text_of", lambda f: lambda *given: (-f(*given)[0], f(*given)[1])),
}


def replay(file: Golden) -> None:
    text = file["text_embeddings"][None]
    view = ArrayView(
        embeddings=file["projected_features"][None],
        features=file["visual_features"][None],
        text=(text, torch.ones(text.shape[:2], dtype=torch.bool)),
    )
    method = make(
        "mmtok",
        text_temperature=file.number("temp_tv"),
        vision_temperature=file.number("temp_vv"),
        vision_weight=file.number("alpha"),
    )
    excluded = mask_of(torch.as_tensor(file["exclude"])[None], view.mask.shape[1])
    picks = method.picks(view, every(int(file.number("k")), view), excluded)  # type: ignore[attr-defined]
    file.compare("pick_order", picks[0])
    file.compare_keep(mask_of(picks, view.mask.shape[1]))
