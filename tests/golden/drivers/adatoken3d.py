"""Rotated queries and keys in front of one cut, of the tokens that an earlier one has left."""

from __future__ import annotations

from typing import Any

import torch
from recorded import Golden, negated

from tessella.core.budget import Counts
from tessella.core.layout import Layout
from tessella.core.registry import load_class, make
from tessella.testing import ArrayView

FLIPS = {"attention": (load_class("adatoken3d"), "score", negated)}


def replay(file: Golden) -> None:
    hidden = torch.as_tensor(file["hidden_states"])
    start, there, first = (int(file.number(n)) for n in ("image_start", "image_tokens", "initial_tokens"))
    ratios = tuple(float(file.number(n)) for n in ("ratio_now", "ratio_next"))
    method: Any = make("adatoken3d", layers=(1, 2), ratios=ratios)
    view = ArrayView(
        projection=(file["query_after_rope"], file["key_after_rope"]),
        embeddings=hidden[:, start : start + there],
        layout=Layout.single(len(hidden), 1, there, start),
        at_layer=2,
    )
    items = (there,) * len(hidden), (first,) * len(hidden)
    keep = method.reduce(view, Counts(items[0], items[0], asked=False, num_first=items[1])).keep
    score = method.score(view)
    file.compare("score", score if file["score"].ndim == 2 else score[0])
    file.compare_keep(keep)
    text = hidden.shape[1] - start - there
    stay = torch.nn.functional.pad(keep, (start, text), value=True)
    output = hidden[stay].unflatten(0, (len(hidden), -1))
    assert method.card.positions == "compact"
    file.compare("position_ids", torch.arange(output.shape[1]).expand(len(hidden), -1))
    file.compare("output", output)
