"""Features, queries and keys of the last layer as one head, and the likeness to the question, already scaled."""

from __future__ import annotations

from typing import Any

import torch
from recorded import Golden, negated

from tessella.core.budget import Counts
from tessella.core.registry import load_class, make
from tessella.reduction import recoverable
from tessella.testing import ArrayView

FLIPS = {
    "attention": (recoverable, "class_row", negated),
    "likeness": (load_class("recoverable"), "chosen", lambda f: lambda self, a, s, *rest: f(self, a, -s, *rest)),
    "keys": (recoverable, "cosine_similarity", negated),
}


def replay(file: Golden) -> None:
    query, keys = file["q_last"], file["k_last"]
    view = ArrayView(
        features=file["hidden_patch"],
        class_projection=(query[:, None, 0], keys[:, None, 0]),
        encoder_keys=keys[:, None, 1:],
    )
    method: Any = make("recoverable", quirk_center_count=True, quirk_center_keys=True)
    attention, similarity = method.attention(view), torch.as_tensor(file["text_similarity"])
    counts = Counts(view.layout.num_tokens, view.layout.num_tokens, asked=False)
    num = method.counted(view, attention, similarity, counts)
    file.compare("lof_ratio", method.shares(attention, similarity, view.mask)[0])
    vision, text, centres = method.chosen(attention, similarity, view.mask, num)
    file.compare("index_vision", vision[0])
    file.compare("index_text", text[0])
    rest = view.mask.scatter(1, torch.cat([vision, text], dim=1), False)
    file.compare("centre_index_in_remaining", (rest.cumsum(dim=1) - 1).gather(1, centres)[0])
    file.compare("ref_output", method.recover(view, attention, similarity, counts).embeddings)
