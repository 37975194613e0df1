"""Attention rows of the text behind a picture, to the picture and to all text; rows of text in front see nothing."""

from __future__ import annotations

from typing import Any

import torch
from recorded import Golden, negated
from torch.nn.functional import pad

from tessella.core.budget import Counts
from tessella.core.layout import Layout
from tessella.core.registry import load_class, make
from tessella.reduction import adaptinfer
from tessella.testing import ArrayView

FLIPS = {"guided attention": (load_class("adaptinfer"), "score", negated)}


def replay(file: Golden) -> None:
    first, there, behind = (int(file.number(n)) for n in ("n_sys", "n_img", "n_text"))
    rows = pad(torch.as_tensor(file["attn_text_rows"]), (0, 0, first, 0))[None]
    columns = {"visual": rows[..., first : first + there]}
    columns["text"] = torch.cat([rows[..., :first], rows[..., first + there :]], dim=3)
    view = ArrayView(
        attention_rows=lambda layer, queries, softmax, keys: columns[keys],
        embeddings=torch.zeros(1, there, 1),
        layout=Layout.single(1, 1, there, first),
        lengths=(first + there + behind,),
        at_layer=2,
    )
    ratios, smoothing = (min(file.number("keep") / there, 1.0),), file.number("lam")
    method: Any = make("adaptinfer", layers=(2,), ratios=ratios, smoothing=smoothing)
    text = method.text_behind(view)[:, : first + behind]
    weights = adaptinfer.text_importance(columns["text"], text, smoothing)
    file.compare("text_importance", weights[0, :, first:])
    file.compare("visual_scores", method.score(view)[0])
    file.compare("kept", method.reduce(view, Counts((there,), (there,), asked=False)).keep[0].nonzero()[:, 0])
