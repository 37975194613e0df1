"""globalcom2 against its specification: a slow reference over mosaics of all shapes, counts, and models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tessella
from spying import seen_by
from tessella.core.budget import Counts
from tessella.core.errors import LayoutError, MethodError, UnsupportedError
from tessella.core.layout import NEWLINE, THUMBNAIL, Block, Layout
from tessella.core.registry import make
from tessella.core.view import Captures
from tessella.models.mosaic import mosaic_footprint
from tessella.ops.mosaics import places_of
from tessella.reduction import globalcom2
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info
from tessella.testing.families import tiny_family
from tessella.testing.tiny import tiny_inputs, tiny_llava

SIDE = 6
Picture = tuple[tuple[int, int], tuple[int, int]]  # rows and columns of tiles; height and width in pixels
PICTURES: tuple[Picture, ...] = (
    ((2, 2), (60, 60)),  # nothing is padded
    ((2, 2), (40, 60)),
    ((1, 3), (50, 200)),
    ((3, 1), (160, 50)),
    ((3, 3), (20, 90)),  # the upper and lower tiles lie in the padding
    ((3, 4), (90, 30)),  # as do those at the sides
    ((1, 3), (60, 60)),  # one tile is left of three
)


def unlined(blocks: tuple[Block, ...]) -> list[Block]:
    """Blocks as a method that leaves newlines alone sees them."""
    return [Block(**{**vars(b), "newlines": False}) for b in blocks]


def view_of(pictures: list[Picture], seed: int = 0) -> ArrayView:
    """Random logits of pictures of SIDE x SIDE tokens a tile; an item's are the same alone; padding is loud."""
    blocks = [unlined(mosaic_footprint(grid, SIDE, size).blocks) for grid, size in pictures]
    there = [sum(b.num_tokens for b in row) for row in blocks]
    logits = torch.full((len(there), max(there)), 50.0)
    for row, n, picture in zip(logits, there, pictures, strict=True):
        row[:n] = 3 * torch.randn(n, generator=torch.Generator().manual_seed(seed + hash(picture) % 1000))
    return ArrayView(class_logits=logits, layout=Layout.build([range(n) for n in there], blocks))


def slow(view: ArrayView, b: int, picture: Picture, ratio: float) -> list[int]:
    """The specification in float64: tokens kept of item b, tile after tile, on the whole canvas with its padding."""
    (down, across), (height, width) = picture
    n = view.layout.num_tokens[b]
    logits = view.class_logits(0)[b, :n].double()
    thumb = logits[: SIDE**2].view(SIDE, SIDE)
    kept = sorted(range(SIDE**2), key=lambda i: -float(logits[i]))[: int(SIDE**2 * ratio)]
    step = SIDE // down, SIDE // across
    sums = []
    for i in range(down):
        for j in range(across):
            rows = slice(i * step[0], (i + 1) * step[0] if i < down - 1 else None)
            columns = slice(j * step[1], (j + 1) * step[1] if j < across - 1 else None)
            sums.append(thumb[rows, columns].sum())
    mass = ((torch.stack(sums) - max(sums)) / 10).exp()
    sigma = mass / (mass.sum() + 1e-8)
    share = (ratio * (1 + sigma - sigma.mean())).clamp(max=1)
    rows, columns = SIDE * down, SIDE * across
    if width / height > across / down:
        pad = ((rows - int(height * columns / width)) // 2, 0)
    else:
        pad = (0, (columns - int(width * rows / height)) // 2)
    left = rows - 2 * pad[0], columns - 2 * pad[1]
    guide = torch.nn.functional.interpolate(thumb[None, None], size=left, mode="bilinear", align_corners=False)[0, 0]
    for tile in range(down * across):
        i, j = divmod(tile, across)
        members = []  # index in the item, place in the picture
        for r in range(left[0]):
            for c in range(left[1]):
                if ((r + pad[0]) // SIDE, (c + pad[1]) // SIDE) == (i, j):
                    members.append((SIDE**2 + r * left[1] + c, r, c))
        if not members:
            continue
        own = torch.stack([logits[m] for m, _, _ in members])
        whole = torch.stack([guide[r, c] for _, r, c in members])
        score = own / own.norm() + whole / whole.norm()
        best = sorted(range(len(members)), key=lambda m: -float(score[m]))
        kept += [members[m][0] for m in best[: int(len(members) * share[tile])]]
    assert n == SIDE**2 + left[0] * left[1]
    return sorted(kept)


def counts_of(view: ArrayView, keep: tuple[int, ...] | None = None) -> Counts:
    there = view.layout.num_tokens
    return Counts(there, there, asked=False) if keep is None else Counts(keep, there)


def rows_of(mask: Tensor) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in mask]


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.6])
def test_counts_and_tokens_equal_the_slow_reference(ratio: float) -> None:
    """Every shape of mosaic, alone and all in one batch."""
    together = view_of(list(PICTURES))
    kept = rows_of(make("globalcom2", ratio=ratio).reduce(together, counts_of(together)).keep)
    for b, picture in enumerate(PICTURES):
        view = view_of([picture])
        alone = make("globalcom2", ratio=ratio).reduce(view, counts_of(view))
        assert kept[b] == rows_of(alone.keep)[0] == slow(together, b, picture, ratio)
        assert alone.num_kept is None


def test_the_default_ratio_is_a_quarter_and_one_keeps_everything() -> None:
    view = view_of(list(PICTURES[:3]))
    given_ratio = make("globalcom2", ratio=0.25).reduce(view, counts_of(view)).keep
    assert torch.equal(make("globalcom2").reduce(view, counts_of(view)).keep, given_ratio)
    assert torch.equal(make("globalcom2", ratio=1.0).reduce(view, counts_of(view)).keep, view.mask)


def test_the_last_cells_of_a_thumbnail_take_the_remainder() -> None:
    """Six rows are three times two; six columns are one, one, one and three."""
    places = places_of(view_of([PICTURES[5], PICTURES[0]]).layout, torch.device("cpu"))
    row = torch.tensor([0, 1, 2, 3, 3, 3])
    assert torch.equal(places.shown[0, :36].view(6, 6), torch.stack([row, row, row + 4, row + 4, row + 8, row + 8]))
    assert places.num_cells[:, 0].tolist() == [12, 4]
    assert places.cell.tolist() == [[-1, 1, 2, 5, 6, 9, 10], [-1, 0, 1, 2, 3, -1, -1]]


def test_shares_of_tiles_sum_to_the_ratio_of_each() -> None:
    view = view_of([PICTURES[0], PICTURES[4]])
    places = places_of(view.layout, torch.device("cpu"))
    share = globalcom2.retention(globalcom2.tile_factors(view.class_logits(0), places, 10.0), 0.3)
    torch.testing.assert_close(share[0, :4].sum(), torch.tensor(4 * 0.3))
    torch.testing.assert_close(share[1].sum(), torch.tensor(9 * 0.3))
    assert share[0, :4].std() > 0.01
    flat = globalcom2.tile_factors(torch.ones_like(view.class_logits(0)), places, 10.0)
    torch.testing.assert_close(flat[0, :4], torch.ones(4))
    hot = globalcom2.tile_factors(view.class_logits(0), places, 1e-3)
    torch.testing.assert_close(hot[0, :4].sort().values, torch.tensor([0.75, 0.75, 0.75, 1.75]))
    assert globalcom2.retention(hot, 0.8).max() == 1


@given(data=st.data(), which=st.lists(st.sampled_from(PICTURES), min_size=1, max_size=3))
def test_a_keep_is_met_and_follows_the_shares(data: st.DataObject, which: list[Picture]) -> None:
    view, method = view_of(which), make("globalcom2")
    keep = tuple(data.draw(st.integers(1, n)) for n in view.layout.num_tokens)
    reduction = method.reduce(view, counts_of(view, keep))
    assert reduction.num_kept == keep
    assert reduction.keep.sum(dim=1).tolist() == list(keep)
    places = places_of(view.layout, torch.device("cpu"))
    scores = method.score(view)  # type: ignore[attr-defined]
    allocation = method.allocate(scores, view, counts_of(view, keep))  # type: ignore[attr-defined]
    factor = globalcom2.tile_factors(view.class_logits(0), places, 10.0)
    for b, k in enumerate(keep):
        real = places.sizes[b] > 0
        cell = places.cell[b][real]
        weight = places.sizes[b][real] * torch.where(cell >= 0, factor[b][cell.clamp(min=0)], 1.0)
        due = weight * k / weight.sum()
        if bool((due <= places.sizes[b][real]).all()):
            assert float((allocation.quota[b][real] - due).abs().max()) < 1
        for g, quota in enumerate(allocation.quota[b].tolist()):
            mine = (places.group[b] == g).nonzero()[:, 0]
            best = mine[scores[b, mine].argsort(descending=True, stable=True)[:quota]]
            assert sorted(best.tolist()) == mine[reduction.keep[b, mine]].tolist()


def test_the_thumbnail_stands_in_its_order_or_by_score() -> None:
    view = view_of([PICTURES[1], PICTURES[0]])
    reduction = make("globalcom2", thumb_order="score").reduce(view, counts_of(view, (30, 41)))
    assert make("globalcom2").reduce(view, counts_of(view, (30, 41))).order is None
    assert reduction.order is not None
    for b, k in enumerate((30, 41)):
        kept = rows_of(reduction.keep)[b]
        first = sorted((i for i in kept if i < SIDE**2), key=lambda i: -float(view.class_logits(0)[b, i]))
        assert reduction.order[b].tolist() == first + [i for i in kept if i >= SIDE**2] + [-1] * (41 - k)


def test_grids_without_a_place_keep_the_same_share_of_each() -> None:
    """Tiles whose place is not known, and a single picture, go by their own scores."""
    tiles = [*(Block(0, 4, 4, tile=t) for t in (0, 1)), Block(0, 4, 4, tile=2, role=THUMBNAIL)]
    layout = Layout.build([range(48), range(16)], [tiles, tiles[:1]])
    view = ArrayView(class_logits=torch.randn(2, 48), layout=layout)
    logits = view.class_logits(0)
    for counts in (counts_of(view), counts_of(view, (12, 4))):
        keep = make("globalcom2").reduce(view, counts).keep
        for b, first in ((0, 0), (0, 16), (0, 32), (1, 0)):
            best = logits[b, first : first + 16].topk(4).indices
            assert rows_of(keep[:, first : first + 16])[b] == sorted(best.tolist())
    one = ArrayView(class_logits=torch.zeros(1, 2))
    assert rows_of(make("globalcom2").reduce(one, counts_of(one)).keep) == [[0]]  # int(2 R) would be none


def test_flat_logits_keep_earlier_tokens_of_every_tile_alike() -> None:
    view = view_of([PICTURES[0]])
    view._given["class_logits"] = torch.zeros(1, 180)
    quota = make("globalcom2").allocate(torch.zeros(1, 180), view, counts_of(view, (45,))).quota  # type: ignore[attr-defined]
    assert quota.tolist() == [[9, 9, 9, 9, 9]]
    assert rows_of(make("globalcom2").reduce(view, counts_of(view, (45,))).keep)[0][:9] == list(range(9))


def test_pictures_that_are_not_whole_are_refused() -> None:
    whole = view_of([PICTURES[0]])
    cut = whole.layout.gather(torch.arange(40, 150)[None], (0,))
    with pytest.raises(LayoutError, match=r"item 0 has 110 tokens of 1 picture\(s\) with 144 places"):
        places_of(cut, torch.device("cpu"))
    tiles = whole.layout.gather(torch.arange(36, 180)[None], (0,))
    with pytest.raises(LayoutError, match="tiles need their picture's thumbnail beside them; item 0 has none"):
        places_of(tiles, torch.device("cpu"))
    lined = Layout.build([range(20)], [[Block(0, 4, 4, newlines=True)]])
    two = Layout.build([range(8)], [[Block(0, 2, 2), Block(1, 2, 2)]])
    for layout in (lined, two):
        with pytest.raises(LayoutError, match="a whole picture without newlines is needed"):
            places_of(layout, torch.device("cpu"))


def test_settings_that_make_no_sense() -> None:
    for change, message in (
        ({"ratio": 0.0}, r"ratio is a share in \(0, 1\]; got 0\.0"),
        ({"temperature": 0.0}, r"temperature must be > 0; got 0\.0"),
        ({"thumb_order": "raster"}, "thumb_order must be 'spatial' or 'score'; got 'raster'"),
        ({"cls_fallback": "yes"}, "cls_fallback must be None or 'received'; got 'yes'"),
    ):
        with pytest.raises(MethodError, match=message):
            make("globalcom2", **change)
    view = view_of([PICTURES[0]])
    with pytest.raises(MethodError, match=r"ratio=0\.5 fixes what is kept, so it takes no keep"):
        make("globalcom2", ratio=0.5).reduce(view, counts_of(view, (9,)))
    with pytest.raises(UnsupportedError, match=r"globalcom2 needs a class token.*Nearest: hiprune"):
        tessella.reduce(tiny_llava("siglip"), "globalcom2", keep=4)
    assert make("globalcom2").captures(default_info()) == Captures(encoder=(47,))


# -- on models -------------------------------------------------------------------------------------------------------


def logits_by_hand(model: Any, pixels: Tensor, layer: int) -> Tensor:
    """Head-averaged logits `[items, patches]` of the class token's query in an encoder layer."""
    with torch.no_grad():
        hidden = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[layer]
        block = model.model.vision_tower.encoder.layers[layer]
        normed = block.layer_norm1(hidden)
        query, key = block.self_attn.q_proj(normed)[:, 0], block.self_attn.k_proj(normed)[:, 1:]
    heads = block.self_attn.num_heads
    return (key @ query[:, :, None])[:, :, 0] / heads / (query.shape[1] / heads) ** 0.5


def test_logits_are_those_of_each_tiles_own_class_token() -> None:
    family = tiny_family("llava_next")
    model, inputs = family.model(), family.inputs([[(90, 40), (56, 56)], [(30, 100)]])
    shown, layout = seen_by(lambda v: (v.class_logits(3), v.layout), model, inputs, layers=Captures(encoder=(3,)))
    by_hand = logits_by_hand(model, inputs["pixel_values"].flatten(0, 1), 3).view(3, -1, 16)
    pictures = {(0, 0): (0, (4, 12)), (0, 1): (1, (8, 8)), (1, 0): (2, (12, 4))}
    for (row, image), (number, (rows, columns)) in pictures.items():
        mine = (layout.image[row] == image) & (layout.role[row] != NEWLINE)
        first = by_hand[number, 0]
        torch.testing.assert_close(shown[row][mine & (layout.tile[row] == 0)], first, atol=1e-5, rtol=1e-4)
        tiles = by_hand[number, 1:].view(-1, 4, 4)[: rows * columns // 16]
        canvas = tiles.unflatten(0, (rows // 4, columns // 4)).transpose(1, 2).reshape(rows, columns)
        left = int((mine & (layout.tile[row] > 0)).sum())
        cut = (columns - left // rows) // 2 if columns > rows or rows == columns else 0
        expected = canvas[:, cut : columns - cut].reshape(-1)
        torch.testing.assert_close(shown[row][mine & (layout.tile[row] > 0)], expected, atol=1e-5, rtol=1e-4)


def test_a_model_keeps_what_its_logits_say_and_every_newline() -> None:
    """Three tiles keep one token each, so that a line is left with its newline alone."""
    family = tiny_family("llava_next")
    model, inputs = family.model(), family.inputs([[(90, 40)]])
    with torch.no_grad(), tessella.reduce(model, "globalcom2(ratio=0.1)") as run:
        model(**inputs)
    logits = seen_by(lambda v: v.class_logits(3), model, inputs, layers=Captures(encoder=(3,)))
    layout = run.layout
    real = (layout.role[0] != NEWLINE).nonzero()[:, 0]
    bare = [unlined(layout.blocks[0])]
    view = ArrayView(class_logits=logits[:, real], layout=Layout.build([layout.slot[0, real]], bare))
    kept = real[make("globalcom2", ratio=0.1).reduce(view, counts_of(view)).keep[0]]
    newlines = (layout.role[0] == NEWLINE).nonzero()[:, 0]
    grid_by_grid = torch.argsort(layout.tile[0], stable=True)
    expected = torch.isin(grid_by_grid, torch.cat([kept, newlines])).nonzero()[:, 0]
    assert run.kept[0][0].tolist() == expected.tolist()
    assert run.report.tokens_kept == len(kept) + 4
    assert run.report.roles["newline"].kept == 4


def test_a_single_picture_keeps_its_best_by_the_last_layer() -> None:
    model, inputs = tiny_llava(), tiny_inputs((1,))
    logits = logits_by_hand(model, inputs["pixel_values"], 3)[0]
    with torch.no_grad(), tessella.reduce(model, "globalcom2", keep=5) as run:
        model(**inputs)
    assert run.kept[0][0].tolist() == sorted(logits.topk(5).indices.tolist())


def test_attention_received_stands_in_where_it_is_asked() -> None:
    family = tiny_family("llava_onevision")
    model, inputs = family.model(), family.inputs([[(70, 70)]])
    with torch.no_grad(), tessella.reduce(model, "globalcom2(cls_fallback='received')", keep="1/4") as run:
        model(**inputs)
    assert run.report.tokens_kept - run.report.roles["newline"].kept == round((135 - 10) / 4)
    assert "globalcom2: attention received stands in for the class token" in run.report.notes
