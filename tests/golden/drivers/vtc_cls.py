"""The class token's attention rows of every encoder layer of one image; layers, scores and kept features."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from recorded import Golden, every, negated

from tessella.core.registry import load_class, make
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info

FLIPS = {"attention": (load_class("vtc_cls"), "score", negated)}


def replay(file: Golden) -> None:
    rows, count = file["cls_attention"][:, None, :, 1:], int(file.number("k"))
    depth = len(rows)
    info = replace(default_info(), num_encoder_layers=depth, feature_layer=depth - 2)
    features = file["hidden_states"][:, 1:]
    view = ArrayView(features=features, class_attention=dict(enumerate(rows)), info=info)
    method: Any = make("vtc_cls", start=int(file.number("start_layer")) % depth).fit(info)  # as a slice counts
    file.compare("layers_used", method.layers(info), optional=True)
    file.compare("scores", method.score(view)[0], optional=True)
    keep = method.reduce(view, every(count, view)).keep
    file.compare_keep(keep)
    file.compare("kept_features", view.features()[keep], optional=True)
