"""The padding mask of a picture's size, scores over a recorded curve, and what is kept of them."""

from __future__ import annotations

import torch
from recorded import Golden, every, negated

from tessella.core.registry import load_class, make
from tessella.ops.padding import padded_share, square_margins
from tessella.testing import ArrayView

FLIPS = {"corrected scores": (load_class("attention_debias"), "correct", negated)}


def replay(file: Golden) -> None:
    grid, side = int(file.number("grid")), int(file.number("model_image_size"))
    width, height = map(int, file["image_size_wh"])
    padding = padded_share(square_margins(width, height, side), (side, side), (grid, grid))
    rows = torch.as_tensor(file["attention"])[None, None, None]
    view = ArrayView(attention_rows=rows, padding=padding.reshape(1, -1), grids=(grid, grid), at_layer=2)
    weight = tuple(map(float, file["weight"]))
    threshold = float(file.number("pad_threshold"))
    method = make("attention_debias", form="table", coefficients=weight, length=len(weight), pad_threshold=threshold)
    file.compare("pad_mask", method.valid(view)[0].view(grid, grid).long())
    file.compare("debiased", method.score(view)[0])
    keep = method.reduce(view, every(int(file.number("requested_keep")), view)).keep
    file.compare("kept_sorted", keep[0].nonzero()[:, 0])
