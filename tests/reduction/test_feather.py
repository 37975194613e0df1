"""feather against its specification: a slow reference, the grid, counts, and a tiny model cut by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tessella
from tessella.core.budget import Budget, Counts
from tessella.core.errors import BudgetError, MethodError, UnsupportedError
from tessella.core.layout import Block, Layout
from tessella.core.model_info import PaperLayer
from tessella.core.registry import make
from tessella.core.view import Captures
from tessella.engine.plan import solve_layer_mean
from tessella.models.adapter import find_adapter
from tessella.reduction.feather import cube_root, lattice
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info
from tessella.testing.tiny import IMAGE_TOKEN, NUM_VISUAL, tiny_inputs, tiny_llava

INFO = default_info()
FIRST, BEHIND = 2, 3  # text in front of the pictures and behind


def view_of(layout: Layout, generator: torch.Generator, heads: int = 4, groups: int = 2) -> ArrayView:
    """Random queries and keys of a prompt with that layout; padding holds loud values."""
    lengths = [int(s.max()) + 1 + BEHIND for s in layout.slot]
    query = torch.randn(len(lengths), heads, max(lengths), 8, generator=generator)
    key = torch.randn(len(lengths), groups, max(lengths), 8, generator=generator)
    for row, length in enumerate(lengths):
        query[row, :, length:], key[row, :, length:] = 40.0, 40.0
    embeddings = torch.zeros(*layout.slot.shape, 1)
    return ArrayView(projection=(query, key), lengths=lengths, embeddings=embeddings, layout=layout)


def slow_scores(query: Tensor, key: Tensor, last: int, slots: list[int]) -> list[float]:
    """Steps 1 and 2 of the specification in float64, one head and one token after the other."""
    total = [0.0] * len(slots)
    for head in range(len(query)):
        q = query[head, last].double()
        k = key[head * len(key) // len(query)].double()
        logits = torch.stack([(q * k[s]).sum() / len(q) ** 0.5 for s in slots])
        shares = logits.exp() / logits.exp().sum()
        total = [t + float(s) / len(query) for t, s in zip(total, shares, strict=True)]
    return total


def best(scores: list[float], count: int) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count]


def slow_grid(grid: tuple[int, int], num_top: int) -> set[int]:
    """The stride-3 grid, widened while it has more than half of `num_top` tokens."""
    for stride in range(3, max(3, *grid) + 1):
        out = {r * grid[1] + c for r in range(0, grid[0], stride) for c in range(0, grid[1], stride)}
        if len(out) <= num_top / 2:
            return out
    return set()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 9)), min_size=1, max_size=3), st.integers(0, 999))
def test_both_cuts_equal_the_reference_on_ragged_grids(grids: list[tuple[int, int]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    there = tuple(r * c for r, c in grids)
    layout = Layout.build([range(FIRST, FIRST + n) for n in there], [[Block(0, *g)] for g in grids])
    view, method = view_of(layout, generator), make("feather")
    keep = tuple(int(torch.randint(1, n + 1, (1,), generator=generator)) for n in there)
    first, second = method.steps(INFO, Budget(1))
    kept1 = first.reduce(view, Counts(keep, there)).keep
    kept2 = second.reduce(view, Counts(keep, there)).keep
    scores = method.score(view, 7)  # type: ignore[attr-defined]
    query, key = view.project(7, rotate=False)
    for b, (grid, k, n) in enumerate(zip(grids, keep, there, strict=True)):
        slow = slow_scores(query[b], key[b], FIRST + n + BEHIND - 1, list(range(FIRST, FIRST + n)))
        torch.testing.assert_close(scores[b, :n].double(), torch.tensor(slow).double(), rtol=1e-4, atol=1e-6)
        num_top = max(i for i in range(n + 1) if i**3 <= k * n * n)
        assert kept1[b].nonzero()[:, 0].tolist() == sorted({*best(slow, num_top), *slow_grid(grid, num_top)})
        assert kept2[b].nonzero()[:, 0].tolist() == sorted(best(slow, k))


def test_identical_keys_give_uniform_scores() -> None:
    """No place is preferred: without rotary embedding the score knows no position."""
    view = view_of(Layout.single(1, 6, 7, FIRST), torch.Generator().manual_seed(0))
    query, key = view.project(0, rotate=False)
    same = ArrayView(
        projection=(query, key[:, :, :1].expand_as(key)), embeddings=torch.zeros(1, 42, 1), layout=view.layout
    )
    torch.testing.assert_close(make("feather").score(same, 7), torch.full((1, 42), 1 / 42))  # type: ignore[attr-defined]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.sampled_from([0.1, 0.3, 0.5]), st.integers(0, 99))
def test_the_first_cut_keeps_every_grid_token(rows: int, columns: int, stride: int, rho: float, seed: int) -> None:
    layout = Layout.single(1, rows, columns, FIRST)
    view, there = view_of(layout, torch.Generator().manual_seed(seed)), rows * columns
    method = make("feather", rho=rho, stride=stride)
    counts = Counts((there,), (there,), asked=False)
    kept = set(method.reduce(view, counts).keep[0].nonzero()[:, 0].tolist())
    grid = {r * columns + c for r in range(0, rows, stride) for c in range(0, columns, stride)}
    assert grid <= kept
    assert int(there * rho) <= len(kept) <= int(there * rho) + len(grid)
    again = method.reduce_again(view, counts)  # type: ignore[attr-defined]
    assert again.num_kept == (int(there * rho**2),) == tuple(again.keep.sum(dim=1).tolist())


def test_the_grid_is_widened_where_too_little_is_kept() -> None:
    method, layout = make("feather"), Layout.single(1, 27, 27)

    def sizes(*num_top: int) -> list[int]:
        return [int(method.grid(layout, [n]).sum()) for n in num_top]  # type: ignore[attr-defined]

    # 9 x 9 to 162, then strides 4, 5, ... up to the corner alone, which is more than half of 1
    assert sizes(729, 162, 161, 98, 97, 72, 71, 3, 2, 1, 0) == [81, 81, 49, 49, 36, 36, 25, 1, 1, 0, 0]
    assert int(make("feather", stride=3).grid(layout, [10]).sum()) == 81  # type: ignore[attr-defined]


def test_grids_of_several_tiles_have_their_own_rows_and_columns() -> None:
    """Two tiles, one with newline tokens, and a thumbnail: each starts its own grid, newlines are never in it."""
    blocks = [Block(0, 4, 5, newlines=True), Block(0, 2, 4, tile=1), Block(0, 3, 3, tile=2, role=2)]
    layout = Layout.build([range(41)], [blocks])
    on = lattice(layout, 3)[0].nonzero()[:, 0].tolist()
    assert on == [0, 3, 18, 21, 24, 27, 32]  # rows 0 and 3 of width 6; then 24 + (0, 3); then 32
    whole = lattice(layout.split("tile").layout, 3)
    assert [row.nonzero()[:, 0].tolist() for row in whole] == [[0, 3, 18, 21], [0, 3], [0]]
    assert lattice(layout, 5)[0].nonzero()[:, 0].tolist() == [0, 24, 32]  # column 5 of the first is a newline


def test_cube_root_is_exact() -> None:
    assert [cube_root(i**3) for i in range(3000)] == list(range(3000))
    assert [cube_root(i**3 - 1) for i in range(1, 3000)] == list(range(2999))


def test_without_a_keep_the_papers_share_decides() -> None:
    layout = Layout.single(1, 27, 27)
    view, counts = view_of(layout, torch.Generator().manual_seed(1)), Counts((729,), (729,), asked=False)
    free, paper = make("feather").reduce(view, counts), make("feather", rho=0.3, stride=3).reduce(view, counts)
    assert torch.equal(free.keep, paper.keep)
    assert 218 <= int(free.keep.sum()) <= 218 + 81
    assert make("feather").num_top(counts) == [218]  # type: ignore[attr-defined]


def test_settings_and_layers() -> None:
    method = make("feather")
    steps = method.steps(INFO, Budget(5))
    assert [(s.stage, s.at_layer, s.captures, s.promised_count) for s in steps] == [
        ("prefill", 8, Captures(decoder_inputs=(7,)), "adaptive"),
        ("prefill", 16, Captures(decoder_inputs=(15,)), "exact"),
    ]
    assert [s.promised_count for s in method.steps(INFO, None)] == ["adaptive", "adaptive"]
    fitted: Any = method.fit(dataclasses.replace(INFO, num_layers=8))
    assert (fitted.at_layer, fitted.second_layer) == (2, 4)
    assert isinstance(method.at_layer, PaperLayer)  # type: ignore[attr-defined]
    with pytest.raises(
        UnsupportedError, match="feather: second_layer=2 is not a layer of this decoder; it has 2 layers"
    ):
        method.fit(dataclasses.replace(INFO, num_layers=2))
    with pytest.raises(MethodError, match="1 <= at_layer < second_layer; got 20 and 16"):
        make("feather", at_layer=20)
    with pytest.raises(MethodError, match="got 0 and 16"):
        make("feather", at_layer=0)
    with pytest.raises(MethodError, match=r"rho is a share in \(0, 1\]; got 1.5"):
        make("feather", rho=1.5)
    with pytest.raises(MethodError, match="stride must be >= 1; got 0"):
        make("feather", stride=0)
    with pytest.raises(BudgetError, match=r"rho=0\.5 fixes what is kept, so it takes no keep; got 64"):
        make("feather", rho=0.5).steps(INFO, Budget(64))


def test_layer_mean_counts_the_grid() -> None:
    """On the paper's model a mean of 36 % leaves about 20 tokens: the first cut keeps 219 and part of an 81-grid."""
    adapter, layout = find_adapter(tiny_llava(num_layers=32)), Layout.single(2, 27, 27)
    means = {}
    for k in range(1, 730):
        top = next(i for i in range(729, 0, -1) if i**3 <= k * 729**2)
        grid = len(slow_grid((27, 27), top))
        means[k] = (8 * 729 + 8 * (top + grid * (1 - top / 729)) + 16 * k) / 32 / 729
    for target in (0.3, 0.36, 0.5, 0.9):
        want = min(means, key=lambda k: abs(means[k] - target))
        budget = solve_layer_mean(make("feather"), adapter, Budget(target), layout)
        assert budget.keep * 729 == want, target  # type: ignore[operator]
    with pytest.raises(BudgetError, match="out of reach for feather"):
        solve_layer_mean(make("feather"), adapter, Budget(0.25), layout)


# -- on a model ------------------------------------------------------------------------------------------------------


def test_counts_caches_and_report_on_a_model() -> None:
    """Two pictures in one row, one in the next: exact counts, and what each layer holds is what the report says."""
    model, inputs = tiny_llava(num_layers=8), tiny_inputs((2, 1), padding="left")
    with torch.no_grad(), tessella.reduce(model, "feather", keep=5) as run:
        out = model(**inputs)
    assert run.report.notes == ("feather: layers fitted to this model: at_layer=2, second_layer=4",)
    record = run.report.last
    assert record is not None
    assert record.tokens_kept == ((5, 5), (5,))
    assert record.layers[:2] == (48, 48)
    assert record.layers[4:] == (15, 15, 15, 15)
    num_top = cube_root(5 * 16 * 16)  # 10 of 16, and a 2 x 2 grid
    assert 3 * num_top <= record.layers[2] == record.layers[3] <= 3 * (num_top + 4)
    lengths = [layer.keys.shape[-2] for layer in out.past_key_values.layers]
    assert list(record.cache_lengths) == lengths
    size = inputs["input_ids"].shape[1]
    assert lengths[0] == lengths[1] == size
    # the longer of the rows, of which the second has prompt padding in place of a picture
    assert lengths[4] == lengths[7] == max(size - 2 * NUM_VISUAL + 10, size - NUM_VISUAL + 5)


def test_a_fraction_is_of_all_tokens_not_of_those_left() -> None:
    model, inputs = tiny_llava(), tiny_inputs((1,))
    with torch.no_grad(), tessella.reduce(model, "feather", keep=0.25) as run:
        model(**inputs)
    assert run.report.last.tokens_kept == ((4,),)  # type: ignore[union-attr]


def test_layer_mean_on_a_model() -> None:
    model, inputs = tiny_llava(num_layers=8), tiny_inputs((1,))
    with torch.no_grad(), tessella.reduce(model, "feather", keep=0.6, scope="layer-mean") as run:
        model(**inputs)
    assert abs(run.report.mean_keep_ratio - 0.6) < 0.04


def test_rho_on_a_model_keeps_shares() -> None:
    model, inputs = tiny_llava(), tiny_inputs((1, 1), padding="left")
    with torch.no_grad(), tessella.reduce(model, "feather(rho=0.5, stride=4)") as run:
        model(**inputs)
    first, last = run._wiring.prompt.segments[1:]  # type: ignore[union-attr]
    assert all(8 <= n <= 9 for n in first.num_visual)
    assert last.num_visual == tuple(int(n * 0.25) for n in first.num_visual)


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize(("encoder", "attention"), [("clip", "sdpa"), ("siglip", "eager")])
def test_logits_equal_a_sequence_cut_by_hand(encoder: Any, attention: str, positions: Any) -> None:
    """The kept tokens by the slow reference, from the hidden states in front of layers 1 and 2."""
    model, inputs = tiny_llava(encoder, attention=attention), tiny_inputs((1,))
    embed, decoder = model.get_input_embeddings(), model.model.language_model
    with torch.no_grad():
        with tessella.reduce(model, "feather(second_layer=3)@2", keep=4, positions=positions) as run:
            ours = model(**inputs).logits[0]
        ids = inputs["input_ids"][0]
        hidden = embed(ids).clone()
        visual = (ids == IMAGE_TOKEN).nonzero()[:, 0]
        hidden[visual] = model.model.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output[0]
        slots = list(range(len(ids)))
        num_top, before = cube_root(4 * 16 * 16), hidden
        for number, layer in enumerate(decoder.layers):
            if number in (2, 3):  # by the input of the layer before, which has the same tokens
                here = [i for i, s in enumerate(slots) if s in visual]
                attend, normed = (
                    decoder.layers[number - 1].self_attn,
                    decoder.layers[number - 1].input_layernorm(before),
                )
                query, key = (p(normed).unflatten(1, (-1, 8)).transpose(0, 1) for p in (attend.q_proj, attend.k_proj))
                scores = slow_scores(query, key, len(slots) - 1, here)
                grid = slow_grid((4, 4), num_top)
                chosen = {*best(scores, num_top), *grid} if number == 2 else set(best(scores, 4))
                stay = [i for i in range(len(slots)) if i not in here or here.index(i) in chosen]
                hidden, slots = hidden[stay], [slots[i] for i in stay]
            places = torch.tensor(slots if positions == "original" or number < 2 else range(len(slots)))[None]
            mask = torch.full((len(slots), len(slots)), torch.finfo(hidden.dtype).min).triu(1)[None, None]
            before = hidden
            rotary = decoder.rotary_emb(hidden[None], places)
            hidden = layer(hidden[None], attention_mask=mask, position_embeddings=rotary)[0]
        theirs = model.lm_head(decoder.norm(hidden))
    kept = (visual[run.kept[0][0]]).tolist()
    assert kept == [s for s in slots if s in visual]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_keep_everything_and_pipelines() -> None:
    """1.0 is the untouched model bit for bit; behind another cut the grid is what is left of it."""
    model, inputs = tiny_llava(), tiny_inputs((1, 1), padding="left")
    with torch.no_grad():
        plain = model(**inputs).logits
        with tessella.reduce(model, "feather", keep=1.0) as run:
            assert torch.equal(model(**inputs).logits, plain)
        assert run.num_cuts == 2
        with tessella.reduce(model, "uniform:8 | feather:3") as run:
            model(**inputs)
        with tessella.reduce(model, "uniform:8 | feather:0.5") as half:
            model(**inputs)
    assert run.report.last.tokens_kept == ((3,), (3,))  # type: ignore[union-attr]
    assert half.report.last.tokens_kept == ((4,), (4,))  # type: ignore[union-attr]  # of the 8 that enter
