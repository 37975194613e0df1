"""Which text belongs to a picture: where the question stands, several pictures, padding, and the words of it all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import tessella
from spying import Spy, seen_by
from tessella.core.errors import InputError, UnsupportedError
from tessella.engine.companions import remember
from tessella.testing.tiny import BOS, IMAGE_TOKEN, NUM_VISUAL, PAD, tiny_inputs, tiny_llava
from tessella.testing.tiny_words import tokenizer

PICTURE = -1  # in a prompt: a picture's placeholders


def prompt(*rows: Sequence[int], side: str = "left") -> dict[str, Tensor]:
    """Inputs of rows of tokens, padded at one side with a token that is a word of the tiny model."""
    full = [[t for token in row for t in ([IMAGE_TOKEN] * NUM_VISUAL if token == PICTURE else [token])] for row in rows]
    longest = max(map(len, full))
    gaps = [[60] * (longest - len(r)) for r in full]  # loud: w60 must never be read
    ids = [g + r if side == "left" else r + g for g, r in zip(gaps, full, strict=True)]
    mask = [[0] * len(g) + [1] * len(r) for g, r in zip(gaps, full, strict=True)]
    if side == "right":
        mask = [row[::-1] for row in mask]
    count = sum(list(row).count(PICTURE) for row in rows)
    pixels = torch.randn(count, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask), "pixel_values": pixels}


def questions(inputs: dict[str, Tensor], scope: str = "image", span: Any = "question") -> list[str]:
    """The words of a span for each picture, held against the embeddings of the same span."""
    model = tiny_llava()
    remember(model, tokenizer())

    def both(view: Any) -> tuple[list[str], Tensor, Tensor]:
        return view.words(span), *view.text_embeddings(span)

    words, embeddings, mask = seen_by(both, model, inputs, scope=scope)
    table = model.get_input_embeddings().weight.detach()
    for text, shown, real in zip(words, embeddings, mask, strict=True):
        ids = [int(w[1:]) for w in text.split()]
        special = real.sum() - len(ids)  # special tokens are in the embeddings and not in the words
        torch.testing.assert_close(shown[special : special + len(ids)], table[ids])
        assert shown[~real].abs().sum() == 0
    return words


def test_the_question_stands_behind_the_picture() -> None:
    assert questions(prompt([BOS, 10, PICTURE, 11, 12, 13])) == ["w11 w12 w13"]
    assert questions(prompt([BOS, 10, PICTURE, 11, 12, 13]), span="all") == ["w10 w11 w12 w13"]


def test_where_nothing_stands_behind_the_picture_all_text_is_the_question() -> None:
    assert questions(prompt([BOS, 10, 11, PICTURE])) == ["w10 w11"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_row_has_its_own_question_whatever_the_padding(side: str) -> None:
    rows = ([BOS, 10, PICTURE, 11], [BOS, PICTURE, 12, 13, 14, 15], [BOS, 16, 17, PICTURE])
    assert questions(prompt(*rows, side=side)) == ["w11", "w12 w13 w14 w15", "w16 w17"]


def test_of_several_pictures_each_has_the_text_up_to_the_next() -> None:
    assert questions(prompt([BOS, 10, PICTURE, 11, 12, PICTURE, 13])) == ["w11 w12", "w13"]
    assert questions(prompt([BOS, 10, PICTURE, PICTURE, 13, PICTURE, 14])) == ["w13", "w13", "w14"]
    assert questions(prompt([BOS, 10, PICTURE, 11, PICTURE])) == ["w11", "w10 w11"]
    assert questions(prompt([BOS, 10, PICTURE, 11, 12, PICTURE, 13]), "prompt") == ["w13"]


def test_a_prompt_of_pictures_alone_has_no_words() -> None:
    assert questions(prompt([BOS, PICTURE])) == [""]


def test_texts_are_embedded_without_special_tokens_and_padded_behind() -> None:
    model = tiny_llava()
    texts = ["w7 w8", "w9"]
    given = {"scope": "image"}
    remember(model, tokenizer())
    embeddings, mask = seen_by(lambda v: v.embed(texts), model, prompt([BOS, PICTURE, 11, PICTURE, 12]), **given)
    table = model.get_input_embeddings().weight.detach()
    assert mask.tolist() == [[True, True], [True, False]]
    torch.testing.assert_close(embeddings[mask], table[[7, 8, 9]])
    assert embeddings[1, 1].abs().sum() == 0


def test_without_a_tokenizer_words_are_refused_in_one_line() -> None:
    for ask in (lambda v: v.words(), lambda v: v.embed(["w7"])):
        with pytest.raises(UnsupportedError, match=r"^spy reads words, and the run knows no tokenizer: pass"):
            seen_by(ask, tiny_llava(), tiny_inputs((1,)))
    with pytest.raises(InputError, match=r"^processor must be a processor or a tokenizer; got int\.$"):
        tessella.reduce(tiny_llava(), "random", keep=2, processor=3)


def test_a_prompt_of_embeddings_has_no_words() -> None:
    model, inputs = tiny_llava(), tiny_inputs((1,))
    embeddings = model.get_input_embeddings()(inputs.pop("input_ids"))
    remember(model, tokenizer())
    with pytest.raises(UnsupportedError, match=r"^spy reads words, and inputs_embeds have none: give input_ids\.$"):
        seen_by(lambda v: v.words(), model, {**inputs, "inputs_embeds": embeddings})


def test_a_processor_given_to_the_run_goes_before_the_one_remembered() -> None:
    model, inputs, seen = tiny_llava(), prompt([BOS, PICTURE, 11]), []
    wrong = tokenizer()
    wrong.add_special_tokens({"additional_special_tokens": ["w11"]})
    remember(model, wrong)
    for processor, words in ((None, ""), (tokenizer(), "w11")):
        spy = Spy(lambda v: v.words(), seen=seen)
        with torch.no_grad(), tessella.reduce(model, spy, keep=0.5, processor=processor):
            model(**inputs)
        tessella.apply(model, spy, keep=0.5, processor=processor)
        with torch.no_grad():
            model(**inputs)
        tessella.remove(model)
        assert seen == [[words], [words]]
        seen.clear()


def test_what_is_remembered_of_a_model_holds_for_what_wraps_it() -> None:
    model = tiny_llava()
    remember(model, tokenizer())
    wrapper = torch.nn.Sequential(model)
    seen: list[Any] = []
    with torch.no_grad(), tessella.reduce(wrapper, Spy(lambda v: v.words(), seen=seen), keep=0.5):
        model(**prompt([BOS, PICTURE, 11]))
    assert seen == [["w11"]]


def test_padding_is_a_token_of_its_own() -> None:
    """What the tests above hide in padding is no special token, so a wrong mask would show it."""
    assert tokenizer().decode([60]) == "w60"
    assert tokenizer().decode([PAD], skip_special_tokens=True) == ""
