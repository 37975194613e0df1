"""lrs_pyramid against its specification: levels, choices, and a whole run against one written out step by step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from large_pictures import large_inputs
from torch import Tensor

import tessella
from tessella.core.errors import MethodError, UnsupportedError
from tessella.core.registry import make
from tessella.mini.questions import sample
from tessella.ops.pyramid import level_of, scales_of, tiles_under
from tessella.reduction.lrs_pyramid import above, highest, stretch, with_newlines
from tessella.testing.families import tiny_family
from tessella.testing.tiny import IMAGE_TOKEN, tiny_inputs, tiny_llava

TILE, SIDE, HALF = 28, 4, 2  # pixels and tokens of the tiny encoder's picture, and tokens of a tile that is shrunk


def test_scales_that_the_specification_names() -> None:
    assert scales_of(4000, 3000, 336, 3) == pytest.approx((0.084, 0.252, 0.5, 1.0))
    assert [round(s, 4) for s in scales_of(7099, 6329, 336, 3)] == [0.0473, 0.142, 0.25, 0.5, 1.0]
    assert scales_of(2016, 2016, 336, 3) == pytest.approx((1 / 6, 0.5, 1.0))


@given(height=st.integers(1, 9000), width=st.integers(1, 9000))
def test_levels_grow_and_fill_their_tiles_along_one_side(height: int, width: int) -> None:
    if max(height, width) <= 1008:
        return
    thumbnail, first, *finer = (level_of(height, width, s, 336) for s in scales_of(height, width, 336, 3))
    assert thumbnail.tiles == (1, 1)
    assert max(first.tiles) == 3
    for level in (thumbnail, first, *finer):
        room = [n * 336 for n in level.tiles]
        assert all(1 <= n <= r for n, r in zip(level.size, room, strict=True))
        assert any(n == r for n, r in zip(level.size, room, strict=True))
        assert level.grid(12) == tuple(math.ceil(n * 12 / 336) for n in level.size)
    areas = [math.prod(level.tiles) for level in (first, *finer)]
    assert areas == sorted(areas)


def test_choices() -> None:
    attention = torch.tensor([0.1, 0.4, 0.1, 0.4, 0.0])
    assert highest(attention, 3).tolist() == [0, 1, 3]
    assert highest(attention, 0).tolist() == [1]
    assert highest(attention, 5).tolist() == [0, 1, 2, 3, 4]
    assert with_newlines(torch.tensor([0, 2]), (2, 3)).tolist() == [0, 2, 5]
    spread = torch.linspace(0, 1, 101)
    torch.testing.assert_close(stretch(spread), ((spread - 0.05) / 0.9).clamp(0, 1))
    assert above(spread, 0.2).tolist() == [i for i in range(101) if i > 23]
    assert stretch(torch.full((6,), 0.5)).tolist() == [0.0] * 6
    assert above(torch.full((6,), 0.5), 0.2).tolist() == [0], "of tokens that are all alike one stays"


@given(rows=st.integers(1, 9), columns=st.integers(1, 9), down=st.integers(1, 7), across=st.integers(1, 7))
def test_tiles_lie_under_their_tokens(rows: int, columns: int, down: int, across: int) -> None:
    for place in range(rows * columns):
        (tile,) = tiles_under(torch.tensor([place]), (rows, columns), (down, across)).nonzero().tolist()
        assert tile == [math.floor(place // columns * down / rows), math.floor(place % columns * across / columns)]
    if down <= rows and across <= columns:
        assert tiles_under(torch.arange(rows * columns), (rows, columns), (down, across)).all()


class ByHand:
    """The method on the tiny model, one picture a prompt, tile by tile and with whole attention matrices."""

    def __init__(self, inputs: dict[str, Tensor], layer: int) -> None:
        self.model, self.layer = tiny_llava(attention="eager"), layer
        self.picture = inputs["pixel_values"]
        ids = inputs["input_ids"][0]
        where = (ids == IMAGE_TOKEN).nonzero()[:, 0]
        embed = self.model.get_input_embeddings()
        self.before, self.behind = embed(ids[: where[0]]), embed(ids[where[-1] + 1 :])

    def seen(self, scale: float, tiles: list[tuple[int, int]] | None = None) -> tuple[Tensor, Tensor]:
        """Tokens [r, k, C] of a level, zero where no tile was fetched, and which are there."""
        height, width = self.picture.shape[2:]
        level = level_of(height, width, scale, TILE)
        options: dict[str, Any] = {"mode": "bicubic", "antialias": True}
        large = torch.nn.functional.interpolate(self.picture, size=level.size, **options)[0]
        canvas = torch.zeros(level.tiles[0] * HALF, level.tiles[1] * HALF, 32)
        there = torch.zeros(canvas.shape[:2], dtype=torch.bool)
        every = [(r, c) for r in range(level.tiles[0]) for c in range(level.tiles[1])]
        for r, c in every if tiles is None else tiles:
            tile = torch.zeros(3, TILE, TILE)
            part = large[:, r * TILE : (r + 1) * TILE, c * TILE : (c + 1) * TILE]
            tile[:, : part.shape[1], : part.shape[2]] = part
            tokens = self.encoded(tile).view(HALF, 2, HALF, 2, -1).mean(dim=(1, 3))
            canvas[r * HALF : (r + 1) * HALF, c * HALF : (c + 1) * HALF] = tokens
            there[r * HALF : (r + 1) * HALF, c * HALF : (c + 1) * HALF] = True
        rows, columns = (math.ceil(n * HALF / TILE) for n in level.size)
        return canvas[:rows, :columns], there[:rows, :columns]

    def encoded(self, tile: Tensor) -> Tensor:
        return self.model.model.get_image_features(tile[None]).pooler_output[0]

    def thumbnail(self, scale: float) -> Tensor:
        height, width = self.picture.shape[2:]
        size = level_of(height, width, scale, TILE).size
        small = torch.nn.functional.interpolate(self.picture, size=size, mode="bicubic", antialias=True)[0]
        tile = torch.zeros(3, TILE, TILE)
        tile[:, : size[0], : size[1]] = small
        return self.encoded(tile)

    def prompt(self, *parts: Tensor) -> Tensor:
        return torch.cat([self.before, *parts, self.behind])[None]

    def attention(self, thumbnail: Tensor, tokens: Tensor) -> Tensor:
        out = self.model(inputs_embeds=self.prompt(thumbnail, tokens), output_attentions=True)
        first = len(self.before) + len(thumbnail)
        row = out.attentions[self.layer][0, :, -1, first : first + len(tokens)]
        return (row / row.sum(dim=1, keepdim=True)).mean(dim=0)


@pytest.mark.parametrize("size", [(112, 112), (84, 112), (126, 91)])
@pytest.mark.parametrize("keep", [None, 5])
def test_a_run_equals_one_written_out(size: tuple[int, int], keep: int | None) -> None:
    """Level 0 is read whole, a quarter of it says which tiles of level 1 are, and what stays of those is the prompt."""
    inputs = large_inputs(size)
    by_hand = ByHand(inputs, layer=1)
    with torch.no_grad():
        small, first, second, *_ = scales_of(*size, TILE, 2)
        thumbnail = by_hand.thumbnail(small)
        level, _ = by_hand.seen(first)
        attention = by_hand.attention(thumbnail, level.flatten(0, 1))
        chosen = attention.topk(int(len(attention) * 0.25)).indices.tolist()
        finer = level_of(*size, second, TILE).tiles
        rows, columns = level.shape[:2]
        tiles = sorted({(p // columns * finer[0] // rows, p % columns * finer[1] // columns) for p in chosen})
        assert len(tiles) < math.prod(finer)
        canvas, there = by_hand.seen(second, tiles)
        tokens = canvas[there]
        attention = by_hand.attention(thumbnail, tokens)
        count = int(len(attention) * 0.25) if keep is None else keep
        kept = attention.topk(count).indices.sort().values
        want = by_hand.model(inputs_embeds=by_hand.prompt(thumbnail, tokens[kept])).logits[0, -1]

        method = make("lrs_pyramid", base=2, score_layer=1)
        model = tiny_llava()
        with tessella.reduce(model, method, keep=keep) as run:
            found = model(**inputs).logits[0, -1]
    torch.testing.assert_close(found, want, atol=1e-4, rtol=1e-4)
    assert run.report.tokens_kept == 16 + count
    places = there.flatten().nonzero()[:, 0][kept]
    assert run.kept[0][0].tolist() == [*range(16), *(16 + places).tolist()]
    assert run.pictures[1].size[::-1] == level_of(*size, second, TILE).size


def test_zooming_goes_on_where_it_is_asked_to() -> None:
    model, inputs = tiny_llava(), large_inputs((112, 112))
    shapes = []
    for zooms in range(4):
        method = make("lrs_pyramid", base=1, zooms=zooms)
        with torch.no_grad(), tessella.reduce(model, method) as run:
            model(**inputs)
        shapes.append([(b.rows, b.columns) for b in run.layout.blocks[0]])
    assert shapes == [[(4, 4), (4, 4)], [(4, 4), (8, 8)], [(4, 4), (8, 8)], [(4, 4), (8, 8)]]


def test_everything_stays_at_alpha_one_without_zoom() -> None:
    model, inputs = tiny_llava(), large_inputs((84, 112))
    with torch.no_grad(), tessella.reduce(model, make("lrs_pyramid", base=2, zooms=0, alpha=1.0)) as run:
        model(**inputs)
    (whole, level), (kept,) = run.layout.blocks[0], run.kept[0]
    assert len(kept) == whole.num_tokens + level.num_tokens == 16 + 12


@pytest.mark.parametrize("images", [(1,), (2, 0, 1)])
def test_a_picture_that_is_no_larger_than_level_zero_is_no_pyramid(images: tuple[int, ...]) -> None:
    """Its own tokens compete: as many stay as were asked for, those that the last token looks at."""
    model, inputs = tiny_llava(attention="eager"), tiny_inputs(images, padding="left")
    with torch.no_grad():
        rows = model(**inputs, output_attentions=True).attentions[1][:, :, -1]
        with tessella.reduce(model, "lrs_pyramid(score_layer=1):6") as run:
            model(**inputs)
    for row, found in zip(range(len(images)), run.kept, strict=True):
        places = (inputs["input_ids"][row] == IMAGE_TOKEN).nonzero().view(-1, 16)
        for picture, kept in zip(places, found, strict=True):
            shares = rows[row, :, picture] / rows[row, :, picture].sum(dim=1, keepdim=True)
            assert kept.tolist() == shares.mean(dim=0).topk(6).indices.sort().values.tolist()


def test_a_prompt_of_two_pyramids_decodes_alike_with_and_without_cache() -> None:
    model, inputs = tiny_llava(), large_inputs((84, 112), (84, 112))
    options: dict[str, Any] = {"max_new_tokens": 6, "suppress_tokens": [IMAGE_TOKEN]}
    with torch.no_grad(), tessella.reduce(model, "lrs_pyramid(base=2):8") as run:
        greedy = model.generate(**inputs, **options, do_sample=False)
        assert torch.equal(greedy, model.generate(**inputs, **options, do_sample=False, use_cache=False))
        beams = model.generate(**inputs, **options, do_sample=False, num_beams=2)
        assert beams.shape == greedy.shape
        assert [len(k) for k in run.kept[0]] == [16 + 8] * 2, "thumbnails stay beside what was asked for"


def test_thresholds_instead_of_ratios() -> None:
    model, inputs = tiny_llava(), large_inputs((84, 112))
    counts = []
    for final in (0.1, 0.9):
        method = make("lrs_pyramid", base=2, threshold=0.2, final_threshold=final)
        with torch.no_grad(), tessella.reduce(model, method) as run:
            model(**inputs)
        counts.append(len(run.kept[0][0]) - 16)
    assert counts[0] > counts[1] >= 1


def test_the_embedded_model_finds_what_it_is_asked_for() -> None:
    """A picture three times as large as its encoder's: most answers are right, on a sixth of the tokens."""
    model, processor = tessella.load("mini")
    right = 0
    for seed in range(10):
        item = sample("colour", seed, "test")
        inputs = processor(
            text=f"<s><user><image>{item.question}<assistant>", images=item.image.resize((336, 336)), do_resize=False,
            do_center_crop=False, add_special_tokens=False, return_tensors="pt",
        )  # fmt: skip
        with torch.no_grad(), tessella.reduce(model, "lrs_pyramid(base=1)") as run:
            out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        assert run.report.tokens_in == 1764
        assert 196 < run.report.tokens_kept <= 196 + 9 * 49 // 4
        words = processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        right += words.strip() == item.answer
    assert right >= 7


def test_bad_settings_and_prompts_are_refused() -> None:
    for settings, message in (
        ({"alpha": 0.0}, r"alpha must be in \(0, 1\]; got 0.0"),
        ({"zooms": -1}, "zooms must be at least 0; got -1"),
        ({"base": 0}, "base must be at least 1; got 0"),
    ):
        with pytest.raises(MethodError, match=message):
            make("lrs_pyramid", **settings)
    model, inputs = tiny_llava(), tiny_inputs((1,))
    bare = {n: v[:, :19] if n != "pixel_values" else v for n, v in inputs.items()}  # ends with the picture
    with (
        tessella.reduce(model, "lrs_pyramid"),
        pytest.raises(UnsupportedError, match="lrs_pyramid goes by what the last"),
    ):
        model(**bare)
    with pytest.raises(UnsupportedError, match="score_layer=9 is not a layer of this decoder"):
        tessella.reduce(model, make("lrs_pyramid", score_layer=9))
    assert "several grids" in tessella.can_apply(tiny_family("qwen2_vl").model(), "lrs_pyramid").reason
