"""Features, the class token's query and all keys of the last layer; centres and tokens in the authors' order."""

from __future__ import annotations

from typing import Any

from recorded import Golden, negated

from tessella.core.budget import Counts
from tessella.core.registry import load_class, make
from tessella.reduction import prumerge
from tessella.testing import ArrayView

UNUSED = {"features", "reduction_ratio"}  # the ratio where the method is adaptive
FLIPS = {
    "attention": (load_class("prumerge"), "class_row", negated),
    "keys": (prumerge, "cosine_similarity", negated),
}


def replay(file: Golden) -> None:
    hidden, keys = file["hidden_states"], file["keys"]
    view = ArrayView(
        features=hidden[None, 1:],
        class_projection=(file["cls_query"][None, None], keys[None, None, 0]),
        encoder_keys=keys[None, None, 1:],
    )
    ratio = None if file.number("adaptive") else file.number("reduction_ratio")
    method: Any = make("prumerge", plus=file.number("plus"), ratio=ratio)
    counts = Counts(view.layout.num_tokens, view.layout.num_tokens, asked=False)
    attention = method.class_row(view)
    file.compare("cls_attention", attention[0])
    if ratio is None:
        file.compare("num_outliers", method.num_outliers(attention, view.mask, counts)[0])
    centres, num_centres = method.centres(attention, view.mask, counts)
    file.compare("anchor_indices", centres[0, : num_centres[0]])
    file.compare("output_tokens", method.reduce(view, counts).embeddings[0])
