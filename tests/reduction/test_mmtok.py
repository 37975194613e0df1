"""mmtok against its specification and a slow float64 reference."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import tessella
from tessella.core.budget import Counts
from tessella.core.contracts import mask_of
from tessella.core.errors import MethodError
from tessella.core.registry import make
from tessella.engine.view import EngineView
from tessella.reduction import mmtok
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info
from tessella.testing.family_cases import indices_of

LOUD = 40.0


def reference(text: Tensor, projected: Tensor, features: Tensor, keep: int, temperatures: Sequence[float]) -> list[int]:
    """One picture, step by step in float64, with alpha = 0.5; `text` may be empty."""
    text, projected, features = (torch.nn.functional.normalize(x.double(), dim=1) for x in (text, projected, features))
    words = (text @ projected.T / temperatures[0]).softmax(dim=1) / max(1, len(text))
    patches = (features @ features.T / temperatures[1]).softmax(dim=1) / len(features)
    matrix = torch.cat([words, 0.5 * patches])
    covered, picks = torch.zeros(len(matrix), dtype=torch.float64), []
    for _ in range(keep):
        gains = [float((matrix[:, j] - covered).clamp(min=0).sum()) for j in range(len(features))]
        picks.append(max((j for j in range(len(features)) if j not in picks), key=lambda j: (gains[j], -j)))
        covered = torch.maximum(covered, matrix[:, picks[-1]])
    return picks


def view_of(there: list[int], num_text: list[int], seed: int = 0, **settings: Any) -> ArrayView:
    """Ragged items whose padding, of text too, is loud."""
    draw = torch.Generator().manual_seed(seed)

    def padded(lengths: list[int], width: int) -> Tensor:
        rows = [torch.randn(n, width, generator=draw) for n in lengths]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=LOUD)

    text = padded(num_text, 6)
    is_text = torch.arange(text.shape[1]) < torch.tensor(num_text)[:, None]
    return ArrayView(
        embeddings=padded(there, 6), features=padded(there, 5), text=(text, is_text), num_tokens=there, **settings
    )


def picks_of(view: ArrayView, keep: Sequence[int], **settings: Any) -> list[list[int]]:
    picks = make("mmtok", **settings).select(view, Counts(tuple(keep), view.layout.num_tokens))  # type: ignore[attr-defined]
    return [[i for i in row if i >= 0] for row in picks.tolist()]


# -- selection -------------------------------------------------------------------------------------------------------


@given(there=st.lists(st.integers(1, 14), min_size=1, max_size=3), seed=st.integers(0, 999), data=st.data())
def test_mmtok_equals_the_reference(there: list[int], seed: int, data: st.DataObject) -> None:
    num_text = [data.draw(st.integers(1, 5)) for _ in there]
    keep = [data.draw(st.integers(0, n)) for n in there]
    view = view_of(there, num_text, seed)
    text = view.text_embeddings()[0]
    want = [
        reference(text[b, :m], view.tokens.embeddings[b, :n], view.features()[b, :n], k, (0.3, 0.4))
        for b, (n, m, k) in enumerate(zip(there, num_text, keep, strict=True))
    ]
    assert picks_of(view, keep, text_temperature=0.3, vision_temperature=0.4) == want


def test_mmtok_temperatures_of_the_paper() -> None:
    """0.02 for text, 0.01 where the encoder packs pictures as Qwen's does; 0.2 among patches."""
    packed = replace(default_info(), packs_pictures=True)
    for info, temperature in ((default_info(), 0.02), (packed, 0.01)):
        view = view_of([40], [7], info=info)
        one = (view.text_embeddings()[0][0], view.tokens.embeddings[0], view.features()[0])
        assert picks_of(view, [15]) == [reference(*one, 15, (temperature, 0.2))]
        assert picks_of(view, [15], text_temperature=0.03 - temperature) != picks_of(view, [15])


def test_mmtok_worth_is_shared_out() -> None:
    """A half of all worth that text has goes to patches; each text token and patch shares out the same."""
    view = view_of([9, 4], [3, 0])
    worth = make("mmtok").worth(view)  # type: ignore[attr-defined]
    assert worth.shape == (2, 9, 12)
    want = torch.zeros(2, 12)
    want[0, :3], want[0, 3:], want[1, 3:7] = 1 / 3, 0.5 / 9, 0.5 / 4
    torch.testing.assert_close(worth.sum(dim=1), want)
    assert not worth[1, 4:].any()


def test_mmtok_splits_large_similarities(monkeypatch: pytest.MonkeyPatch) -> None:
    view, method = view_of([30, 21], [3, 2]), make("mmtok")
    want = method.worth(view)  # type: ignore[attr-defined]
    monkeypatch.setattr(mmtok, "BLOCK_ELEMENTS", 7 * 60)  # 7 targets at once
    torch.testing.assert_close(method.worth(view), want)  # type: ignore[attr-defined]


@given(seed=st.integers(0, 99), count=st.integers(1, 12), keep=st.integers(1, 3))
def test_mmtok_gains_fall_and_reach_most_of_the_best(seed: int, count: int, keep: int) -> None:
    view, keep = view_of([count], [4], seed), min(keep, count)
    worth, picks = make("mmtok").worth(view)[0], picks_of(view, [count])[0]  # type: ignore[attr-defined]
    covered = [worth[picks[: n + 1]].amax(dim=0).sum().item() for n in range(count)]
    gains = [b - a for a, b in itertools.pairwise([0.0, *covered])]
    assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(gains))
    best = max(worth[list(s)].amax(dim=0).sum().item() for s in itertools.combinations(range(count), keep))
    assert covered[keep - 1] >= (1 - 1 / math.e) * best


def test_mmtok_never_picks_what_is_excluded() -> None:
    """Excluded tokens are covered all the same: the others are worth to them what they were."""
    view, counts = view_of([40], [5]), Counts((20,), (40,))
    method = make("mmtok")
    free = method.picks(view, counts)[0].tolist()  # type: ignore[attr-defined]
    excluded = mask_of(torch.tensor([free[:10]]), 40)
    picks = method.picks(view, counts, excluded)[0].tolist()  # type: ignore[attr-defined]
    assert len(set(picks)) == 20
    assert not set(picks) & set(free[:10])
    worth = method.worth(view)[0]  # type: ignore[attr-defined]
    allowed = [j for j in range(40) if j not in free[:10]]
    assert picks[0] == max(allowed, key=lambda j: float(worth[j].sum()))


def test_mmtok_without_weight_ignores_the_picture() -> None:
    view, other = view_of([20], [8]), view_of([20], [8])
    other._given["features"] = torch.randn(1, 20, 5)
    assert picks_of(view, [3]) != picks_of(other, [3])
    assert picks_of(view, [3], vision_weight=0.0) == picks_of(other, [3], vision_weight=0.0)
    other._given["features"] = None  # nor is it read
    assert picks_of(view, [3], vision_weight=0.0) == picks_of(other, [3], vision_weight=0.0)


def test_mmtok_without_text_covers_the_picture() -> None:
    view = view_of([25, 25], [0, 6], seed=3)
    one = (view.features()[0], view.features()[0])
    assert picks_of(view, [9, 9])[0] == reference(torch.zeros(0, 5), *one, 9, (1.0, 0.2))


def test_mmtok_of_equal_features_takes_different_tokens() -> None:
    view = ArrayView(
        embeddings=torch.ones(1, 12, 4),
        features=torch.zeros(1, 12, 4),
        text=(torch.ones(1, 2, 4), torch.ones(1, 2) > 0),
    )
    assert picks_of(view, [5]) == [[0, 1, 2, 3, 4]]


# -- text ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "question, words",
    [
        ("What is the color of the cat in this picture?", "color of cat in this picture"),
        ("<image>\n<image>\nWHERE are They standing on?", "standing on"),
        ("<|vision_start|><|image_pad|><|vision_end|>Is it red or blue?", "red blue"),
        ("How many dogs?\nAnswer the question using a single word or phrase.", "many dogs"),
        (
            "Which one?\nA. cat\nAnswer with the option's letter from the given choices directly.",
            "one cat",
        ),  # an article too
        ("Who are you?", "Who are you?"),
        ("???", "???"),
        ("", "see in this image"),
        ("<image>\n", "see in this image"),
        ("Answer the question using a single word or phrase.", "see in this image"),
    ],
)
def test_mmtok_words_of_a_question(question: str, words: str) -> None:
    assert mmtok.content_words(question) == words


@pytest.mark.parametrize(
    "settings, texts",
    [
        ({"text": "clean"}, ["cat", "see in this image"]),
        ({"text": "clean", "extra_text": "a red cat"}, ["cat a red cat", "see in this image a red cat"]),
        ({"text": "raw"}, ["Question: Where is the cat?", "Question: What do you see in this image?"]),
    ],
)
def test_mmtok_embeds_words(settings: dict[str, str], texts: list[str]) -> None:
    asked: list[str] = []
    embedded = torch.randn(2, 3, 6), torch.tensor([[True, False, False], [True, True, True]])

    def embed(given: Sequence[str]) -> tuple[Tensor, Tensor]:
        asked.extend(given)
        return embedded

    view = view_of([20, 20], [2, 2], words=["Where is the cat?", " "], embed=embed)
    plain = view_of([20, 20], [2, 2])
    plain._given["question"] = embedded
    assert picks_of(view, [8, 8], **settings) == picks_of(plain, [8, 8])
    assert asked == texts
    assert make("mmtok", **settings).needs(default_info()) == ("features", "text", "words")


def test_mmtok_reads_the_question_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default no processor is needed; another question, another choice; with words the processor reads them."""
    model, processor = tessella.load("mini")
    picture = Image.linear_gradient("L").rotate(30).convert("RGB")
    asked: list[str] = []
    embed = EngineView.embed
    monkeypatch.setattr(EngineView, "embed", lambda view, texts: asked.extend(texts) or embed(view, texts))

    def kept(question: str, **settings: Any) -> list[int]:
        inputs = processor(text=f"<user><image>{question}<assistant>", images=picture, return_tensors="pt")
        method = make("mmtok", **settings)
        with tessella.reduce(model, method, keep=20, processor=processor if settings else None) as run:
            model(**inputs)
        return indices_of(run)[0][0]

    assert kept("What is the color of the circle?") != kept("How many squares are there?")
    assert asked == []
    kept("What is the color of the circle?", text="clean")
    kept("What is the color of the circle?", text="raw")
    assert asked == ["color of circle", "Question: What is the color of the circle?"]


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"text": "qwen"}, "text must be one of ids, clean, raw; got 'qwen'"),
        ({"extra_text": "a cat"}, "extra_text is added to words, with text='clean'; got text='ids'"),
        ({"text_temperature": 0.0}, "text_temperature must be > 0; got 0.0"),
        ({"vision_temperature": float("nan")}, "vision_temperature must be > 0; got nan"),
        ({"vision_weight": -1.0}, "vision_weight must be >= 0; got -1.0"),
    ],
)
def test_mmtok_refuses_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=f"mmtok: {message}"):
        make("mmtok", **settings)


def test_mmtok_card() -> None:
    card = make("mmtok").card
    assert (card.prompt_dependent, card.cost, card.newlines, card.rounding) == (True, "heavy", "drop", "floor")
    assert make("mmtok").needs(default_info()) == ("features", "text")
