"""prumerge against its specification: a slow reference, counts of every mode, slots, and a model fed by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tessella
from tessella.core.budget import Counts
from tessella.core.errors import BudgetError, MethodError, UnsupportedError
from tessella.core.registry import make
from tessella.core.view import Captures
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info
from tessella.testing.tiny import IMAGE_TOKEN, tiny_inputs, tiny_llava

INFO = default_info()
HEADS, WIDTH, FEATURES = 2, 4, 5


def view_of(there: list[int], seed: int) -> ArrayView:
    """Random pictures of those many patches; padding holds loud values."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(len(there), *shape, generator=generator)

    features, keys = draw(max(there), FEATURES), draw(HEADS, max(there), WIDTH)
    for b, n in enumerate(there):
        features[b, n:], keys[b, :, n:] = 50.0, 50.0
    pair = (2 * draw(HEADS, WIDTH), draw(HEADS, WIDTH))
    return ArrayView(features=features, encoder_keys=keys, class_projection=pair, num_tokens=there)


def slow(view: ArrayView, b: int, n: int, keep: int | None, plus: bool, near: int) -> tuple[list[int], Tensor]:
    """The specification in float64, one centre after the other: centres in order, and all tokens."""
    hidden = view.features()[b, :n].double()
    keys = view.encoder_keys(0)[b, :, :n].double().transpose(0, 1).reshape(n, -1)
    query, own = (t[b].double().reshape(-1) for t in view.class_projection(0))
    weight = (torch.cat([own[None], keys]) @ query / len(query) ** 0.5).softmax(dim=0)[1:]
    by_attention = sorted(range(n), key=lambda i: (-float(weight[i]), i))
    if keep is None:
        low, high = (float(torch.quantile(weight, q)) for q in (0.25, 0.75))
        count = max(1, sum(float(w) > high + 1.5 * (high - low) for w in weight))
        centres = by_attention[:count]
        if plus:
            step = max(1, int(int(1 / (count / n)) / 3))
            centres += [i for i in range(0, n - 1, step) if i not in centres]
    else:
        count = max(1, round(keep / 4)) if plus else max(1, keep - 1)
        centres = by_attention[:count]
        left = [i for i in range(n) if i not in centres]
        spaced = max(0, keep - 1 - count)
        centres += [left[int((i + 0.5) * len(left) / spaced)] for i in range(spaced)]
    unit = keys / keys.norm(dim=1, keepdim=True)
    tokens = []
    for c in centres:
        others = sorted((i for i in range(n) if i != c), key=lambda i: (-float(unit[i] @ unit[c]), i))[:near]
        tokens.append(hidden[c] + sum((weight[j] * hidden[j] for j in others), torch.zeros_like(hidden[0])))
    rest = [i for i in range(n) if i not in centres]
    if rest and (keep is None or keep > 1):
        tokens.append(sum((weight[j] * hidden[j] for j in rest), torch.zeros_like(hidden[0])))
    return centres, torch.stack(tokens)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=3), st.booleans(), st.booleans(), st.integers(0, 999))
def test_tokens_equal_the_reference_on_ragged_pictures(there: list[int], asked: bool, plus: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    view, method = view_of(there, seed), make("prumerge", plus=plus, neighbours=7)
    keep = [int(torch.randint(min(n, 2), n + 1, (1,), generator=generator)) for n in there]
    counts = Counts(tuple(keep if asked else there), tuple(there), asked)
    reduction = method.reduce(view, counts)
    assert reduction.num_kept == tuple(reduction.keep.sum(dim=1).tolist())
    assert reduction.order is not None
    assert reduction.embeddings is not None
    for b, n in enumerate(there):
        centres, tokens = slow(view, b, n, keep[b] if asked else None, plus, 7)
        size = len(tokens)
        assert reduction.num_kept[b] == size == (keep[b] if asked else size)
        rest = [i for i in range(n) if i not in centres][: size - len(centres)]  # in the first dropped slot
        assert reduction.order[b, :size].tolist() == [*centres, *rest]
        torch.testing.assert_close(reduction.embeddings[b, :size].double(), tokens, rtol=1e-4, atol=1e-5)


def test_raster_order_is_the_same_tokens_by_place() -> None:
    view, counts = view_of([40, 23], 3), Counts((9, 6), (40, 23))
    given = [make("prumerge", order=o).reduce(view, counts) for o in ("authors", "raster")]
    for b, size in enumerate(counts.num_keep):
        order, raster = (r.order[b, :size].tolist() for r in given)  # type: ignore[index]
        assert raster == sorted(order) != order
        where = [order.index(s) for s in raster]
        assert torch.equal(given[1].embeddings[b, :size], given[0].embeddings[b, where])  # type: ignore[index]


def test_a_dropped_patch_goes_to_the_most_similar_centre_that_takes_it_in() -> None:
    view, method, counts = view_of([30], 5), make("prumerge", neighbours=6), Counts((7,), (30,))
    source, order = method.reduce(view, counts).source, method.reduce(view, counts).order
    assert source is not None
    assert order is not None
    centres, rest = order[0, :6].tolist(), int(order[0, 6])
    keys = view.encoder_keys(0)[0].transpose(0, 1).reshape(30, -1)
    cosine = torch.nn.functional.cosine_similarity(keys[:, None], keys[None], dim=2)
    near = {c: sorted((i for i in range(30) if i != c), key=lambda i: -float(cosine[c, i]))[:6] for c in centres}
    for i in set(range(30)) - {*centres, rest}:
        takers = [c for c in centres if i in near[c]]
        assert source[0, i] == (max(takers, key=lambda c: float(cosine[c, i])) if takers else rest)
    assert all(source[0, i] == i for i in [*centres, rest])


def test_flat_attention_still_gives_a_centre_and_the_rest() -> None:
    """No outlier: the specification asks for at least the extra token, and one centre is forced."""
    keys = torch.ones(1, 1, 20, 4)
    view = ArrayView(
        features=torch.randn(1, 20, 3), encoder_keys=keys, class_projection=(torch.ones(1, 1, 4), keys[:, :, 0])
    )
    reduction = make("prumerge", plus=False).reduce(view, Counts((20,), (20,), asked=False))
    assert (reduction.num_kept, reduction.order.tolist()) == ((2,), [[0, 1]])  # type: ignore[union-attr]


def test_ratio_fixes_the_outliers_and_repeats_patches() -> None:
    """By `ratio` spaced patches may be outliers too; such a patch stands twice, the second in a dropped slot."""
    view, there = view_of([48], 2), Counts((48,), (48,), asked=False)
    assert make("prumerge", plus=False, ratio=0.125).reduce(view, there).num_kept == (7,)
    method: Any = make("prumerge", ratio=0.5)
    centres, num = method.centres(method.class_row(view), view.mask, Counts((48,), (48,), asked=False))
    assert num == [24 + len(range(1, 47, 2))]
    with pytest.raises(MethodError, match=r"ratio=0\.6 with plus makes \d+ tokens of 48; take less"):
        make("prumerge", ratio=0.6).reduce(view, there)
    method = make("prumerge", ratio=0.25)
    centres, _ = method.centres(method.class_row(view), view.mask, there)
    assert centres[0, 12:].tolist() == list(range(2, 47, 4))
    order, twice = method.reduce(view, there).order[0].tolist(), len(centres[0]) - len(set(centres[0].tolist()))
    dropped = [i for i in range(48) if i not in centres[0].tolist()]
    assert twice >= 1
    assert order[-1] == dropped[0]
    assert [s for s, c in zip(order, centres[0].tolist(), strict=False) if s != c] == dropped[1 : twice + 1]


def test_multihead_attention_is_the_encoders_own() -> None:
    own = torch.rand(1, 3, 9)
    method: Any = make("prumerge", attention="multihead")
    torch.testing.assert_close(method.class_row(ArrayView(class_attention={47: own})), own.mean(dim=1))
    assert method.captures(INFO) == Captures(encoder=(47,))  # the last layer, whose output nothing reads


def test_settings_that_make_no_sense() -> None:
    for change, message in (
        ({"attention": "both"}, "attention must be one of"),
        ({"order": "random"}, "order must be one of"),
        ({"neighbours": -1}, "neighbours must be >= 0; got -1"),
        ({"grid_divisor": 0}, "grid_divisor must be >= 1; got 0"),
        ({"ratio": 0.0}, "ratio is a share in"),
    ):
        with pytest.raises(MethodError, match=message):
            make("prumerge", **change)
    with pytest.raises(MethodError, match="fixes what is kept, so it takes no keep"):
        make("prumerge", ratio=0.5).reduce(view_of([9], 0), Counts((4,), (9,)))
    with pytest.raises(UnsupportedError, match="Nearest: hiprune"):
        tessella.reduce(tiny_llava("siglip"), "prumerge", keep=4)


# -- on a model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [6, None])
def test_logits_equal_a_short_prompt_made_by_hand(keep: int | None) -> None:
    """The last layer's q and k projections and the slow reference; tokens in the authors' order, places closed up."""
    model, inputs = tiny_llava(), tiny_inputs((1,))
    with torch.no_grad():
        with tessella.reduce(model, "prumerge", keep=keep) as run:
            out = model(**inputs)
        states = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states
        layer = model.model.vision_tower.encoder.layers[-1]
        normed = layer.layer_norm1(states[-2])
        query, keys = layer.self_attn.q_proj(normed)[:, 0], layer.self_attn.k_proj(normed)
        view = ArrayView(
            features=states[-2][:, 1:],
            encoder_keys=keys[:, None, 1:],
            class_projection=(query[:, None], keys[:, None, 0]),
        )
        _, tokens = slow(view, 0, 16, keep, True, 32)
        ids = inputs["input_ids"][0]
        visual = (ids == IMAGE_TOKEN).nonzero()[:, 0]
        embed = model.get_input_embeddings()
        parts = [
            embed(ids[: visual[0]]),
            model.model.multi_modal_projector(tokens.float()),
            embed(ids[visual[-1] + 1 :]),
        ]
        theirs = model(inputs_embeds=torch.cat(parts)[None]).logits
    torch.testing.assert_close(out.logits, theirs, atol=1e-4, rtol=1e-4)
    record = run.report.last
    assert record is not None
    assert record.tokens_kept == ((len(tokens),),)
    assert set(record.cache_lengths) == {len(ids) - 16 + len(tokens)}


def test_without_a_keep_a_batch_equals_its_rows() -> None:
    model, batch = tiny_llava(), tiny_inputs((1, 1), padding="left", seed=3)
    with torch.no_grad(), tessella.reduce(model, "prumerge(plus=False)") as run:
        together, kept = model(**batch).logits[:, -1], [k[0].tolist() for k in run.kept]
        for row, count in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
            single = {n: batch[n][row : row + 1, -count:] for n in ("input_ids", "attention_mask")}
            alone = model(**single, pixel_values=batch["pixel_values"][row : row + 1]).logits[0, -1]
            torch.testing.assert_close(together[row], alone, atol=1e-4, rtol=1e-4)
            assert run.kept[0][0].tolist() == kept[row]


def test_counts_that_are_asked() -> None:
    model, inputs = tiny_llava(), tiny_inputs((2, 1), padding="left")
    with torch.no_grad():
        plain = model(**inputs).logits
        with tessella.reduce(model, "prumerge", keep=1.0):
            assert torch.equal(model(**inputs).logits, plain)
        with tessella.reduce(model, "prumerge", keep=2) as run:
            model(**inputs)
        with (
            tessella.reduce(model, "prumerge", keep=1),
            pytest.raises(BudgetError, match="keep=1 asks for 1 visual token"),
        ):
            model(**inputs)
    assert run.report.last.tokens_kept == ((2, 2), (2,))  # type: ignore[union-attr]


def test_folding_takes_any_kept_set() -> None:
    """Its own centres give its own tokens, in raster order; others give what the specification makes of them."""
    there, keep = [40, 23], (9, 6)
    view, counts, method = view_of(there, 3), Counts(keep, tuple(there)), make("prumerge", order="raster")
    own, folded = method.reduce(view, counts), method.fold(method.kept(view, counts), view, counts)  # type: ignore[attr-defined]
    assert own.num_kept == folded.num_kept == keep
    assert torch.equal(own.order, folded.order)  # type: ignore[arg-type]
    assert torch.equal(own.source, folded.source)  # type: ignore[arg-type]
    for one, other, k in zip(own.embeddings, folded.embeddings, keep, strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(one[:k], other[:k])
    assert method.reserved(counts) == (1, 1)  # type: ignore[attr-defined]
    chosen = torch.zeros(2, 40, dtype=torch.bool)
    chosen[0, [3, 9, 11, 20, 21, 30, 33, 39]], chosen[1, [0, 1, 7, 15, 22]] = True, True
    out = make("prumerge").fold(chosen, view, counts)  # type: ignore[attr-defined]
    assert out.num_kept == keep
    assert out.order[0].tolist() == [3, 9, 11, 20, 21, 30, 33, 39, 0]
    assert out.order[1].tolist() == [0, 1, 7, 15, 22, 2, -1, -1, -1]
    free = Counts(tuple(there), tuple(there), asked=False)
    assert torch.equal(make("prumerge").fold(chosen, view, free).embeddings, out.embeddings)  # type: ignore[attr-defined]
