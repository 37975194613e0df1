"""What the connector made of clips before the model pooled it, as methods see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import tessella
from tessella.core.budget import Counts
from tessella.core.cards import Card
from tessella.core.contracts import Method
from tessella.core.pipeline import Part, Pipeline
from tessella.core.reduction import Reduction
from tessella.core.view import Captures, Unpooled, View
from tessella.testing.families import tiny_family
from tessella.testing.family_cases import batches, inputs_of, prompts, tiny_model

LAYER = 1


@dataclass(frozen=True)
class Looks(Method):
    """Keeps everything and lets a function see the view."""

    look: Callable[[View], None] = field(default=lambda view: None)
    id = "looks"
    card = Card(
        title="Looks", stages=("connector",), count="adaptive", count_reason="all", unit="image", newlines="keep"
    )

    def captures(self, info: Any) -> Captures:
        return Captures(encoder=(LAYER,))

    def reduce(self, view: View, counts: Counts) -> Reduction:
        self.look(view)
        return Reduction(view.mask, view.layout.num_tokens)


def seen(name: str, what: str) -> list[tuple[View, Unpooled, Tensor, Tensor]]:
    """The view, what was unpooled, and attention received by its rows and by the tokens."""
    family, out = tiny_family(name), []

    def look(view: View) -> None:
        rows = view.unpooled()
        out.append((view, rows, rows.received(LAYER), view.attention_received(LAYER)))

    found = {**{n: (r,) for n, r in prompts(family).items()}, **batches(family)}[what]
    with torch.no_grad(), tessella.reduce(tiny_model(family), Pipeline((Part(Looks(look), None),))):
        tiny_model(family)(**inputs_of(family, *found))
    return out


@pytest.mark.parametrize("what", ["clip", "mixed", "clips"])
def test_rows_pool_to_the_tokens_of_the_model(what: str) -> None:
    ((view, rows, received, of_tokens),) = seen("llava_onevision", what)
    side = tiny_model(tiny_family("llava_onevision")).config.vision_config
    side = side.image_size // side.patch_size
    is_clip = [any(b.frame for b in blocks) for blocks in view.layout.blocks]
    for blocks, mine, clip in zip(rows.layout.blocks, view.layout.blocks, is_clip, strict=True):
        assert [b.key for b in blocks] == [b.key for b in mine]
        assert [(b.rows, b.columns) for b in blocks] == [(side, side) if clip else (b.rows, b.columns) for b in mine]
    mask = view.mask[:, :, None]
    pooled = rows.pool(rows.embeddings)
    torch.testing.assert_close(pooled * mask, view.tokens.embeddings * mask)
    torch.testing.assert_close(rows.pool(received[:, :, None]) * mask, of_tokens[:, :, None] * mask)
    frame = rows.layout.split("tile")
    for f, item in enumerate(frame.source_row):
        if is_clip[item]:
            total = received[item, frame.index[f, : frame.num_tokens[f]]].sum()
            torch.testing.assert_close(total, torch.tensor(1.0))


@pytest.mark.parametrize(("name", "what"), [("qwen2_5_vl", "clips"), ("llava_next_video", "mixed"), ("llava", "two")])
def test_what_is_not_pooled_behind_the_connector_is_the_tokens(name: str, what: str) -> None:
    ((view, rows, received, of_tokens),) = seen(name, what)
    assert rows.embeddings is view.tokens.embeddings
    assert rows.layout is view.layout
    assert rows.pool(rows.embeddings) is rows.embeddings
    assert torch.equal(received, of_tokens)


def test_a_frame_alone_has_the_rows_that_it_has_in_its_clip() -> None:
    family, found = tiny_family("llava_onevision"), {}

    def look(view: View) -> None:
        found[len(view.mask)] = view.unpooled().embeddings

    model, inputs = tiny_model(family), inputs_of(family, prompts(family)["clip"])
    for scope in ("image", "frame"):
        with torch.no_grad(), tessella.reduce(model, Looks(look), keep=0.5, scope=scope):
            model(**inputs)
    frames = found[max(found)]
    torch.testing.assert_close(found[1][0].view_as(frames), frames)
