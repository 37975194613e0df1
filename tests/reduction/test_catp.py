"""catp against its specification: slow float64 references of each stage, whole readings by hand, counts."""

from __future__ import annotations

import dataclasses
import itertools
import math
from fractions import Fraction
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
from tessella.core.registry import make
from tessella.reduction.catp import InContext, asked_about, halfway
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info
from tessella.testing.families import tiny_family
from tessella.testing.tiny import IMAGE_TOKEN, NUM_VISUAL, tiny_inputs, tiny_llava

INFO = default_info()
LOUD = 40.0


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return torch.nn.functional.normalize(a, dim=-1) @ torch.nn.functional.normalize(b, dim=-1).T


def worth(tokens: Tensor, text: Tensor, picks: list[int], weight: float) -> float:
    """F(Y) of the specification, in float64."""
    tokens, text = tokens.double(), text.double()
    covered = (cosine(tokens, tokens[picks]) + 1).amax(dim=1).sum() / 2
    return float(covered + weight * (cosine(tokens[picks], text.mean(dim=0)[None]) + 1).sum() / 2)


def slow_picks(tokens: Tensor, text: Tensor, keep: int, weight: float) -> list[int]:
    """The greedy rule, F anew for every candidate."""
    picks: list[int] = []
    while len(picks) < keep:
        left = [i for i in range(len(tokens)) if i not in picks]
        picks.append(max(left, key=lambda i: (round(worth(tokens, text, [*picks, i], weight), 9), -i)))
    return picks


def ragged(there: list[int], words: list[int], seed: int) -> ArrayView:
    """Pictures of several sizes with texts of several lengths; padding holds loud values."""
    generator = torch.Generator().manual_seed(seed)
    is_real, is_word = (torch.arange(max(n)) < torch.tensor(n)[:, None] for n in (there, words))
    tokens, text = (torch.randn(*m.shape, 5, generator=generator) for m in (is_real, is_word))
    return ArrayView(
        embeddings=tokens.masked_fill(~is_real[:, :, None], LOUD),
        question=(text.masked_fill(~is_word[:, :, None], LOUD), is_word),
        num_tokens=there,
    )


# -- the first stage -------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 4)), min_size=1, max_size=3),
    weight=st.sampled_from([0.0, 0.7, 5.0]),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_picks_equal_the_reference_on_ragged_pictures(
    sizes: list[tuple[int, int]], weight: float, seed: int, data: st.DataObject
) -> None:
    there, words = (list(n) for n in zip(*sizes, strict=True))
    view, method = ragged(there, words, seed), make("catp", text_weight=weight)
    keep = [data.draw(st.integers(1, n)) for n in there]
    picks = method.select(view, Counts(tuple(keep), tuple(there)))  # type: ignore[attr-defined]
    text = view.text_embeddings("question")[0]
    for b, (n, w, k) in enumerate(zip(there, words, keep, strict=True)):
        want = slow_picks(view.tokens.embeddings[b, :n], text[b, :w], k, weight)
        assert [i for i in picks[b].tolist() if i >= 0] == want


@pytest.mark.parametrize("seed", range(6))
def test_greedy_reaches_its_bound(seed: int) -> None:
    view, keep = ragged([9], [3], seed), 4
    (picks,) = make("catp").select(view, Counts((keep,), (9,))).tolist()  # type: ignore[attr-defined]
    tokens, text = view.tokens.embeddings[0], view.text_embeddings("question")[0][0]
    best = max(worth(tokens, text, list(y), 0.7) for y in itertools.combinations(range(9), keep))
    assert (1 - 1 / math.e) * best <= worth(tokens, text, picks, 0.7) <= best + 1e-9


def test_of_equal_tokens_the_earlier_and_text_decides_among_those_that_cover_alike() -> None:
    alike = ArrayView(
        embeddings=torch.ones(1, 5, 3), question=(torch.ones(1, 2, 3), torch.ones(1, 2, dtype=torch.bool))
    )
    counts = Counts((2,), (5,))
    assert make("catp").select(alike, counts).tolist() == [[0, 1]]  # type: ignore[attr-defined]
    corners = torch.eye(4)[None]
    view = ArrayView(embeddings=corners, question=(corners[:, 2:3], torch.ones(1, 1, dtype=torch.bool)))
    assert make("catp").select(view, Counts((1,), (4,))).tolist() == [[2]]  # type: ignore[attr-defined]
    assert make("catp", text_weight=0.0).select(view, Counts((1,), (4,))).tolist() == [[0]]  # type: ignore[attr-defined]


def test_half_precision_is_compared_in_float32() -> None:
    view = ragged([24], [3], 5)
    (text, is_word), rough = view.text_embeddings("question"), view.tokens.embeddings.bfloat16()
    words, counts = text.bfloat16(), Counts((12,), (24,))
    half, exact = (
        ArrayView(embeddings=rough.to(t), question=(words.to(t), is_word)) for t in (torch.bfloat16, torch.float32)
    )
    assert make("catp").select(half, counts).equal(make("catp").select(exact, counts))  # type: ignore[attr-defined]


@pytest.mark.parametrize("share", ["1/9", "0.333", "0.222", "0.101", "1/2"])
@pytest.mark.parametrize("size", [1, 7, 196, 577])
def test_the_first_stage_removes_half_of_what_goes(share: str, size: int) -> None:
    """floor(S (1 - R / 2)), whatever floor(S (1 - R)) was rounded from."""
    asked = Fraction(share) * size
    counts = Counts((max(math.floor(asked), 1),), (size,))
    want = math.floor((size + max(asked, 1)) / 2)
    assert halfway(counts) == (want,)
    reduction = make("catp").reduce(ragged([size], [2], 0), counts)
    assert (reduction.num_kept, reduction.keep.sum().item()) == ((want,), want)


# -- the second stage ------------------------------------------------------------------------------------------------


def prompts(sizes: list[list[int]], behind: list[int], seed: int) -> ArrayView:
    """Prompts with pictures of these sizes, two words in front of each, and so many words at the end."""
    generator = torch.Generator().manual_seed(seed)
    slots, blocks, lengths = [], [], []
    for row, words in zip(sizes, behind, strict=True):
        place, mine = 0, []
        for n in row:
            mine += range(place + 2, place + 2 + n)
            place += 2 + n
        slots.append(mine)
        blocks.append([Block(i, 1, n) for i, n in enumerate(row)])
        lengths.append(place + words)
    layout = Layout.build(slots, blocks)
    hidden = torch.randn(len(sizes), max(lengths), 6, generator=generator)
    for row, length in zip(hidden, lengths, strict=True):
        row[length:] = LOUD
    tokens = hidden.gather(1, layout.slot.clamp(min=0)[:, :, None].expand(-1, -1, 6))
    tokens = tokens.masked_fill(~layout.mask[:, :, None], LOUD)
    rows = {n: torch.rand(len(sizes), 3, 1, layout.slot.shape[1], generator=generator) for n in (5, 6)}
    return ArrayView(embeddings=tokens, hidden=hidden, attention_rows=rows, layout=layout, lengths=lengths)


def question_mean(view: ArrayView, b: int, with_picture: bool) -> Tensor:
    """Mean over the picture in question and the words behind it, or over the words alone; all words if none."""
    end = max(s for s in view.layout.slot[b].tolist())
    size = [block.num_tokens for block in view.layout.blocks[b]][-1]
    hidden = view.hidden_states()[b, : view._lengths[b]].double()  # type: ignore[index]
    if with_picture:
        return hidden[end + 1 - size :].mean(dim=0)
    behind = hidden[end + 1 :]
    words = [i for i in range(len(hidden)) if i not in view.layout.slot[b].tolist()]
    return behind.mean(dim=0) if len(behind) else hidden[words].mean(dim=0)


CASES: list[tuple[list[list[int]], list[int]]] = [
    ([[7, 5, 6], [9], [4, 8]], [4, 3, 2]),
    ([[3, 3, 3, 3]], [1]),
    ([[6], [2, 6]], [0, 0]),
]


@pytest.mark.parametrize("keep", [Fraction(1, 3), Fraction(1, 2), 2])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_pictures_in_context_compete_and_the_one_in_question_stays(case: int, keep: Any) -> None:
    sizes, behind = CASES[case]
    view = prompts(sizes, behind, case)
    reduction = InContext(6, 0.6, keep).reduce(view, Counts((0,) * len(sizes), view.layout.num_tokens))
    now, before = (view.attention_rows(n)[:, :, 0].double().mean(dim=1) for n in (6, 5))
    for b, row in enumerate(sizes):
        size, total = row[-1], sum(row[:-1])
        left = sum(min(keep, n) for n in row[:-1]) if isinstance(keep, int) else math.floor(keep * total)
        tokens = view.tokens.embeddings[b, :total].double()
        alike = cosine(tokens, question_mean(view, b, with_picture=True)[None])[:, 0]
        score = (now - before)[b, :total].clamp(min=0) + 0.6 * alike
        want = sorted(score.argsort(descending=True)[:left].tolist()) + list(range(total, total + size))
        assert reduction.keep[b].nonzero()[:, 0].tolist() == want
        assert reduction.num_kept is not None
        assert reduction.num_kept[b] == left + size


@pytest.mark.parametrize("keep", [Fraction(1, 3), Fraction(1, 2), 2])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_the_picture_in_question_by_its_context_or_else_its_text(case: int, keep: Any) -> None:
    sizes, behind = CASES[case]
    view, method = prompts(sizes, behind, case), InContext(6, 0.6, keep)
    method.reduce(view, Counts((0,) * len(sizes), view.layout.num_tokens))  # plans what stays
    reduction = method.reduce_question(view, Counts((0,) * len(sizes), view.layout.num_tokens))
    for b, row in enumerate(sizes):
        size, total = row[-1], sum(row[:-1])
        left = min(keep, size) if isinstance(keep, int) else max(math.floor(keep * size), 1)
        tokens = view.tokens.embeddings[b, : total + size].double()
        mean = tokens[:total].mean(dim=0) if total else question_mean(view, b, with_picture=False)
        score = cosine(tokens[total:], mean[None])[:, 0]
        want = list(range(total)) + sorted((score.argsort(descending=True)[:left] + total).tolist())
        assert reduction.keep[b].nonzero()[:, 0].tolist() == want
        assert reduction.num_kept is not None
        assert reduction.num_kept[b] == total + left


def test_the_picture_in_question_is_the_last_of_its_prompt() -> None:
    """Whatever its number: a clip stands in front of the picture, and is numbered behind it."""
    layout = Layout.build([[1, 2, 3, 6, 7]], [[Block(1, 1, 3), Block(0, 1, 2)]])
    assert asked_about(layout).tolist() == [[False] * 3 + [True] * 2]


def test_losses_of_attention_count_as_none() -> None:
    view = prompts([[4, 2]], [1], 0)
    low, high = torch.zeros(1, 1, 1, 6), torch.full((1, 1, 1, 6), 9.0)
    view._given["attention_rows"] = {5: high, 6: low}
    scores = InContext(6, 0.0, 1).context_scores(view, asked_about(view.layout))
    assert scores.tolist() == [[0.0] * 6]


# -- counts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "sizes", "want"),
    [
        ("0.333", [576] * 5, (767, 191)),  # 767.2 and 191.8
        ("0.222", [576] * 5, (511, 127)),
        ("0.101", [576] * 9, (465, 58)),
        ("1/2", [3, 3, 3], (3, 1)),
        ("0.01", [50, 20], (0, 1)),
        ("0.9", [10], (0, 9)),
        (64, [100, 30, 80], (94, 64)),
    ],
)
def test_counts_are_rounded_down_for_the_context_as_a_whole(keep: Any, sizes: list[int], want: tuple[int, int]) -> None:
    assert InContext(6, 0.6, Budget(keep).keep).planned(sizes) == want


def test_layers_hold_what_the_specification_says() -> None:
    """Layers 0 to K the first stage's tokens, K + 1 without the rest of the context, then what is left at the end."""
    model, inputs = tiny_llava(num_layers=10), tiny_inputs((3,))
    for keep, (context, question) in ((0.3, (9, 4)), (5, (10, 5))):
        first = (NUM_VISUAL + question) // 2
        with torch.no_grad(), tessella.reduce(model, "catp", keep=keep) as run:
            cache = model(**inputs).past_key_values
        record = run.report.last
        assert record is not None
        assert record.layers == (3 * first,) * 7 + (context + first,) + (context + question,) * 2
        text = inputs["input_ids"].shape[1] - 3 * NUM_VISUAL
        assert [layer.keys.shape[-2] - text for layer in cache.layers] == list(record.layers)
        assert len(run.kept[0][-1]) == question
        assert run.report.positions == "compact/original"


def test_a_layer_mean_of_one_picture() -> None:
    model, inputs = tiny_llava(num_layers=10), tiny_inputs((1,))
    with torch.no_grad(), tessella.reduce(model, "catp", keep=0.6, scope="layer-mean") as run:
        model(**inputs)
    record = run.report.last
    assert record is not None
    means = {k: (8 * ((NUM_VISUAL + k) // 2) + 2 * k) / (10 * NUM_VISUAL) for k in range(1, NUM_VISUAL + 1)}
    best = min(means, key=lambda k: (abs(means[k] - 0.6), k))
    assert record.layers == ((NUM_VISUAL + best) // 2,) * 8 + (best,) * 2
    assert run.report.mean_keep_ratio == pytest.approx(means[best])


# -- whole readings, by hand -----------------------------------------------------------------------------------------


class ByHand:
    """One prompt through a tiny LLaVA with eager attention, its layers called one by one."""

    def __init__(self, model: Any, ids: Tensor, pixels: Tensor) -> None:
        self.model, self.decoder = model, model.model.language_model
        self.visual = (ids == IMAGE_TOKEN).nonzero()[:, 0]
        self.hidden = model.get_input_embeddings()(ids).clone()
        features = model.model.get_image_features(pixels, return_dict=True).pooler_output
        self.hidden[self.visual] = torch.cat(list(features))
        self.slots = torch.arange(len(ids))
        self.places = self.slots

    @property
    def picture(self) -> Tensor:
        """The picture of each token; -1 for text."""
        number = torch.full((int(self.slots.max()) + 1,), -1)
        number[self.visual] = torch.arange(len(self.visual)) // NUM_VISUAL
        return number[self.slots]

    def cut(self, gone: set[int], compact: bool = False) -> None:
        """Remove tokens by their slots."""
        stay = torch.tensor([int(s) not in gone for s in self.slots])
        self.hidden, self.slots, self.places = self.hidden[stay], self.slots[stay], self.places[stay]
        if compact:
            self.places = torch.arange(len(self.slots))

    def run(self, number: int) -> Tensor:
        """Run a layer; the last token's attention, mean over heads."""
        size, layer = len(self.slots), self.decoder.layers[number]
        mask = torch.full((size, size), torch.finfo(torch.float32).min).triu(1)[None, None]
        rotary = self.decoder.rotary_emb(self.hidden[None], self.places[None])
        normed = layer.input_layernorm(self.hidden[None])
        _, weights = layer.self_attn(hidden_states=normed, attention_mask=mask, position_embeddings=rotary)
        self.hidden = layer(self.hidden[None], attention_mask=mask, position_embeddings=rotary)[0]
        return weights[0, :, -1].double().mean(dim=0)

    def catp(self, keep: Fraction, layer: int) -> tuple[list[int], Tensor]:
        """Slots of visual tokens that are left, and the logits of the last token."""
        pictures = int(self.picture.max()) + 1
        first, gone = math.floor(NUM_VISUAL * (1 + keep) / 2), set()
        for p in range(pictures):
            mine = self.visual[p * NUM_VISUAL : (p + 1) * NUM_VISUAL]
            end = int(self.visual[(p + 1) * NUM_VISUAL]) if p + 1 < pictures else len(self.slots)
            picks = slow_picks(self.hidden[mine], self.hidden[int(mine[-1]) + 1 : end], first, 0.7)
            gone |= {int(s) for i, s in enumerate(mine) if i not in picks}
        self.cut(gone, compact=True)
        rows = [self.run(n) for n in range(layer + 1)]
        context, size = pictures - 1, len(self.slots)
        asked = self.picture == context
        begin = int(asked.nonzero()[0, 0])
        mean = self.hidden[begin:].double().mean(dim=0)
        score = (rows[-1] - rows[-2]).clamp(min=0) + 0.6 * cosine(self.hidden.double(), mean[None])[:, 0]
        order = sorted((i for i in range(size) if 0 <= self.picture[i] < context), key=lambda i: -float(score[i]))
        self.cut({int(self.slots[i]) for i in order[math.floor(keep * NUM_VISUAL * context) :]})
        self.run(layer + 1)
        asked = self.picture == context
        others = (self.picture >= 0) & ~asked
        behind = self.slots > self.slots[asked].max()
        mean = self.hidden[others if bool(others.any()) else behind].double().mean(dim=0)
        score = cosine(self.hidden.double(), mean[None])[:, 0]
        order = sorted(asked.nonzero()[:, 0].tolist(), key=lambda i: -float(score[i]))
        self.cut({int(self.slots[i]) for i in order[max(math.floor(keep * NUM_VISUAL), 1) :]})
        for number in range(layer + 2, len(self.decoder.layers)):
            self.run(number)
        return self.slots[self.picture >= 0].tolist(), self.model.lm_head(self.decoder.norm(self.hidden))[-1]


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("keep", ["1/3", "0.2"])
def test_a_padded_batch_of_several_pictures_equals_each_prompt_by_hand(padding: Any, keep: str) -> None:
    """Two shots, none, and three; each row as it is alone, whatever the padding and the attention in use."""
    eager, fast = (tiny_llava(attention=a, num_layers=6) for a in ("eager", "sdpa"))
    inputs, pictures = tiny_inputs((3, 1, 4), padding=padding, seed=2), iter((0, 3, 4, 8))
    with torch.no_grad(), tessella.reduce(fast, "catp(score_layer=2)", keep=keep) as run:
        logits = fast(**inputs).logits
    start = next(pictures)
    for row, end in enumerate(pictures):
        real = inputs["attention_mask"][row].bool()
        with torch.no_grad():
            hand = ByHand(eager, inputs["input_ids"][row][real], inputs["pixel_values"][start:end])
            slots, want = hand.catp(Fraction(keep), 2)
        base = hand.visual.tolist()
        kept = [base[p * NUM_VISUAL + int(i)] for p, picture in enumerate(run.kept[row]) for i in picture]
        assert kept == slots, f"row {row}"
        got = run.expand(logits)[row][real][-1]
        torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)
        start = end


def test_pictures_of_several_sizes_with_positions_of_three_axes() -> None:
    """Qwen2.5-VL: 16 and 8 tokens in context, 16 in question."""
    tiny = tiny_family("qwen2_5_vl")
    model, inputs = tiny.model(num_layers=6), tiny.inputs([[(32, 32), (32, 16), (32, 32)], [(32, 16)]])
    options = {"max_new_tokens": 5, "do_sample": False}
    with torch.no_grad(), tessella.reduce(model, "catp(score_layer=2)", keep=0.3) as run:
        model(**inputs)
        kept = [[len(k) for k in row] for row in run.kept]
        cached, again = (model.generate(**inputs, **options, use_cache=use) for use in (True, False))
    assert (sum(kept[0][:2]), kept[0][2], kept[1]) == (math.floor(0.3 * 24), 4, [2])
    assert torch.equal(cached, again)


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "layer"), [(32, 6), (28, 6), (9, 6), (8, 2), (6, 1), (4, 1)]
)  # 8 layers have no layer 8 to cut in front of
def test_layers_of_a_model(depth: int, layer: int) -> None:
    info = dataclasses.replace(INFO, num_layers=depth)
    steps = make("catp").fit(info).steps(info, Budget(0.5))
    assert [s.at_layer for s in steps] == [0, layer + 1, layer + 2]
    assert [s.captures.decoder for s in steps] == [(), (layer - 1, layer), ()]
    assert [s.method.card.positions for s in steps] == ["compact", "original", "original"]


def test_everything_is_kept_at_every_stage() -> None:
    steps = make("catp").fit(INFO).steps(INFO, Budget(1.0))
    assert [s.budget for s in steps] == [Budget(1.0)] * 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"score_layer": 0}, "with the one before it, so it must be >= 1; got 0"),
        ({"text_weight": -0.1}, "text_weight must be >= 0; got -0.1"),
        ({"question_weight": float("nan")}, "question_weight must be >= 0; got nan"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        make("catp", **wrong)


def test_what_a_model_cannot_carry_is_refused() -> None:
    for depth, method in ((3, make("catp")), (8, make("catp", score_layer=6))):
        with pytest.raises(UnsupportedError, match=rf"this decoder has {depth} layers: 0 to {depth - 1}\."):
            method.fit(dataclasses.replace(INFO, num_layers=depth))
    model = tiny_llava()
    for scope in ("tile", "prompt"):
        with pytest.raises(BudgetError, match=f"a keep per image or per layer-mean; got 4 per {scope}"):
            tessella.reduce(model, "catp", keep=4, scope=scope)


def test_without_a_keep_the_papers_share_goes() -> None:
    """R = 0.778 of 16 tokens leaves 3, and the first stage (16 + 3) // 2."""
    model = tiny_llava(num_layers=8)
    with torch.no_grad(), tessella.reduce(model, "catp") as run:
        model(**tiny_inputs((1,)))
    layers = run.report.last.layers
    assert (layers[0], layers[-1]) == (9, 3)
    with torch.no_grad(), tessella.reduce(model, "catp", keep=0.222) as run:
        model(**tiny_inputs((1,)))
    assert run.report.last.layers == layers
