"""visiondrop against its specification: a slow reference of both kinds of cut, schedules, and models cut by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

import tessella
from tessella.core.budget import Budget, Counts
from tessella.core.errors import BudgetError, MethodError, UnsupportedError
from tessella.core.layout import Block, Layout
from tessella.core.registry import make
from tessella.core.view import Captures
from tessella.engine.plan import solve_layer_mean
from tessella.models.adapter import find_adapter
from tessella.ops import attention
from tessella.reduction.visiondrop import schedule
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info
from tessella.testing.families import tiny_family
from tessella.testing.random_view import Item, random_view
from tessella.testing.tiny import IMAGE_TOKEN, tiny_inputs, tiny_llava

INFO = default_info()
FIRST, BEHIND = 2, 3  # text in front of the pictures and behind
NO_LAYERS: tuple[int, ...] = ()


def free(*there: int) -> Counts:
    """No keep: the method's own numbers decide."""
    return Counts(there, there, asked=False)


def by_score(scores: list[float], count: int) -> list[int]:
    return sorted(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count])


def slow_received(query: Tensor, key: Tensor, places: list[int], seen: list[int], causal: bool) -> list[float]:
    """Steps 4 and 5 of the specification in float64, one head and one query after the other."""
    total = [0.0] * len(places)
    for head in range(len(query)):
        k = key[head * len(key) // len(query)].double()
        for p in places:
            near = [s for s in seen if s <= p or not causal]
            shares = dict(
                zip(near, (k[near] @ query[head, p].double() / k.shape[1] ** 0.5).softmax(dim=0), strict=True)
            )
            total = [t + float(shares.get(s, 0)) for t, s in zip(total, places, strict=True)]
    return [t / len(query) / len(places) for t in total]


def slow_merge(
    tokens: Tensor, keys: Tensor, scores: list[float], num_dominant: int, num_contextual: int
) -> tuple[list[int], list[int], Tensor]:
    """Kept tokens, centres, and their vectors, all in float64."""
    kept = by_score(scores, num_dominant)
    rest = [i for i in range(len(tokens)) if i not in kept]
    centres = rest[:: max(1, len(rest) // max(1, num_contextual))][:num_contextual]
    unit = torch.nn.functional.normalize(keys.double(), dim=1)
    out = [tokens[i].double() for i in kept]
    near = {i: centres[int((unit[centres] @ unit[i]).argmax())] for i in rest if i not in centres} if centres else {}
    for c in centres:
        members = [tokens[i].double() for i, to in near.items() if to == c]
        out.append(tokens[c].double() + sum(members, torch.zeros_like(out[0])) / max(1, len(members)))
    return kept, centres, torch.stack(out)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.booleans(), st.integers(1, 3), st.integers(0, 999))
def test_a_cut_inside_equals_the_reference_on_ragged_batches(
    there: list[int], causal: bool, number: int, seed: int
) -> None:
    """Padding of the sequence holds loud values, and queries share keys in pairs."""
    generator = torch.Generator().manual_seed(seed)
    layout = Layout.build([range(FIRST, FIRST + n) for n in there], [[Block(0, 1, n)] for n in there])
    lengths = [FIRST + n + BEHIND for n in there]
    query, key = (torch.randn(len(there), heads, max(lengths), 8, generator=generator) for heads in (4, 2))
    embeddings = torch.randn(len(there), max(there), 6, generator=generator)
    for row, (length, n) in enumerate(zip(lengths, there, strict=True)):
        query[row, :, length:], key[row, :, length:], embeddings[row, n:] = 40.0, 40.0, 40.0
    view = ArrayView(projection=(query, key), lengths=lengths, embeddings=embeddings, layout=layout)
    method: Any = make("visiondrop", causal=causal)
    keep = tuple(int(torch.randint(1, n + 1, (1,), generator=generator)) for n in there)
    out = method.reduce_inside(number, view, Counts(keep, tuple(there)))
    received, _ = method.score_inside(view, 8)
    for b, n in enumerate(there):
        places, seen = list(range(FIRST, FIRST + n)), list(range(lengths[b]))
        scores = slow_received(query[b], key[b], places, seen, causal)
        torch.testing.assert_close(received[b, :n].double(), torch.tensor(scores).double(), rtol=1e-4, atol=1e-7)
        total = min(n, schedule(keep[b], 3)[number])
        merged = 0 if total == n else min(round(total / 7.5), total - 1)
        kept, centres, tokens = slow_merge(
            embeddings[b, :n], key[b, :, places].mean(dim=0), received[b, :n].tolist(), total - merged, merged
        )
        assert out.num_kept[b] == total
        assert out.order[b, :total].tolist() == kept + centres
        torch.testing.assert_close(out.embeddings[b, :total].double(), tokens, rtol=1e-4, atol=1e-5)
        assert torch.equal(out.embeddings[b, : len(kept)], embeddings[b, kept])


@pytest.mark.parametrize("block", [1, 3, 7, 100])
def test_blocks_of_queries_give_the_same(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, places = torch.randn(2, 4, 7, 8), torch.randn(2, 2, 9, 8), torch.arange(9).expand(2, -1)
    whole = attention.attention_from(query, key, 0.3, places[:, :7], places)
    torch.testing.assert_close(attention.attention_from(query, key, 0.3, places[:, :7], places, block=block), whole)
    sizes = []
    real = attention.attention_rows
    monkeypatch.setattr(attention, "CPU_BLOCK_ELEMENTS", 2 * 4 * 9 * 2)
    monkeypatch.setattr(attention, "attention_rows", lambda *a: sizes.append(a[0].shape[2]) or real(*a))
    torch.testing.assert_close(attention.attention_from(query, key, 0.3, places[:, :7], places), whole)
    assert sizes == [2, 2, 2, 1]


def test_tokens_are_read_in_the_order_of_the_sequence() -> None:
    """Behind a cut under compact positions merged tokens stand last, whatever slot they have."""
    there = 30
    view = random_view([Item(5, 6, seed=3)], Captures())
    moved = torch.randperm(there, generator=torch.Generator().manual_seed(1))
    place = view.places("visual")[:, moved]
    method: Any = make("visiondrop", layers=(9,), dominant=(20, 8), contextual=(4, 3))
    straight = method.reduce_inside(1, view, free(there))
    shuffled = random_view([Item(5, 6, seed=3)], Captures())
    shuffled._given["embeddings"] = view.tokens.embeddings[:, moved]
    shuffled.places = lambda of: place if of == "visual" else view.places(of)  # type: ignore[method-assign]
    out = method.reduce_inside(1, shuffled, free(there))
    assert moved[out.order[0]].tolist() == straight.order[0].tolist()
    torch.testing.assert_close(out.embeddings, straight.embeddings)
    assert moved[out.source[0]].tolist() == [int(straight.source[0, i]) for i in moved]
    assert torch.equal(out.keep[0], straight.keep[0, moved])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=3), st.integers(0, 99))
def test_without_layers_it_is_visionzip(grids: list[tuple[int, int]], seed: int) -> None:
    items = [Item(*grid, seed=seed + i) for i, grid in enumerate(grids)]
    there = tuple(i.num_tokens for i in items)
    generator = torch.Generator().manual_seed(seed)
    counts = Counts(tuple(int(torch.randint(1, n + 1, (1,), generator=generator)) for n in there), there)
    view = random_view(items, Captures(encoder=(22,), class_features=True))
    ours, theirs = (m.reduce(view, counts) for m in (make("visiondrop", layers=NO_LAYERS), make("visionzip")))
    for name in ("keep", "num_kept", "order", "source", "embeddings", "space"):
        one, other = getattr(ours, name), getattr(theirs, name)
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other, name


def test_lists_at_the_connector_are_visionzips_with_the_same_numbers() -> None:
    view = random_view([Item(10, 10), Item(8, 9)], Captures(encoder=(22,), class_features=True))
    ours = make("visiondrop").reduce(view, free(100, 72))
    theirs = make("visionzip", contextual=6).reduce(view, Counts((48, 48), (100, 72)))
    assert ours.num_kept == (48, 48)
    assert torch.equal(ours.embeddings, theirs.embeddings)  # type: ignore[arg-type]
    assert torch.equal(ours.order, theirs.order)  # type: ignore[arg-type]


# -- schedules -------------------------------------------------------------------------------------------------------


def test_schedules() -> None:
    assert schedule(19, 3) == (48, 35, 26, 19)  # the paper's
    assert schedule(0, 3) == (0, 0, 0, 0)
    assert schedule(1, 3) == (1, 1, 1, 1)
    assert schedule(40, 0) == (40,)
    for cuts in range(4):
        for last in range(1, 600):
            counts = schedule(last, cuts)
            first = counts[0]
            assert counts[-1] == last
            assert list(counts) == [max(1, round(first * 0.73**i)) for i in range(cuts + 1)]
            assert last == 1 or round((first - 1) * 0.73**cuts) < last  # no smaller start ends there


@pytest.mark.parametrize("mean", [32, 64, 128, 192])
def test_a_mean_is_met_on_the_papers_model(mean: int) -> None:
    """N_0 is about 1.5 N, as the specification has it for four equal blocks of layers; for 32 the paper's numbers."""
    adapter, layout = find_adapter(tiny_llava(num_layers=32)), Layout.single(1, 24, 24)
    method: Any = make("visiondrop").fit(adapter.info)
    budget = solve_layer_mean(method, adapter, Budget(mean), layout)
    counts = Counts((round(budget.keep * 576),), (576,))
    totals = [method.planned(n, counts)[0][0] for n in range(4)]
    assert abs(sum(totals) / 4 - mean) <= 0.9
    assert abs(totals[0] - 1.5 * mean) <= 3
    if mean == 32:
        assert totals == [48, 35, 26, 19]
        assert [method.planned(n, counts)[1][0] for n in range(4)] == [6, 5, 3, 3]


def test_settings_that_make_no_sense() -> None:
    for change, message in (
        ({"layers": (9, 8)}, r"layers must ascend, from 1 on; got \(9, 8\)"),
        ({"layers": (0,)}, "layers must ascend, from 1 on"),
        (
            {"dominant": (4, 3, 2, 1)},
            r"one number each for the connector and for 3 layers; got \(4, 3, 2, 1\) and None",
        ),
        ({"dominant": (4, 3), "contextual": (1, 1)}, "one number each"),
        ({"layers": (3,), "dominant": (4, 5), "contextual": (1, 1)}, "together no more than before"),
        ({"layers": (3,), "dominant": (4, 0), "contextual": (1, 1)}, "dominant >= 1"),
        ({"cls_fallback": "mean"}, "cls_fallback must be None or 'received'; got 'mean'"),
    ):
        with pytest.raises(MethodError, match=message):
            make("visiondrop", **change)
    lists = make("visiondrop", layers=(3,), dominant=(6, 3), contextual=(2, 1))
    with pytest.raises(BudgetError, match=r"dominant=\(6, 3\) fixes what is kept; leave out the keep of 8"):
        lists.steps(INFO, Budget(8))
    with pytest.raises(BudgetError, match="needs a keep, or dominant and contextual"):
        make("visiondrop", layers=(3,)).steps(INFO, None)
    with pytest.raises(BudgetError, match="42 dominant and 6 contextual tokens of a picture that has 40; give a keep"):
        make("visiondrop").reduce(random_view([Item(5, 8)], Captures(encoder=(22,), class_features=True)), free(40))


def test_layers_of_the_paper_scale_and_the_users_stand() -> None:
    small = dataclasses.replace(INFO, num_layers=8)
    fitted: Any = make("visiondrop").fit(small)
    assert fitted.layers == (2, 4, 6)
    assert make("visiondrop").fit(INFO) == make("visiondrop")
    with pytest.raises(UnsupportedError, match=r"visiondrop: layers\[1\]=9 is not a layer of this decoder; it has 8"):
        make("visiondrop", layers=(3, 9)).fit(small)
    steps = make("visiondrop").steps(INFO, Budget(5))
    assert [(s.stage, s.at_layer, s.promised_count, s.of_first) for s in steps] == [
        ("connector", 0, "adaptive", False),
        ("prefill", 8, "adaptive", True),
        ("prefill", 16, "adaptive", True),
        ("prefill", 24, "exact", True),
    ]
    assert steps[0].captures == Captures(encoder=(22,), class_features=True)


# -- on a model ------------------------------------------------------------------------------------------------------

LISTS: dict[str, Any] = {"layers": (1, 3), "dominant": (8, 5, 3), "contextual": (3, 2, 1)}


def connector_by_hand(model: Any, pixels: Tensor) -> tuple[list[int], Tensor]:
    """Slots within the picture of the tokens that the connector step leaves, and the tokens, in the authors' order."""
    tower = model.model.vision_tower
    states = tower(pixels, output_hidden_states=True).hidden_states
    attend, normed = tower.encoder.layers[2].self_attn, tower.encoder.layers[2].layer_norm1(states[2])
    query, keys = attend.q_proj(normed)[0].unflatten(1, (4, 8)), attend.k_proj(normed)[0].unflatten(1, (4, 8))
    row = torch.stack([(keys[:, h] @ query[0, h] / 8**0.5).softmax(dim=0)[1:] for h in range(4)]).sum(dim=0)
    kept, centres, tokens = slow_merge(states[3][0, 1:], keys[1:].mean(dim=1), row.tolist(), 7, 3)
    rest = next(i for i in range(16) if i not in kept and i not in centres)
    tokens = torch.cat([states[3][0, :1].double(), tokens])
    return [rest, *kept, *centres], model.model.multi_modal_projector(tokens.float())


def logits_by_hand(model: Any, ids: Tensor, pixels: Tensor, positions: str) -> tuple[Tensor, list[int]]:
    """Layer after layer on sequences that get shorter, with the positions of each; and the slots left at the end."""
    decoder = model.model.language_model
    visual = (ids == IMAGE_TOKEN).nonzero()[:, 0].tolist()
    local, tokens = connector_by_hand(model, pixels)
    here = [visual[i] for i in local]  # slots of the visual tokens, in the order of the sequence
    text = {i: model.get_input_embeddings()(ids[i]) for i in range(len(ids)) if i not in visual}

    def in_order(slots: list[int], vectors: Tensor) -> tuple[list[int], Tensor]:
        order = range(len(slots)) if positions == "compact" else sorted(range(len(slots)), key=lambda i: slots[i])
        return [slots[i] for i in order], vectors[list(order)]

    here, tokens = in_order(here, tokens)
    before, behind = [i for i in text if i < visual[0]], [i for i in text if i > visual[-1]]
    slots = [*before, *here, *behind]
    hidden = torch.stack([*(text[i] for i in before), *tokens, *(text[i] for i in behind)])
    for number, layer in enumerate(decoder.layers):
        where = torch.tensor(slots if positions == "original" else range(len(slots)))[None]
        rotary = decoder.rotary_emb(hidden[None], where)
        if number in LISTS["layers"]:
            cut = LISTS["layers"].index(number) + 1
            first, count = len(before), len(here)
            attend, normed = layer.self_attn, layer.input_layernorm(hidden)
            query, key = (p(normed).unflatten(1, (-1, 8)).transpose(0, 1)[None] for p in (attend.q_proj, attend.k_proj))
            query, key = (t[0] for t in apply_rotary_pos_emb(query, key, *rotary))
            places = list(range(first, first + count))
            scores = slow_received(query, key, places, list(range(len(slots))), True)
            num = LISTS["dominant"][cut], LISTS["contextual"][cut]
            kept, centres, tokens = slow_merge(hidden[places], key[:, places].mean(dim=0), scores, *num)
            here, tokens = in_order([here[i] for i in kept + centres], tokens.float())
            slots = [*before, *here, *behind]
            hidden = torch.cat([hidden[:first], tokens, hidden[first + count :]])
            where = torch.tensor(slots if positions == "original" else range(len(slots)))[None]
            rotary = decoder.rotary_emb(hidden[None], where)
        mask = torch.full((len(slots), len(slots)), torch.finfo(hidden.dtype).min).triu(1)[None, None]
        hidden = layer(hidden[None], attention_mask=mask, position_embeddings=rotary)[0]
    return model.lm_head(decoder.norm(hidden)), here


@pytest.mark.parametrize("positions", ["compact", "original"])
@pytest.mark.parametrize("attending", ["sdpa", "eager"])
def test_logits_and_eight_tokens_equal_a_model_cut_by_hand(attending: str, positions: Any) -> None:
    model, inputs = tiny_llava(attention=attending), tiny_inputs((1,))
    with torch.no_grad():
        with tessella.reduce(model, make("visiondrop", **LISTS), positions=positions) as run:
            ours = model(**inputs).logits[0]
            kept = run.kept[0][0].tolist()
            assert run.report.last.layers == (11, 7, 7, 4)  # type: ignore[union-attr]
            written = model.generate(**inputs, max_new_tokens=8, do_sample=False, suppress_tokens=[IMAGE_TOKEN])[0]
        ids = inputs["input_ids"][0]
        theirs, here = logits_by_hand(model, ids, inputs["pixel_values"], positions)
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        first = int((ids == IMAGE_TOKEN).nonzero()[0])
        assert kept == sorted(i - first for i in here)
        for _ in range(8):
            logits, _ = logits_by_hand(model, ids, inputs["pixel_values"], positions)
            logits[-1, IMAGE_TOKEN] = -torch.inf
            ids = torch.cat([ids, logits[-1].argmax()[None]])
    assert written.tolist() == ids.tolist()


def test_a_padded_batch_of_several_pictures_equals_its_rows() -> None:
    """Pictures of one prompt are cut one by one, but their tokens attend to those of the pictures before."""
    model, method = tiny_llava(), make("visiondrop", **LISTS)
    batch = tiny_inputs((2, 1), padding="left", seed=3)
    with torch.no_grad(), tessella.reduce(model, method) as run:
        together, kept = model(**batch).logits[:, -1], [[k.tolist() for k in row] for row in run.kept]
        assert run.report.last.layers == (33, 21, 21, 12)  # type: ignore[union-attr]
        for row, count in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
            single = {n: batch[n][row : row + 1, -count:] for n in ("input_ids", "attention_mask")}
            pixels = batch["pixel_values"][:2] if row == 0 else batch["pixel_values"][2:]
            alone = model(**single, pixel_values=pixels).logits[0, -1]
            torch.testing.assert_close(together[row], alone, atol=1e-4, rtol=1e-4)
            assert [k.tolist() for k in run.kept[0]] == kept[row]
        one = {"input_ids": batch["input_ids"][1:, -int(batch["attention_mask"][1].sum()) :]}
        by_hand, _ = logits_by_hand(model, one["input_ids"][0], batch["pixel_values"][2:], "compact")
    torch.testing.assert_close(together[1], by_hand[-1], atol=1e-4, rtol=1e-4)


def test_every_real_token_of_a_padded_row_is_a_key() -> None:
    """Places of all tokens: padding of the prompt and of the engine is none, other pictures are."""
    model, found = tiny_llava(), []

    class Looking(type(make("visiondrop"))):  # type: ignore[misc]
        def score_inside(self, view: Any, layer: int) -> Any:
            found.append((layer, view.places("all").ge(0).sum(dim=1).tolist()))
            return super().score_inside(view, layer)

    batch = tiny_inputs((2, 1), padding="right", seed=3)
    with torch.no_grad(), tessella.reduce(model, Looking(**LISTS)):
        model(**batch)
    text = [int(n) - 16 * k for n, k in zip(batch["attention_mask"].sum(dim=1), (2, 1), strict=True)]
    assert found == [(1, [text[0] + 22, text[0] + 22, text[1] + 11]), (3, [text[0] + 14, text[0] + 14, text[1] + 7])]


def test_qwen_goes_by_attention_received_and_keeps_positions() -> None:
    family = tiny_family("qwen2_5_vl")
    model, inputs = family.model(), family.inputs([[(32, 32)]])
    with torch.no_grad(), tessella.reduce(model, "visiondrop", keep=8) as run:
        out = model(**inputs)
        assert any("attention received stands in for the class token" in n for n in run.report.notes)
    record = run.report.last
    assert record is not None
    assert list(record.layers) == sorted(record.layers, reverse=True)
    assert len(set(record.layers)) > 1
    assert abs(sum(record.layers) / len(record.layers) - 8) <= 0.9
    assert torch.isfinite(out.logits).all()
    info = find_adapter(model).info
    first = make("visiondrop").fit(info).steps(info, Budget(8))[0]
    assert info.global_layers is not None
    assert first.captures == Captures(encoder=(info.global_layers[-1],))


def test_an_encoder_without_class_token_is_refused_unless_told() -> None:
    model, inputs = tiny_llava("siglip"), tiny_inputs((1,))
    with pytest.raises(UnsupportedError, match="visiondrop needs a class token"):
        tessella.reduce(model, "visiondrop", keep=8)
    with torch.no_grad(), tessella.reduce(model, "visiondrop(cls_fallback='received')", keep=8) as run:
        model(**inputs)
    assert run.report.mean_keep_ratio == 0.5


def test_keep_everything_and_one_token() -> None:
    model, inputs = tiny_llava(), tiny_inputs((1, 1), padding="left")
    with torch.no_grad():
        plain = model(**inputs).logits
        with tessella.reduce(model, "visiondrop", keep=1.0) as run:
            assert torch.equal(model(**inputs).logits, plain)
        assert run.num_cuts == 4
        with tessella.reduce(model, "visiondrop", keep=1) as run:
            model(**inputs)
    assert run.report.last.layers == (2, 2, 2, 2)  # type: ignore[union-attr]  # one of each of two rows
