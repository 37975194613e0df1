"""One query row of attention; what is kept of the whole sequence."""

from __future__ import annotations

import torch
from recorded import Golden, every, negated

from tessella.core.registry import load_class, make
from tessella.testing import ArrayView

FLIPS = {"attention": (load_class("fastv"), "score", negated)}


def replay(file: Golden) -> None:
    first, num_image, num_text = (int(file.number(n)) for n in ("n_sys", "n_img", "n_text"))
    rows = torch.as_tensor(file["last_row_attention"])[None, :, None, first : first + num_image]
    view = ArrayView(attention_rows=rows, first_slot=first)
    reduction = make("fastv").reduce(view, every(int(file.number("keep")), view))
    kept = view.layout.slot[reduction.keep.cpu()]
    length = first + num_image + num_text
    sequence = torch.cat([torch.arange(first), kept, torch.arange(first + num_image, length)])
    file.compare("keep_indices", sequence)
    file.compare("position_ids", sequence[None], optional=True)  # survivors keep their place
    file.compare("hidden_after", torch.arange(length, dtype=torch.float32)[sequence], optional=True)
