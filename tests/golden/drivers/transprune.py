"""What each module was given and gave, layer by layer, and at each cut the next layer's rotated queries and keys."""

from __future__ import annotations

from typing import Any

import torch
from drivers.pyramiddrop import projected
from recorded import Golden, negated

from tessella.core.budget import Counts
from tessella.core.layout import Layout
from tessella.core.registry import load_class, make
from tessella.core.view import Point
from tessella.reduction import transprune
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info

FLIPS = {
    "transition variation": (transprune, "transition_variation", negated),
    "guided attention": (transprune, "guided_attention", negated),
    "score": (load_class("transprune"), "score", negated),
}


def replay(file: Golden) -> None:
    first, there, behind = (int(file.number(n)) for n in ("n_sys", "n_img", "n_text"))
    ratios = tuple(float(str(r)) for r in file["ratios"])  # the decimals that were stored in float32
    stages = [stage for stage, count in enumerate(file["acc_layers_before_stage"]) for _ in range(count)]
    summed = tuple(number + stage for number, stage in enumerate(stages))  # a layer between the stages
    cuts = tuple(sum(s <= stage for s in stages) + stage for stage in range(len(ratios)))
    method: Any = make("transprune", layers=cuts, ratios=ratios, accumulate=summed)
    sequence, state = torch.arange(first + there + behind), {}
    for stage, step in enumerate(method.steps(default_info(), None)):
        visual = len(sequence) - first - behind
        hidden = torch.as_tensor(file[f"hidden_stage{stage}"])
        projection = projected(file, stage, hidden, torch.arange(len(sequence)))
        layout = Layout.single(1, 1, visual, first)
        view = ArrayView(projection=projection, embeddings=hidden, layout=layout, at_layer=step.at_layer)
        view.state = state
        real = torch.ones(hidden.shape[:2], dtype=torch.bool)
        for number in (n for n, s in enumerate(stages) if s == stage):
            pairs = [[torch.as_tensor(file[f"{m}_{w}_l{number}"]) for w in ("in", "out")] for m in ("attn", "ffn")]
            for module, pair in zip(transprune.MODULES, pairs, strict=True):
                method.observe(view, Point(summed[number], module), *pair)
            file.compare(f"ttv_l{number}", sum(transprune.transition_variation(*p, real) for p in pairs))
        kept = step.reduce(view, Counts((visual,), (visual,), asked=False, num_first=(there,))).keep[0]
        state = {name: value[:, kept] for name, value in view.state.items()}
        stay = torch.nn.functional.pad(kept, (first, behind), value=True).nonzero()[:, 0]
        sequence = sequence[stay]
        assert method.card.positions == "compact"
        file.compare(f"kept_local_stage{stage}", stay)
        file.compare(f"kept_original_stage{stage}", sequence)
        file.compare(f"position_ids_after_stage{stage}", torch.arange(len(stay))[None])
