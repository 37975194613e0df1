"""adaptvision against its specification: the partition, and the grids that a model reads of a large picture."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from large_pictures import SIDE, large_inputs
from torch import Tensor

import tessella
from tessella.core.errors import BudgetError, MethodError
from tessella.core.layout import PATCH, THUMBNAIL
from tessella.core.registry import make
from tessella.mini.questions import sample
from tessella.reduction.adaptvision import folded, partition, views_of
from tessella.testing.families import tiny_family
from tessella.testing.tiny import IMAGE_TOKEN, tiny_inputs, tiny_llava


@given(width=st.integers(1, 6000), height=st.integers(1, 6000), shard=st.integers(1, 500), most=st.integers(1, 4))
def test_partition_equals_the_specification(width: int, height: int, shard: int, most: int) -> None:
    longer = min(math.ceil(max(width, height) / shard), most)
    other = max(longer * shard * min(width, height) // max(width, height), 1)
    shorter = min(math.ceil(other / shard), most)
    plan = partition(width, height, shard, most)
    assert (plan.rows, plan.columns) == ((longer, shorter) if height >= width else (shorter, longer))
    assert plan.size == (plan.columns * shard, plan.rows * shard)
    assert len(plan.tags) == plan.rows * plan.columns + 1
    assert plan.tags[0] == (0, 0)
    assert plan.tags[-1] == (plan.rows, plan.columns)


def test_partitions_that_the_specification_names() -> None:
    assert partition(337, 300, 336, 3).size == (672, 672)
    assert partition(5000, 100, 336, 3).size == (1008, 336)
    assert partition(336, 336, 336, 3).tags == [(0, 0), (1, 1)]
    assert partition(673, 336, 336, 3).tags[1:] == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]


def test_folding_joins_four_consecutive_tokens() -> None:
    tokens = torch.arange(24.0).view(12, 2)
    for place, row in enumerate(folded(tokens)):
        assert torch.equal(row, torch.cat([tokens[4 * place + i] for i in range(4)]))


def test_views_are_the_whole_and_tiles_of_the_resized_picture() -> None:
    picture = torch.randn(3, 56, 84)
    views = views_of(picture, partition(84, 56, SIDE, 3))
    assert [tuple(v.shape) for v in views] == [(3, SIDE, SIDE)] * 7
    for number, view in enumerate(views[1:]):
        row, column = divmod(number, 3)
        assert torch.equal(view, picture[:, row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE])
    assert (views[0].mean() - picture.mean()).abs() < 0.05


@pytest.mark.parametrize(
    ("size", "tiles"), [((28, 28), 1), ((28, 56), 2), ((56, 56), 4), ((84, 56), 6), ((140, 140), 9)]
)
def test_a_model_reads_the_whole_and_its_tiles(size: tuple[int, int], tiles: int) -> None:
    """Logits equal those of a prompt of embeddings: 16 tokens of the whole, 4 of each tile, averaged two by two."""
    model, inputs = tiny_llava(), large_inputs(size, size)
    with torch.no_grad():
        with tessella.reduce(model, "adaptvision") as run:
            logits = run.expand(model(**inputs).logits)
        parts: list[Tensor] = []
        pictures, before = iter(inputs["pixel_values"]), None
        for token in inputs["input_ids"][0].tolist():
            if token != IMAGE_TOKEN:
                parts.append(model.get_input_embeddings()(torch.tensor([token])))
            elif before != IMAGE_TOKEN:
                views = torch.stack(views_of(next(pictures), partition(size[1], size[0], SIDE, 3)))
                whole, *others = model.model.get_image_features(views).pooler_output
                parts.append(whole)
                for tile in others:
                    parts += tile.view(2, 2, 2, 2, -1).mean(dim=(1, 3)).flatten(0, 1)[:, None].unbind()
            before = token
        want = model(inputs_embeds=torch.cat(parts)[None]).logits
    torch.testing.assert_close(logits[0, -1], want[0, -1], atol=1e-4, rtol=1e-4)
    each = 16 + 4 * tiles
    assert run.report.last is not None
    assert run.report.last.tokens_kept == ((each, each),)
    assert [b.role for b in run.layout.blocks[0]] == [THUMBNAIL, *[PATCH] * tiles] * 2
    assert [p.size for p in run.pictures] == [(SIDE, SIDE)] * (2 * (tiles + 1))


def test_a_batch_decodes_as_its_rows_do() -> None:
    model, batch = tiny_llava(), tiny_inputs((2, 0, 1), padding="left")
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "suppress_tokens": [IMAGE_TOKEN]}
    with torch.no_grad(), tessella.reduce(model, "adaptvision") as run:
        out = model.generate(**batch, **options)
        again = model.generate(**batch, **options, use_cache=False)
        assert [[len(k) for k in row] for row in run.kept] == [[20, 20], [], [20]]
    assert torch.equal(out, again)
    real = batch["attention_mask"][2].bool()
    alone = {"input_ids": batch["input_ids"][2:, real], "pixel_values": batch["pixel_values"][2:]}
    with torch.no_grad(), tessella.reduce(model, "adaptvision"):
        assert torch.equal(model.generate(**alone, **options)[0, -6:], out[2, -6:])


def test_the_embedded_model_reads_a_picture_twice_its_size() -> None:
    """Without resizing by the processor, and by default, where the picture is no larger than a tile."""
    model, processor = tessella.load("mini")
    item = sample("colour", 0, "test")
    text = f"<s><user><image>{item.question}<assistant>"
    picture = item.image.resize((224, 112))
    inputs = processor(
        text=text, images=picture, do_resize=False, do_center_crop=False, add_special_tokens=False, return_tensors="pt"
    )
    with torch.no_grad(), tessella.reduce(model, "adaptvision") as run:
        model(**inputs)
        assert (run.report.tokens_in, run.report.tokens_kept) == (392, 196 + 2 * 49)
    small = processor(text=text, images=item.image, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad(), tessella.reduce(model, "adaptvision") as run:
        out = model.generate(**small, max_new_tokens=4, do_sample=False)
        assert (run.report.tokens_in, run.report.tokens_kept) == (196, 196 + 49)
    words = processor.tokenizer.decode(out[0, small["input_ids"].shape[1] :], skip_special_tokens=True)
    assert words.strip() == item.answer


def test_an_odd_side_is_halved_upwards() -> None:
    model, inputs = tiny_llava(), large_inputs((21, 21))
    with torch.no_grad(), tessella.reduce(model, make("adaptvision", shard=21)) as run:
        model(**inputs)
    assert [(b.rows, b.columns) for b in run.layout.blocks[0]] == [(3, 3), (2, 2)]


def test_bad_settings_are_refused() -> None:
    for settings in ({"max_grid": 0}, {"shard": 0}):
        with pytest.raises(MethodError, match="must be at least 1; got 0"):
            make("adaptvision", **settings)
    model = tiny_llava()
    with pytest.raises(BudgetError, match="adaptvision takes no keep"):
        tessella.reduce(model, "adaptvision", keep=4)
    with tessella.reduce(model, make("adaptvision", shard=30)) as run:
        with pytest.raises(MethodError, match="shard must be a multiple of the 7 pixels of a token; got 30"):
            model(**tiny_inputs((1,)))
        assert run.num_cuts == 0
    verdict = tessella.can_apply(tiny_family("qwen2_5_vl").model(), "adaptvision")
    assert not verdict
    assert "several grids in the place of a picture" in verdict.reason
