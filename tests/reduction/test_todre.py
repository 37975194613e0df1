"""todre against its specification: slow references of both rules, the first pick, the second step on tiny models."""

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
from tessella.core.layout import NEWLINE, THUMBNAIL, Block, Layout
from tessella.core.registry import make
from tessella.core.view import Captures
from tessella.engine.plan import units_of
from tessella.reduction.todre import Fading
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info
from tessella.testing.families import tiny_family
from tessella.testing.tiny import IMAGE_TOKEN, NUM_VISUAL, tiny_inputs, tiny_llava

INFO = default_info()
SIGLIP = dataclasses.replace(INFO, family="siglip", has_class_token=False)
LAST = INFO.num_encoder_layers - 1


def slow_picks(tokens: Tensor, first: int, keep: int, rule: str) -> list[int]:
    """Step 3 of the specification in float64: all cosines to all picks anew in every round."""
    unit = torch.nn.functional.normalize(tokens.double(), dim=1)
    picks = [first][:keep]
    while len(picks) < keep:
        near = unit @ unit[picks].T
        state = near.sum(dim=1) if rule == "max_sum" else near.amax(dim=1)
        state[picks] = torch.inf
        picks.append(int(state.argmin()))
    return picks


def ragged(there: list[int], seed: int, **given_arrays: Any) -> ArrayView:
    """Items of several sizes; padding holds loud values."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(there)) < torch.tensor(there)[:, None]
    tokens = torch.randn(len(there), max(there), 7, generator=generator).masked_fill(~mask[:, :, None], 40.0)
    row = torch.rand(len(there), 3, max(there), generator=generator).masked_fill(~mask[:, None], 40.0)
    return ArrayView(embeddings=tokens, class_attention={LAST: row}, num_tokens=there, **given_arrays)


def picks_of(method: Any, view: ArrayView, keep: list[int]) -> list[list[int]]:
    picks = method.select(view, Counts(tuple(keep), view.layout.num_tokens))
    return [[i for i in row if i >= 0] for row in picks.tolist()]


# -- the first step --------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    there=st.lists(st.integers(1, 25), min_size=1, max_size=3),
    rule=st.sampled_from(["max_sum", "k_center"]),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_picks_equal_the_reference_on_ragged_items(there: list[int], rule: str, seed: int, data: st.DataObject) -> None:
    view, method = ragged(there, seed), make("todre", rule=rule)
    keep = [data.draw(st.integers(0, n)) for n in there]
    got = picks_of(method, view, keep)
    for b, (n, k) in enumerate(zip(there, keep, strict=True)):
        pivot = int(view.class_attention(LAST)[b, :, :n].mean(dim=0).argmax())
        assert got[b] == slow_picks(view.tokens.embeddings[b, :n], pivot, k, rule)
        assert len(set(got[b])) == k
    reduction = method.reduce(view, Counts(tuple(keep), tuple(there)))
    assert reduction.num_kept == tuple(keep) == tuple(reduction.keep.sum(dim=1).tolist())


def test_the_rule_of_the_second_version_is_the_default() -> None:
    view = ragged([30], 1)
    assert picks_of(make("todre"), view, [9]) == picks_of(make("todre", rule="max_sum"), view, [9])
    assert picks_of(make("todre"), view, [9]) != picks_of(make("todre", rule="k_center"), view, [9])


@pytest.mark.parametrize("rule", ["max_sum", "k_center"])
def test_lengths_of_tokens_do_not_matter(rule: str) -> None:
    view = ragged([40], 2)
    longer = ArrayView(
        embeddings=view.tokens.embeddings * (torch.rand(1, 40, 1) + 0.1), class_attention=view.class_attention(LAST)
    )
    for pivot in ("cls", "nearest_mean", "farthest_mean"):
        method = make("todre", rule=rule, pivot=pivot)
        assert picks_of(method, longer, [15]) == picks_of(method, view, [15])


def test_a_sum_takes_copies_of_an_outlier_and_a_nearest_distance_does_not() -> None:
    """A narrow cone and, far from it, two tokens that are nearly one."""
    angle = torch.tensor([0.0, 3.0, 4.0, 170.0, 169.0]).deg2rad()
    tokens = torch.stack([angle.cos(), angle.sin()], dim=1)[None]
    view = ArrayView(embeddings=tokens, class_attention=torch.tensor([[[9.0, 0, 0, 0, 0]]]))
    assert picks_of(make("todre"), view, [3]) == [[0, 3, 4]]
    assert picks_of(make("todre", rule="k_center"), view, [3]) == [[0, 3, 2]]


def test_first_picks() -> None:
    view = ragged([20, 13], 3)
    unit = torch.nn.functional.normalize(view.tokens.embeddings, dim=2)
    for b, n in enumerate((20, 13)):
        nearness = unit[b, :n] @ unit[b, :n].mean(dim=0)
        draws = view.uniforms(5)[b, :n]
        row = view.class_attention(LAST)[b, :, :n].mean(dim=0)
        for pivot, want in (
            ("cls", row.argmax()),
            ("nearest_mean", nearness.argmax()),
            ("farthest_mean", nearness.argmin()),
            ("random", draws.argmax()),
        ):
            assert picks_of(make("todre", pivot=pivot, seed=5), view, [1, 1])[b] == [int(want)], pivot
    assert picks_of(make("todre", pivot="random", seed=6), view, [1, 1]) != picks_of(
        make("todre", pivot="random", seed=5), view, [1, 1]
    )


def test_the_score_of_another_method_may_give_the_first_pick() -> None:
    view, scores = ragged([20, 13], 3), torch.full((2, 20), 40.0)
    scores[0], scores[1, :13] = torch.arange(20.0), -(torch.arange(13.0) - 4).abs()
    picks = make("todre").choose(scores, view, Counts((2, 2), (20, 13)))  # type: ignore[attr-defined]
    assert picks[:, 0].tolist() == [19, 4]


def test_the_thumbnail_gives_the_first_pick_and_a_newline_never_does() -> None:
    """Two tiles with newlines (0 to 5 and 6 to 11) and a thumbnail (12 to 15); then a picture without."""
    blocks = [Block(0, 2, 2, newlines=True), Block(0, 2, 2, tile=1, newlines=True), Block(0, 2, 2, 2, role=THUMBNAIL)]
    plain = [Block(0, 2, 2, newlines=True), Block(0, 2, 5, tile=1)]
    layout = Layout.build([range(16), range(16)], [blocks, plain])
    assert layout.role[1, 2] == NEWLINE
    row = torch.tensor([0.1, 0.7, 0.9, *[0.2] * 10, 0.3, 0.1, 0.1]).expand(2, 1, -1)
    view = ArrayView(embeddings=torch.randn(2, 16, 4), class_attention=row, layout=layout)
    assert picks_of(make("todre"), view, [1, 1]) == [[13], [1]]


def test_the_best_of_all_frames_comes_first() -> None:
    layout = Layout.build([range(12)], [[Block(0, 2, 2, frame=f) for f in range(3)]])
    row = torch.tensor([0.5, 0.1, 0.1, 0.1, 0.1, 0.1, 0.8, 0.1, 0.6, 0.1, 0.1, 0.1])[None, None]
    view = ArrayView(embeddings=torch.randn(1, 12, 4), class_attention=row, layout=layout)
    assert picks_of(make("todre"), view, [1]) == [[6]]


def test_half_precision_is_compared_in_float32() -> None:
    view = ragged([40], 4)
    rough = view.tokens.embeddings.bfloat16()
    for rule in ("max_sum", "k_center"):
        half, exact = (
            ArrayView(embeddings=t, class_attention=view.class_attention(LAST)) for t in (rough, rough.float())
        )
        assert picks_of(make("todre", rule=rule), half, [20]) == picks_of(make("todre", rule=rule), exact, [20])


def test_tokens_that_are_all_the_same_and_one_token() -> None:
    view = ArrayView(embeddings=torch.full((1, 5, 3), 0.2), class_attention=torch.tensor([[[0.1, 0.1, 0.3, 0.1, 0.1]]]))
    for rule in ("max_sum", "k_center"):
        assert picks_of(make("todre", rule=rule), view, [3]) == [[2, 0, 1]]
        alone = ArrayView(embeddings=torch.zeros(1, 1, 3), class_attention=torch.ones(1, 1, 1))
        assert picks_of(make("todre", rule=rule), alone, [1]) == [[0]]


def test_encoders_without_a_class_token() -> None:
    method = make("todre")
    assert method.needs(INFO) == ("class_token", "decoder_rows")
    assert method.needs(SIGLIP) == ("decoder_rows",)
    assert make("todre", pivot="cls").needs(SIGLIP) == ("class_token", "decoder_rows")
    assert make("todre", fading=False).needs(SIGLIP) == ()
    assert method.captures(SIGLIP) == Captures()
    assert (method.remarks(INFO), make("todre", pivot="random").remarks(SIGLIP)) == ((), ())
    assert method.remarks(SIGLIP) == ("a random first pick stands in for that of the class token",)
    view, said = ragged([20], 6, info=SIGLIP), make("todre", pivot="random")
    assert picks_of(method, view, [4]) == picks_of(said, view, [4])
    with pytest.raises(UnsupportedError, match="todre needs a class token"):
        tessella.reduce(tiny_llava("siglip"), "todre(pivot='cls')", keep=5)


# -- the steps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "layer"), [(32, 27), (40, 34), (28, 23), (8, 6), (4, 2), (2, 0)])
def test_the_second_step_follows_the_layer_at_seven_eighths(depth: int, layer: int) -> None:
    info = dataclasses.replace(INFO, num_layers=depth)
    first, second = make("todre").fit(info).steps(info, Budget(5))
    assert (first.stage, first.at_layer, first.promised_count) == ("connector", 0, "exact")
    assert first.captures == Captures(encoder=(LAST,))
    assert (second.stage, second.at_layer, second.promised_count) == ("prefill", layer + 1, "adaptive")
    assert second.captures == Captures(decoder=(layer,))
    assert (second.budget, second.method.card.positions) == (None, "original")


def test_which_steps_there_are() -> None:
    method = make("todre")
    assert [s.budget for s in method.steps(INFO, Budget(1.0))] == [Budget(1.0), Budget(1.0)]
    assert [s.stage for s in method.steps(INFO, None)] == ["prefill"]
    assert [s.stage for s in make("todre", fading=False).steps(INFO, Budget(5))] == ["connector"]
    assert [s.at_layer for s in make("todre", check_layer=3).steps(INFO, None)] == [4]
    with pytest.raises(BudgetError, match="todre needs a keep where fading=False"):
        make("todre", fading=False).steps(INFO, None)
    shallow = dataclasses.replace(INFO, num_layers=4)
    with pytest.raises(UnsupportedError, match="todre: no decoder layer follows check_layer=3 of 4"):
        make("todre", check_layer=3).fit(shallow).steps(shallow, Budget(5))
    with pytest.raises(UnsupportedError, match="todre: check_layer=4 is not a layer of this decoder"):
        make("todre", check_layer=4).fit(shallow)


def test_the_first_step_sees_a_whole_picture_and_the_second_a_whole_prompt() -> None:
    """Two pictures, the first of two tiles with newlines, which compete."""
    blocks = [Block(0, 2, 2, newlines=True), Block(0, 2, 2, tile=1, newlines=True), Block(1, 1, 3)]
    layout = Layout.build([range(15)], [blocks])
    first, second = make("todre").steps(INFO, Budget(5))
    assert [units_of(s, layout).num_tokens for s in (first, second)] == [(12, 3), (15,)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rule": "sum"}, "rule must be one of max_sum, k_center; got 'sum'"),
        ({"pivot": "mean"}, "pivot must be one of None, cls, random, nearest_mean, farthest_mean; got 'mean'"),
        ({"text_scope": "question"}, "text_scope must be one of after, all; got 'question'"),
        ({"tau": -0.1}, "tau is a share of attention >= 0; got -0.1"),
        ({"tau": float("nan")}, "tau is a share of attention >= 0; got nan"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=f"todre: {message}"):
        make("todre", **wrong)


# -- the second step: attention --------------------------------------------------------------------------------------


def slow_shares(weights: Tensor, visual: list[int], text: list[int]) -> tuple[float, float]:
    """Step 5 of the specification from a whole attention matrix [S, S] whose rows sum to 1."""
    to_visual = sum(float(weights[i, j]) for i in text for j in visual) / float(weights[text].sum())
    to_text = sum(float(weights[i, j]) for i in visual for j in text) / float(weights[visual].sum())
    return to_visual, to_text


def whole(weights: Tensor, visual: list[int], length: int) -> ArrayView:
    """A view of one prompt with these attention weights [H, S, S] and visual tokens at these places."""
    size = weights.shape[1]
    text = [i for i in range(length) if i not in visual]
    layout = Layout.build([visual], [[Block(0, 1, len(visual))]])
    places = {"visual": visual, "text": text}

    def rows(layer: int, queries: str, softmax: str, keys: str) -> Tensor:
        assert (layer, softmax) == (9, "all")
        return weights[None][:, :, places[queries]][..., places[keys]]

    return ArrayView(
        embeddings=torch.zeros(1, len(visual), 1),
        layout=layout,
        attention_rows=rows,
        projection=(torch.zeros(1, 1, size, 1), torch.zeros(1, 1, size, 1)),
        lengths=[length],
    )


@given(seed=st.integers(0, 999), before=st.integers(0, 4), behind=st.integers(1, 5), gap=st.integers(0, 2))
def test_shares_equal_the_reference(seed: int, before: int, behind: int, gap: int) -> None:
    """Both directions, as under a mask that lets pictures see all of the prompt."""
    generator = torch.Generator().manual_seed(seed)
    visual = [*range(before, before + 3), *range(before + 3 + gap, before + 6 + gap)]
    length = before + 6 + gap + behind
    weights = torch.randn(2, length, length, generator=generator).softmax(dim=2)
    view = whole(weights, visual, length)
    for scope in ("after", "all"):
        text = [i for i in range(length) if i not in visual and (scope == "all" or i > before)]
        to_visual, to_text, any_text = Fading(9, 0.1, scope).attention(view)
        want = slow_shares(weights.double().mean(dim=0), visual, text)
        assert [to_visual.item(), to_text.item()] == pytest.approx(want, rel=1e-4)
        assert any_text.tolist() == [True]


def test_both_directions_must_have_faded() -> None:
    visual, length = [1, 2, 3], 6
    counts = Counts((3,), (3,), asked=False)

    def stay(to_visual: float, to_text: float) -> int:
        weights = torch.zeros(1, length, length)
        weights[:, 4:, 1:4] = to_visual / 3
        weights[:, 4:, 0] = 1 - to_visual
        weights[:, 1:4, 4:] = to_text / 2
        weights[:, 1:4, 0] = 1 - to_text
        return int(Fading(9, 0.1, "after").reduce(whole(weights, visual, length), counts).keep.sum())

    shares = [(0.05, 0.05), (0.11, 0.05), (0.05, 0.11), (0.11, 0.11), (0.1, 0.0), (0.0, 0.0)]
    assert [stay(*s) for s in shares] == [0, 3, 3, 3, 3, 0]


def test_a_prompt_without_text_behind_its_picture_keeps_it() -> None:
    weights = torch.eye(5)[None]
    view = whole(weights, [2, 3, 4], 5)
    counts = Counts((3,), (3,), asked=False)
    assert int(Fading(9, 2.0, "after").reduce(view, counts).keep.sum()) == 3
    assert int(Fading(9, 2.0, "all").reduce(view, counts).keep.sum()) == 0


# -- on a model ------------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """What the second step measures while a model runs."""
    out: list[tuple[Tensor, Tensor]] = []
    measure = Fading.attention

    def listen(self: Fading, view: Any) -> Any:
        found = measure(self, view)
        out.append(found[:2])
        return found

    monkeypatch.setattr(Fading, "attention", listen)
    return out


@pytest.mark.parametrize("family", ["llava", "paligemma"])
@pytest.mark.parametrize("scope", ["after", "all"])
def test_shares_equal_those_of_eager_attention(family: str, scope: str, measured: list[Any]) -> None:
    """PaliGemma's pictures see the text behind them; under LLaVA's causal mask they do not."""
    tiny = tiny_family(family)
    model, inputs = tiny.model(attention="eager"), tiny.inputs([[tiny.sizes[0]]])
    depth = model.config.text_config.num_hidden_layers
    with torch.no_grad():
        weights = model(**inputs, output_attentions=True).attentions[depth * 7 // 8 - 1]
        with tessella.reduce(model, f"todre(text_scope='{scope}')"):
            model(**inputs)
    is_visual = inputs["input_ids"][0] == model.config.image_token_id
    visual = is_visual.nonzero()[:, 0].tolist()
    text = [i for i in (~is_visual).nonzero()[:, 0].tolist() if scope == "all" or i > visual[0]]
    want = slow_shares(weights[0].double().mean(dim=0), visual, text)
    assert [float(m) for m in measured[0]] == pytest.approx(want, abs=1e-4)
    assert (want[1] > 0) == (family == "paligemma" or (scope == "all" and visual[0] > 0))


def test_a_threshold_of_zero_never_fires() -> None:
    model, inputs = tiny_llava(), tiny_inputs((2, 1), padding="left")
    with torch.no_grad():
        with tessella.reduce(model, "todre(fading=False)", keep=5) as alone:
            want = model(**inputs).logits
        with tessella.reduce(model, "todre(tau=0.0)", keep=5) as run:
            got = model(**inputs).logits
    assert torch.equal(got, want)
    assert run.report.last.tokens_kept == alone.report.last.tokens_kept == ((5, 5), (5,))  # type: ignore[union-attr]


def by_hand(model: Any, inputs: dict[str, Tensor], start: int, kept: list[int], positions: str) -> Tensor:
    """Logits of the tiny LLaVA with these visual tokens (all others never there), hidden from layer `start` on."""
    ids, decoder = inputs["input_ids"][0], model.model.language_model
    hidden = model.get_input_embeddings()(ids).clone()
    visual = (ids == IMAGE_TOKEN).nonzero()[:, 0]
    hidden[visual] = model.model.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output[0]
    slots = [i for i in range(len(ids)) if i not in visual or i in visual[kept]]
    is_visual = torch.isin(torch.tensor(slots), visual)
    hidden, size = hidden[slots][None], len(slots)
    places = torch.tensor(slots if positions == "original" else range(size))[None]
    closed = torch.finfo(hidden.dtype).min
    causal = torch.full((size, size), closed).triu(1)
    blind = causal.masked_fill(is_visual[None, :], closed)
    rotary = decoder.rotary_emb(hidden, places)
    for number, layer in enumerate(decoder.layers):
        mask = (blind if number >= start else causal)[None, None]
        hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary)
    return model.lm_head(decoder.norm(hidden))[0][~is_visual]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("keep", "positions"), [(None, "original"), (5, "compact"), (5, "original")])
def test_what_is_left_equals_a_model_that_masks_visual_columns(
    attention: str, keep: int | None, positions: str
) -> None:
    """From the layer behind the check on; positions of the first step stay, none is counted anew in the second."""
    model, inputs = tiny_llava(attention=attention, num_layers=8), tiny_inputs((1,))
    given_positions = {"positions": positions} if positions == "original" else {}
    with torch.no_grad():
        with tessella.reduce(model, "todre(fading=False)", keep=keep or 1.0) as run:
            model(**inputs)
            kept = run.kept[0][0].tolist()
        with tessella.reduce(model, "todre(tau=1.1)", keep=keep, **given_positions) as run:  # type: ignore[arg-type]
            got = model(**inputs).logits[0]
        want = by_hand(model, inputs, 7, kept, positions)
        seen = by_hand(model, inputs, 8, kept, positions)
    assert len(kept) == (keep or NUM_VISUAL)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
    assert float((want - seen).abs().max()) > 1e-3
    assert run.report.positions == ("original" if positions == "original" else "compact/original")


def test_report_and_caches_say_what_each_layer_holds() -> None:
    model, inputs = tiny_llava(num_layers=8), tiny_inputs((1,))
    with torch.no_grad(), tessella.reduce(model, "todre(tau=1.1)", keep=4) as run:
        cache = model(**inputs).past_key_values
    record = run.report.last
    assert record is not None
    assert record.layers == (4,) * 7 + (0,)
    assert record.tokens_kept == ((0,),)
    assert run.report.mean_keep_ratio == pytest.approx(4 / NUM_VISUAL * 7 / 8)
    text = inputs["input_ids"].shape[1] - NUM_VISUAL
    assert [layer.keys.shape[-2] for layer in cache.layers] == [text + 4] * 7 + [text]


def test_every_prompt_of_a_batch_decides_by_itself(measured: list[Any]) -> None:
    """A threshold between the shares of two rows: one loses its tokens, the other does not, as each does alone."""
    model, inputs = tiny_llava(), tiny_inputs((1, 1), padding="left", seed=3)
    options = {"max_new_tokens": 5, "do_sample": False, "suppress_tokens": [IMAGE_TOKEN]}
    with torch.no_grad():
        with tessella.reduce(model, "todre", keep=6):
            model(**inputs)
        shares = measured[0][0]
        faded = shares < shares.mean()
        assert faded.tolist() in ([True, False], [False, True])
        with tessella.reduce(model, f"todre(tau={float(shares.mean())})", keep=6) as run:
            logits = model(**inputs).logits[:, -1]
            kept = [len(row[0]) for row in run.kept]
            cached, again = (model.generate(**inputs, **options, use_cache=use) for use in (True, False))
        assert kept == [0 if f else 6 for f in faded.tolist()]
        assert torch.equal(cached, again)
        for row in range(2):
            count = int(inputs["attention_mask"][row].sum())
            alone = {n: inputs[n][row : row + 1, -count:] for n in ("input_ids", "attention_mask")}
            with tessella.reduce(model, f"todre(tau={1.1 if faded[row] else 0.0})", keep=6):
                one = model(**alone, pixel_values=inputs["pixel_values"][row : row + 1]).logits[0, -1]
            torch.testing.assert_close(logits[row], one, atol=1e-5, rtol=1e-4)


def test_prompts_of_several_sizes_measure_what_each_measures_alone(measured: list[Any]) -> None:
    model, inputs = tiny_llava(), tiny_inputs((2, 1), padding="left")
    with torch.no_grad(), tessella.reduce(model, "todre(tau=0.0)", keep=6):
        model(**inputs)
        for row, pictures in enumerate((slice(0, 2), slice(2, 3))):
            count = int(inputs["attention_mask"][row].sum())
            alone = {n: inputs[n][row : row + 1, -count:] for n in ("input_ids", "attention_mask")}
            model(**alone, pixel_values=inputs["pixel_values"][pictures])
    together, *each = measured
    for direction in range(2):
        torch.testing.assert_close(together[direction], torch.cat([e[direction] for e in each]))


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_everything_is_kept_bit_for_bit_whatever_has_faded(family: str) -> None:
    tiny = tiny_family(family)
    model, inputs = tiny.model(), tiny.inputs([[tiny.sizes[0]]])
    with torch.no_grad():
        want = model(**inputs).logits
        with tessella.reduce(model, "todre(tau=1.1)", keep=1.0) as run:
            assert torch.equal(model(**inputs).logits, want)
    assert run.num_cuts == 2
    assert run.report.keep_ratio == 1


def test_a_model_without_class_token_names_the_substitute() -> None:
    tiny = tiny_family("qwen2_5_vl")
    with torch.no_grad(), tessella.reduce(tiny.model(), "todre(tau=0.0)", keep=0.5) as run:
        run.model(**tiny.inputs([[tiny.sizes[0]]]))
    assert run.report.notes == ("todre: a random first pick stands in for that of the class token",)
    assert run.report.keep_ratio == 0.5


def test_a_layer_mean_is_met_as_if_nothing_faded() -> None:
    model, inputs = tiny_llava(num_layers=8), tiny_inputs((1,))

    def found(tau: float) -> float:
        with torch.no_grad(), tessella.reduce(model, f"todre(tau={tau})", keep=0.5, scope="layer-mean") as run:
            model(**inputs)
        return run.report.mean_keep_ratio

    assert found(0.0) == 0.5
    assert found(1.1) == 0.5 * 7 / 8
