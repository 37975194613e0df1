"""quota against its specification: shares and caps, scorers, what a judge may answer, and the grids a model reads."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tessella
from tessella.app.prompting import prepare
from tessella.core.errors import BudgetError, MethodError, UnsupportedError
from tessella.core.registry import make
from tessella.mini.questions import sample
from tessella.ops.resizing import proportional_shape
from tessella.reduction.quota import (
    RESIZERS,
    Quota,
    capped,
    decoupling_prompt,
    judge_question,
    objects_in,
    shares_of,
    tokens_of,
)
from tessella.testing.families import tiny_family
from tessella.testing.tiny import IMAGE_TOKEN, tiny_inputs, tiny_llava


class Words:
    """A tokenizer of the tiny model's ids."""

    def decode(self, ids: Tensor, skip_special_tokens: bool) -> str:
        return " ".join(map(str, ids.tolist()))

    def batch_decode(self, rows: Any, skip_special_tokens: bool) -> list[str]:
        return [self.decode(row, skip_special_tokens) for row in rows]


def judged(*scores: float, **settings: Any) -> Quota:
    return make("quota", judge=lambda frames, question: scores, **settings)  # type: ignore[return-value]


def counts_by_hand(scores: list[float], sizes: list[int], budget: int, is_capped: bool) -> list[int]:
    """In float64, frame by frame; floats leave the last digit open, so that a share just below a whole counts as it."""
    weights = [(100 * p) ** 2 for p in scores]
    shares = [w / sum(weights) for w in weights]
    if is_capped:
        caps = [n / budget for n in sizes]
        cut = [min(s, c) for s, c in zip(shares, caps, strict=True)]
        left = sum(shares) - sum(cut)
        shares = [c if s >= c else min(s + left * s / sum(cut), c) for s, c in zip(cut, caps, strict=True)]
    return [math.floor(s * budget + 1e-9) for s in shares]


scores_of_frames = st.lists(st.floats(0.01, 1), min_size=1, max_size=9)


@given(scores=scores_of_frames, budget=st.integers(1, 900), side=st.integers(1, 27))
def test_counts_equal_the_reference(scores: list[float], budget: int, side: int) -> None:
    sizes = [side * side] * len(scores)
    for is_capped in (False, True):
        counts = make("quota", cap=is_capped).counts(scores, sizes, budget)  # type: ignore[attr-defined]
        assert counts == counts_by_hand(scores, sizes, budget, is_capped)
        assert sum(counts) <= budget
        assert not is_capped or max(counts) <= side * side


@given(frames=st.integers(1, 60), budget=st.integers(1, 12544), score=st.floats(0.01, 1))
def test_equally_relevant_frames_get_the_same(frames: int, budget: int, score: float) -> None:
    assert make("quota").counts([score] * frames, [729] * frames, budget) == [budget // frames] * frames  # type: ignore[attr-defined]


def test_the_cap_is_reached_exactly() -> None:
    """A 49th times 49 is less than 1 in floats."""
    shares = shares_of([1000.0, 1.0])
    assert tokens_of(capped(shares, [1, 48], 49), 49) == [1, 2]
    assert tokens_of(capped(shares_of([1.0] * 3), [4] * 3, 12), 12) == [4, 4, 4]


def test_only_the_first_resizer_may_enlarge_a_frame() -> None:
    assert [make("quota", resizer=r).is_capped for r in RESIZERS] == [False, True, True, True, True]  # type: ignore[attr-defined]
    assert make("quota", cap=True).is_capped is True  # type: ignore[attr-defined]
    assert make("quota", resizer="v2", cap=False).is_capped is False  # type: ignore[attr-defined]
    model, inputs = tiny_llava(), tiny_inputs((3,))
    for settings, want in (({}, [(5, 5), (1, 1), (1, 1)]), ({"cap": True}, [(4, 4), (1, 1), (1, 1)])):
        with torch.no_grad(), tessella.reduce(model, judged(1.0, 0.1, 0.2, **settings), 9, processor=Words()) as run:
            model(**inputs)
        assert [(b.rows, b.columns) for b in run.layout.blocks[0]] == want
    assert [len(k) for k in run.kept[0]] == [16, 0, 1]


@pytest.mark.parametrize("resizer", RESIZERS)
def test_grids_are_what_the_model_reads(resizer: str) -> None:
    """Logits equal those of a prompt of embeddings, in which each frame is its resized grid."""
    model, inputs, scores = tiny_llava(), tiny_inputs((3,)), (0.7, 0.5, 0.4)
    method = judged(*scores, resizer=resizer)
    with torch.no_grad():
        with tessella.reduce(model, method, 8, processor=Words()) as run:
            logits = model(**inputs).logits
        frames = model.model.get_image_features(inputs["pixel_values"]).pooler_output
        counts = method.counts(scores, [16] * 3, 24)
        made = [RESIZERS[resizer](f.view(4, 4, -1), n).flatten(0, 1) for f, n in zip(frames, counts, strict=True)]
        ids = inputs["input_ids"][0].tolist()
        parts, left, before = [], iter(made), None
        for token in ids:
            if token != IMAGE_TOKEN:
                parts.append(model.get_input_embeddings()(torch.tensor([token])))
            elif before != IMAGE_TOKEN:
                parts.append(next(left))
            before = token
        want = model(inputs_embeds=torch.cat(parts)[None]).logits
    torch.testing.assert_close(logits, want, atol=1e-4, rtol=1e-4)
    assert [len(k) for k in run.kept[0]] == [len(m) for m in made]
    assert run.report.tokens_kept <= 24


def test_frames_without_tokens_are_gone_but_counted() -> None:
    model, inputs = tiny_llava(), tiny_inputs((3, 2), padding="left")
    method = make("quota", judge=lambda frames, question: [1.0, *[0.05] * (len(frames) - 1)])
    with torch.no_grad(), tessella.reduce(model, method, 4, processor=Words()) as run:
        model(**inputs)
    assert run.report.last is not None
    assert run.report.last.tokens_kept == ((9, 0, 0), (6, 0))
    assert run.report.last.tokens_in == ((16,) * 3, (16,) * 2)


def test_attention_by_default_is_that_of_the_layer() -> None:
    """The share of each frame in the last token's attention, from the model's own attention in one full forward."""
    model, inputs = tiny_llava(attention="eager"), tiny_inputs((3,))
    seen: list[list[float]] = []

    class Spying(Quota):
        def counts(self, scores: Any, sizes: Any, budget: int) -> list[int]:
            seen.append(list(scores))
            return super().counts(scores, sizes, budget)

    Spying.id = "quota"
    with torch.no_grad():
        with tessella.reduce(model, Spying(score_layer=2), 8):
            model(**inputs)
        rows = model(**inputs, output_attentions=True).attentions[2][0, :, -1]
    visual = (inputs["input_ids"][0] == IMAGE_TOKEN).nonzero()[:, 0]
    shares = rows[:, visual] / rows[:, visual].sum(dim=1, keepdim=True)
    want = shares.mean(dim=0).view(3, 16).sum(dim=1)
    torch.testing.assert_close(torch.tensor(seen[0]), want, atol=1e-5, rtol=1e-4)
    assert sum(seen[0]) == pytest.approx(1)


def test_several_prompts_are_scored_each_by_itself() -> None:
    model, batch = tiny_llava(), tiny_inputs((2, 3), padding="left")
    with torch.no_grad(), tessella.reduce(model, "quota:6") as run:
        logits = model(**batch).logits
        kept = [[len(k) for k in row] for row in run.kept]
    first = 0
    for row, frames in enumerate((2, 3)):
        real = batch["attention_mask"][row].bool()
        alone = {
            "input_ids": batch["input_ids"][row : row + 1, real],
            "pixel_values": batch["pixel_values"][first : first + frames],
        }
        first += frames
        with torch.no_grad(), tessella.reduce(model, "quota:6") as run:
            torch.testing.assert_close(model(**alone).logits[0, -1], logits[row, -1], atol=1e-4, rtol=1e-4)
        assert [len(k) for k in run.kept[0]] == kept[row]


def test_a_qwen_reads_resized_grids() -> None:
    """Its positions follow the new grid: the same as on pictures that were small from the start, with these tokens."""
    family = tiny_family("qwen2_5_vl")
    model, inputs = family.model(), family.inputs([[(48, 32), (32, 32)]])
    with torch.no_grad(), tessella.reduce(model, make("quota", resizer="v2"), 0.5) as run:
        assert torch.isfinite(model(**inputs).logits).all()
        model.generate(**inputs, max_new_tokens=3, do_sample=False)
    blocks = run.layout.blocks[0]
    assert [len(k) for k in run.kept[0]] == [b.rows * b.columns for b in blocks]
    assert run.report.tokens_kept <= run.report.tokens_in // 2


@pytest.mark.parametrize("scorer", ["attention", "tower"])
def test_the_embedded_model_finds_the_frame_that_is_asked_for(scorer: str) -> None:
    """Of four frames one shows what the question names: it ranks first far more often than by chance."""
    model, processor = tessella.load("mini")
    asked: dict[str, dict[str, list[Any]]] = {}
    for seed in range(600):
        item = sample("existence", seed, "test")
        asked.setdefault(item.question, {"yes": [], "no": []})[item.answer].append(item.image)
    questions = [q for q, found in asked.items() if found["yes"] and len(found["no"]) >= 3][:16]
    first = 0
    for number, question in enumerate(questions):
        frames = asked[question]["no"][:3]
        frames.insert(number % 4, asked[question]["yes"][0])
        inputs = prepare(model, processor, [frames], [question], 1)
        with torch.no_grad(), tessella.reduce(model, make("quota", scorer=scorer), 0.5) as run:
            model(**inputs)
        counts = [len(k) for k in run.kept[0]]
        first += counts[number % 4] == max(counts)
    assert len(questions) == 16
    assert first >= 8  # 4 by chance


def test_a_judge_is_given_frames_and_words() -> None:
    model, processor = tessella.load("mini")
    items = [sample("colour", seed, "test") for seed in range(3)]
    inputs = prepare(model, processor, [[i.image for i in items]], [items[0].question], 1)
    seen: list[Any] = []

    def judge(frames: Any, question: str) -> list[float]:
        seen.append(([tuple(f.shape) for f in frames], question))
        return [0.2, 0.9, 0.4]

    with torch.no_grad(), tessella.reduce(model, make("quota", judge=judge), 0.5) as run:
        model(**inputs)
    assert len(seen) == 1
    assert seen[0][0] == [(3, 112, 112)] * 3
    assert items[0].question in seen[0][1]
    shapes = [proportional_shape(14, 14, n) for n in make("quota").counts([0.2, 0.9, 0.4], [196] * 3, 294)]  # type: ignore[attr-defined]
    assert [(b.rows, b.columns) for b in run.layout.blocks[0]] == shapes


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ((0.5,), "one score a frame, 2; got 1"),
        ((0.5, math.nan), r"scores must lie in \[0, 1\], and not all at 0; got nan"),
        ((0.5, 1.5), "got 1.5"),
        ((0.0, 0.0), "not all at 0; got 0.0"),
    ],
)
def test_a_judge_that_answers_badly_is_refused(scores: tuple[float, ...], message: str) -> None:
    model = tiny_llava()
    with tessella.reduce(model, judged(*scores), 4, processor=Words()), pytest.raises(MethodError, match=message):
        model(**tiny_inputs((2,)))


def test_bad_settings_and_prompts_are_refused() -> None:
    for settings, message in (
        ({"resizer": "v6"}, "resizer must be one of v1, v2, v3, v4, v5; got 'v6'"),
        ({"scorer": "clip"}, "scorer must be one of attention, tower; got 'clip'"),
        ({"resizer": "v4", "cap": False}, "v4 picks or merges tokens, so cap=False is for v1 and v2 alone"),
        ({"power": 0.0}, "scale and power must be > 0"),
    ):
        with pytest.raises(MethodError, match=message):
            make("quota", **settings)
    model, inputs = tiny_llava(), tiny_inputs((1,))
    with pytest.raises(BudgetError, match="quota needs a keep"):
        tessella.reduce(model, "quota")
    bare = {n: v[:, :19] if n != "pixel_values" else v for n, v in inputs.items()}  # ends with the picture
    with tessella.reduce(model, "quota:4"), pytest.raises(UnsupportedError, match="quota goes by what the last token"):
        model(**bare)
    with (
        tessella.reduce(model, judged(0.5), 4),
        pytest.raises(UnsupportedError, match="quota reads words, and the run"),
    ):
        model(**inputs)
    assert not tessella.can_apply(tiny_family("qwen3_vl").model(), "quota")
    family = tiny_family("qwen2_5_vl")
    model, clip = family.model(), family.inputs(videos=[[(4, family.sizes[0])]])
    with tessella.reduce(model, "quota:0.5"), pytest.raises(UnsupportedError, match="the prompts hold a video"):
        model(**clip)


def test_steps_of_the_question() -> None:
    assert objects_in("Step 1: yes\nStep 2: ['cat', 'love']\nSTEP 3: [\"cat\", 'red ball']") == ("cat", "red ball")
    assert objects_in("step 1: yes step 3: [cat, red ball]") == ("cat", "red ball")
    assert objects_in("step 1: no step 3: ['cat']") == ()
    assert objects_in("step 1: yes step 2: ['cat']") == ()
    assert objects_in("step 1: yes step 3: [__import__('os').getcwd(), 3]") == ("__import__('os').getcwd()", "3")
    assert objects_in("step 1: yes step 3: ['a', 3, None]") == ("a",)
    for number in ("1", "2", "3"):
        assert decoupling_prompt("Where is the dog?").count(f"Step {number}:") == 4
    assert decoupling_prompt(" Where is the dog? ").endswith("Question: Where is the dog?\n")
    assert judge_question("Who wins?").startswith("Who wins? Does the image show enough")
    assert judge_question("Who wins?", ["runner", "dog"]).startswith(
        "Can any of these be seen in the image: runner, dog?"
    )
