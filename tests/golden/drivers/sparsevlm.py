"""What goes into the first layer, and behind the pruned one: attention rows of the text, and the sequence."""

from __future__ import annotations

from typing import Any

import torch
from recorded import Golden, negated
from torch.nn.functional import pad

from tessella.core.budget import Counts
from tessella.core.contracts import mask_of
from tessella.core.layout import Layout
from tessella.core.registry import load_class, make
from tessella.core.view import Point
from tessella.reduction import sparsevlm
from tessella.testing import ArrayView

FLIPS = {
    "raters": (sparsevlm, "rater_scores", negated),
    "attention": (load_class("sparsevlm"), "score", negated),
}


def replay(file: Golden) -> None:
    first, there, behind = (int(file.number(n)) for n in ("n_sys", "n_img", "n_text"))
    embeds, hidden = (torch.as_tensor(file[n]) for n in ("embeds", "hidden_after_layer"))
    image, text = embeds[:, first : first + there], embeds[:, first + there :]
    rows = pad(torch.as_tensor(file["attn_text_rows"]), (0, 0, first, 0))[None, ..., first : first + there]
    view = ArrayView(
        attention_rows=rows,
        embeddings=hidden[:, first : first + there],
        hidden=hidden,
        layout=Layout.single(1, 1, there, first),
        at_layer=3,
    )
    ratios, share = (min(file.number("keep") / there, 1.0),), file.number("merge_fraction")
    method: Any = make("sparsevlm", layers=(3,), ratios=ratios, recycled=share)
    method.observe(view, Point(0), embeds, embeds)
    every = torch.ones(1, behind, dtype=torch.bool)
    file.compare("rater_scores", sparsevlm.rater_scores(image, text, view.mask, every)[0])
    file.compare("rater_indices_in_text", view.state["raters"][0, 0].nonzero()[:, 0] - first)
    scores, counts = method.score(view), Counts((there,), (there,), asked=False)
    file.compare("visual_scores", scores[0])
    kept, merged = (n[0] for n in method.planned(0, counts))
    file.compare("n_clusters", merged)
    out = method.decide(scores, view, counts)
    file.compare("kept_visual", out.order[0, :kept])
    rest = view.mask & ~mask_of(out.order[:, :kept], there)
    file.compare("recycled_visual", method.recycle(scores, rest, (there - kept,))[0])
    file.compare("merged_tokens", out.embeddings[0, kept:])
    sequence = torch.cat([hidden[0, :first], out.embeddings[0], hidden[0, first + there :]])
    file.compare("sequence_after", sequence)
