"""Files of the connector: a layer of the encoder. Files of the language model: a layer's rotated queries and keys."""

from __future__ import annotations

from typing import Any

import torch
from recorded import Golden, every, negated

from tessella.core.budget import Counts
from tessella.core.layout import Layout
from tessella.core.registry import load_class, make
from tessella.ops import merging
from tessella.reduction import visiondrop
from tessella.testing import ArrayView

FLIPS = {
    "class row": (load_class("visiondrop"), "score", negated),
    "attention among tokens": (visiondrop, "attention_from", negated),
    "keys": (merging, "cosine_similarity", negated),
}
HELD_BY = {"class row": "visiondrop_encoder", "attention among tokens": "visiondrop_llm"}


def replay(file: Golden) -> None:
    dominant, contextual = int(file.number("dominant")), int(file.number("contextual"))
    inside = "query_after_rope" in file
    lists = {"dominant": (dominant,) * (1 + inside), "contextual": (contextual,) * (1 + inside)}
    method: Any = make("visiondrop", layers=(16,) * inside, **lists)
    hidden = torch.as_tensor(file["hidden_states"])
    (replay_inside if inside else replay_connector)(file, method, hidden)


def replay_connector(file: Golden, method: Any, hidden: torch.Tensor) -> None:
    attention = file["cls_attention"][..., 1:]
    view = ArrayView(
        features=hidden[:, 1:],
        class_features=hidden[:, 0],
        class_attention=attention,
        encoder_keys=file["key_metric"][:, None, 1:],
    )
    there = view.layout.num_tokens
    reduction = method.reduce(view, Counts(there, there, asked=False))
    num_patches = every(method.dominant[0] - 1, view).num_keep
    patches = visiondrop.top_indices(method.score(view), num_patches, view.mask)
    file.compare("dominant_indices_with_cls", torch.nn.functional.pad(patches + 1, (1, 0)))
    file.compare("output", reduction.embeddings)


def replay_inside(file: Golden, method: Any, hidden: torch.Tensor) -> None:
    start, there = int(file.number("image_start")), int(file.number("image_tokens"))
    view = ArrayView(
        embeddings=hidden[:, start : start + there],
        projection=(file["query_after_rope"], file["key_after_rope"]),
        layout=Layout.single(1, 1, there, start),
    )
    file.compare("score", method.score_inside(view, 16)[0][0])
    reduction = method.reduce_inside(1, view, Counts((there,), (there,), asked=False))
    file.compare("dominant_indices", reduction.order[0, : method.dominant[1]])
    output = torch.cat([hidden[:, :start], reduction.embeddings, hidden[:, start + there :]], dim=1)
    assert method.card.positions == "compact"
    file.compare("position_ids", torch.arange(output.shape[1])[None])
    file.compare("output", output)
