"""downsample against its specification: sizes, pixels, what the encoder runs on, what the embedded model still sees."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import tessella
from tessella.core.budget import Counts
from tessella.core.errors import BudgetError
from tessella.core.layout import Block, Layout
from tessella.core.registry import make
from tessella.core.rewriting import Draft
from tessella.mini.evaluate import answer
from tessella.mini.questions import sample
from tessella.ops.grids import shape_of
from tessella.reduction.downsample import resized
from tessella.testing.array_view import default_info
from tessella.testing.tiny import tiny_inputs, tiny_llava

PATCH = 7


class Drawn(Draft):
    """A draft of pictures alone, whose grids are their sizes in patches; it keeps what was put in their place."""

    def __init__(self, pictures: list[Tensor]) -> None:
        self.info, self.arguments, self.pictures = default_info(), {}, tuple(pictures)
        grids = [(p.shape[1] // PATCH, p.shape[2] // PATCH) for p in pictures]
        self.layout = Layout.build([range(r * c) for r, c in grids], [[Block(0, r, c)] for r, c in grids])
        self.replaced: list[Tensor] = []

    def picture_size(self, rows: int, columns: int) -> tuple[int, int]:
        return rows * PATCH, columns * PATCH

    def native_size(self) -> tuple[int, int]:
        raise AssertionError("downsample asks for no size but its own")

    def encode(self, pictures: Any) -> list[Tensor]:
        raise AssertionError("downsample encodes nothing itself")

    def question(self, prompt: int) -> str:
        raise AssertionError("downsample does not ask")

    def text_similarity(self) -> list[Tensor]:
        raise AssertionError("downsample does not ask")

    def last_attention(self, tokens: Any, layer: int) -> list[Tensor]:
        raise AssertionError("downsample does not ask")

    def replace(self, pictures: Any) -> Draft:
        self.replaced = [p for (p,) in pictures]
        return self


def test_every_count_gives_the_grid_of_the_rule() -> None:
    """Grids that differ in one batch, every count from one token to all of the smallest picture."""
    grids = [(4, 4), (3, 6), (5, 3)]
    pictures = [torch.randn(3, r * PATCH, c * PATCH) for r, c in grids]
    there = tuple(r * c for r, c in grids)
    for keep in range(1, 16):
        draft = Drawn(pictures)
        make("downsample").rewrite(draft, Counts((keep,) * 3, there))  # type: ignore[attr-defined]
        want = [tuple(n * PATCH for n in shape_of(*g, keep)) for g in grids]
        assert [tuple(p.shape[1:]) for p in draft.replaced] == want
    assert draft.replaced[2] is pictures[2], "a picture that keeps all its tokens is left alone"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pixels_are_resized_with_antialiasing(dtype: torch.dtype) -> None:
    """Lines of one pixel in four become a quarter of their brightness, which the four nearest pixels would miss."""
    lines = torch.zeros(3, 28, 28)
    lines[:, ::4] = 1
    (small,) = resized([lines.to(dtype)], [(7, 14)])
    assert small.dtype == dtype
    assert small.shape == (3, 7, 14)
    assert (small.float()[:, 2:-2] - 0.25).abs().max() < 0.03
    ramp = torch.linspace(-1, 1, 28).expand(3, 28, 28).contiguous()
    (small,) = resized([ramp], [(28, 14)])
    torch.testing.assert_close(small[:, :, 2:-2], ramp.unfold(2, 2, 2).mean(dim=3)[:, :, 2:-2], atol=1e-3, rtol=0)


def test_no_token_for_a_picture_is_refused() -> None:
    draft = Drawn([torch.zeros(3, 28, 28)] * 2)
    with pytest.raises(BudgetError, match="of 32 visual tokens 1 are kept, which leaves picture 1 without any"):
        make("downsample").rewrite(draft, Counts((1, 0), (16, 16)))  # type: ignore[attr-defined]


@pytest.mark.parametrize("encoder", ["clip", "siglip"])
def test_the_encoder_runs_on_fewer_patches(encoder: Any) -> None:
    """Of the products with weights, r*c (and the class token) instead of h*w (and the class token)."""
    model, inputs = tiny_llava(encoder), tiny_inputs()

    def linear_flops(keep: int | None) -> int:
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            if keep is None:
                model(**inputs)
            else:
                with tessella.reduce(model, "downsample", keep=keep):
                    model(**inputs)
        counts = counter.get_flop_counts()
        layers = [f for name, f in counts.items() if ".vision_tower.encoder.layers." in name and name.endswith("fc1")]
        assert len(layers) == 4
        return sum(sum(f.values()) for f in layers)

    extra = 1 if encoder == "clip" else 0
    each = linear_flops(None) / (16 + extra)
    for keep, cells in [(1, 1), (4, 4), (6, 6), (11, 9), (15, 12)]:
        assert linear_flops(keep) == each * (cells + extra)


@pytest.mark.parametrize("encoder", ["clip", "siglip"])
def test_equals_the_untouched_model_on_a_picture_resized_by_hand(encoder: Any) -> None:
    """Logits are those of a prompt with six placeholders and the small picture."""
    model, inputs = tiny_llava(encoder), tiny_inputs()
    ids = inputs["input_ids"][0].tolist()
    first = ids.index(5)
    short = torch.tensor([ids[:first] + [5] * 6 + ids[first + 16 :]])
    size = [n * PATCH for n in shape_of(4, 4, 6)]
    small = torch.nn.functional.interpolate(inputs["pixel_values"], size=size, mode="bicubic", antialias=True)
    with torch.no_grad():
        encoded = model.model.get_image_features(small, interpolate_pos_encoding=True, return_dict=True)
        want = model(input_ids=short, mm_encoder_outputs={"image": encoded}).logits
        with tessella.reduce(model, "downsample", keep=6):
            assert torch.equal(model(**inputs).logits, want)


def test_the_embedded_model_still_sees() -> None:
    """It was trained on small pictures: at a quarter of the tokens it is far above the blind model."""
    model, processor = tessella.load("mini")
    for kind, least in [("colour", 32), ("shape", 26)]:
        items = [sample(kind, seed, "test") for seed in range(40)]
        right = {}
        for text in ("downsample:1/4", "blind"):
            with tessella.reduce(model, text) as run:
                given = answer(model, processor, items)
            right[text] = sum(a == item.answer for a, item in zip(given, items, strict=True))
            if text == "downsample:1/4":
                assert (run.report.tokens_in, run.report.tokens_kept) == (40 * 196, 40 * 49)
        assert right["downsample:1/4"] >= max(least, 2 * right["blind"] + 1)
