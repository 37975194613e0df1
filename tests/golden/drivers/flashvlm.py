"""The class token's attention row, features before and behind the connector, and the text; what is kept."""

from __future__ import annotations

from recorded import Golden, every, negated

from tessella.core.registry import load_class, make
from tessella.reduction import flashvlm
from tessella.testing import ArrayView

FLIPS = {
    "saliency": (load_class("flashvlm"), "saliency", negated),
    "relevance": (load_class("flashvlm"), "relevance", negated),
    "likeness": (flashvlm, "nearest", negated),
}


def replay(file: Golden) -> None:
    view = ArrayView(
        features=file["image_features"],
        class_attention=file["attention"],
        embeddings=file["projected"],
        text=(file["text_embeds"], file["text_mask"]),
    )
    method = make("flashvlm", norm_gate="post")  # what the authors' code for LLaVA does
    file.compare_keep(method.reduce(view, every(int(file.number("budget")), view)).keep)
