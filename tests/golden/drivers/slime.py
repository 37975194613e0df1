"""Local tokens and text with its mask; scores, and the tokens that hold the given share of their softmax."""

from __future__ import annotations

from typing import Any

from recorded import Golden, negated

from tessella.core.budget import Counts
from tessella.core.registry import load_class, make
from tessella.testing import ArrayView

FLIPS = {"cosine": (load_class("slime"), "score", negated)}


def replay(file: Golden) -> None:
    view = ArrayView(embeddings=file["local"][None], text=(file["text"][None], file["text_mask"][None]))
    method: Any = make("slime", top_p=file.number("topp"), temperature=file.number("temp"))
    there = view.layout.num_tokens
    file.compare("score", method.score(view)[0])
    file.compare_keep(method.reduce(view, Counts(there, there, asked=False)).keep)
