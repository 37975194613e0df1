"""A run with a text tower: what a view shows of it, who finds it, and choices that follow the question."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tessella
from clip_folder import save_clip
from spying import Spy
from tessella.app.prompting import prepare
from tessella.core.cards import Card
from tessella.core.contracts import Scorer
from tessella.core.errors import UnsupportedError
from tessella.core.model_info import ModelInfo
from tessella.core.view import Captures, View
from tessella.engine.encoder import encode_once
from tessella.mini.questions import sample
from tessella.testing.tiny import tiny_inputs, tiny_llava
from tessella.testing.tiny_words import tokenizer

TOWER = Captures(text_tower=True)


@dataclass(frozen=True)
class Asked(Scorer):
    """Keeps the patches most similar to the question in the space of the text tower."""

    card = Card("Asked", stages=("connector",), needs=("words", "text_tower"), prompt_dependent=True)
    id = "asked"

    def captures(self, info: ModelInfo) -> Captures:
        return TOWER

    def score(self, view: View) -> Tensor:
        question, patches = view.text_tower()
        return F.cosine_similarity(question[:, None], patches, dim=2)


@dataclass(frozen=True)
class Embedded(Scorer):
    """Keeps the tokens whose embeddings are most like the question's on the mean."""

    card = Card("Embedded", stages=("connector",), needs=("text",), prompt_dependent=True)
    id = "embedded"

    def score(self, view: View) -> Tensor:
        embeddings, mask = view.text_embeddings("question")
        mean = embeddings.float().sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return F.cosine_similarity(mean[:, None], view.tokens.embeddings.float(), dim=2)


def test_a_view_shows_the_librarys_own_vectors(tmp_path: Path) -> None:
    clip = save_clip(tmp_path)
    model, inputs, seen = tiny_llava(), tiny_inputs((2, 1), padding="left"), []
    model.model.vision_tower.load_state_dict(clip.vision_model.state_dict())
    tower = tessella.load_text_tower(tmp_path, device="cpu")
    spy = Spy(lambda v: (*v.text_tower(), v.words()), TOWER, seen=seen)
    with torch.no_grad(), tessella.reduce(model, spy, keep=0.5, processor=tokenizer(), text_tower=tower):
        model(**inputs)
    question, patches, words = seen[0]
    with torch.no_grad():
        states = clip.vision_model(inputs["pixel_values"]).last_hidden_state[:, 1:]
        torch.testing.assert_close(patches, clip.visual_projection(states), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(question, tower.of_texts(words))
    assert (len(question), len(set(words))) == (3, 3)


def test_without_a_tower_a_run_is_refused_before_it_begins() -> None:
    model = tiny_llava()
    message = r"^asked needs a text tower, which no part of this llava model is: pass text_tower=tessella\.load_text"
    with pytest.raises(UnsupportedError, match=message):
        tessella.reduce(model, Asked(), keep=4, processor=tokenizer())
    assert str(tessella.can_apply(model, Asked())).startswith("asked needs a text tower")
    siglip = tiny_llava("siglip")
    assert tessella.can_apply(siglip, Asked()).reason.startswith("asked needs a text encoder that shares a space with")


def test_a_tower_of_another_encoder_is_refused(tmp_path: Path) -> None:
    save_clip(tmp_path, width=48)
    tower = tessella.load_text_tower(tmp_path, device="cpu")
    model = tiny_llava()
    with (
        torch.no_grad(),
        tessella.reduce(model, Asked(), keep=4, processor=tokenizer(), text_tower=tower),
        pytest.raises(UnsupportedError, match=r"a vision encoder of 48 channels; the model's has 32"),
    ):
        model(**tiny_inputs((1,)))


@pytest.fixture(scope="module")
def mini() -> tuple[Any, Any]:
    return tessella.load("mini", device="cpu")


def picture_of(model: Any, processor: Any, questions: list[str]) -> dict[str, Any]:
    """The same picture with each question."""
    image = sample("relation", 4).image
    return dict(prepare(model, processor, [[image]] * len(questions), questions, 6))


QUESTIONS = ["where is the digit?", "what color is the star?"]


def kept(run: Any) -> list[list[int]]:
    return [row[0].tolist() for row in run.kept]


@pytest.mark.parametrize("method", [Asked(), Embedded()], ids=lambda m: m.id)
def test_one_encoding_with_two_questions_gives_two_choices(mini: Any, method: Scorer) -> None:
    model, processor = mini
    assert tessella.can_apply(model, method)
    apart = [picture_of(model, processor, [q]) for q in QUESTIONS]
    alone = []
    for inputs in apart:
        with torch.inference_mode(), tessella.reduce(model, method, keep=16) as run:
            model.generate(**inputs, max_new_tokens=2, do_sample=False)
        alone += kept(run)
    assert alone[0] != alone[1]
    with torch.inference_mode():
        encoded = encode_once(model, apart[0], [method])
        given = [{k: v for k, v in i.items() if k != "pixel_values"} | {"mm_encoder_outputs": encoded} for i in apart]
        with tessella.reduce(model, method, keep=16) as run:
            for inputs, expected in zip(given, alone, strict=True):
                model.generate(**inputs, max_new_tokens=2, do_sample=False)
                assert kept(run)[0] == expected
            for which in (1, 0, 1):  # a longer question after a shorter one too, which is no step of decoding
                model(**given[which], use_cache=False)
                assert kept(run)[0] == alone[which]
        batch = picture_of(model, processor, QUESTIONS)
        with tessella.reduce(model, method, keep=16) as run:
            model(**batch)
    assert kept(run) == alone


def test_the_next_turn_asks_anew_on_the_same_encoding(mini: Any) -> None:
    """What a second question leaves differs from the first's, and nothing is encoded twice."""
    model, processor = mini
    first, second = (picture_of(model, processor, [q]) for q in QUESTIONS)
    calls: list[int] = []
    handle = model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode(), tessella.reduce(model, Asked(), keep=16) as run:
        out = model.generate(**first, max_new_tokens=2, do_sample=False, return_dict_in_generate=True)
        before = kept(run)
        model.generate(**run.next_turn(second, out.past_key_values), max_new_tokens=2, do_sample=False)
        after = kept(run)
    handle.remove()
    with torch.inference_mode(), tessella.reduce(model, Asked(), keep=16) as run:
        model(**second)
    assert calls == [1]
    assert after == kept(run) != before


def test_an_encoding_made_for_other_methods_lacks_what_the_tower_reads(mini: Any) -> None:
    model, processor = mini
    inputs = picture_of(model, processor, QUESTIONS[:1])
    with torch.inference_mode():
        encoded = encode_once(model, inputs, ["divprune"])
        given = {k: v for k, v in inputs.items() if k != "pixel_values"}
        with tessella.reduce(model, Asked(), keep=16), pytest.raises(UnsupportedError, match="asked reads the vision"):
            model(**given, mm_encoder_outputs=encoded)
