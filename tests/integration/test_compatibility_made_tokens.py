"""Tokens of a rewriter's own making, fewer or more than before: rows of a batch against prompts of embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from comparing import STEPS, close, generate, rows_of
from torch import Tensor

import tessella
from tessella.core.budget import Counts
from tessella.core.cards import Card
from tessella.core.contracts import Method, Rewriter
from tessella.core.errors import MethodError, UnsupportedError
from tessella.core.layout import THUMBNAIL
from tessella.core.pipeline import Part, Pipeline, as_pipeline
from tessella.core.rewriting import Draft, Grid
from tessella.testing.tiny import IMAGE_TOKEN, tiny_inputs, tiny_llava

SIDE = 4


@dataclass(frozen=True)
class Regrid(Rewriter):
    """A picture as four tokens of the whole and its grid at another size, of which every `skip`th token goes."""

    size: tuple[int, int] = (3, 2)
    skip: int = 3

    id = "regrid"
    card = Card(
        title="Regrid",
        stages=("input",),
        baseline=True,
        needs=("several_grids",),
        count="adaptive",
        count_reason="told",
        takes_keep=False,
    )

    def grids(self, tokens: Tensor, picture: Tensor) -> tuple[Grid, ...]:
        planes = tokens.T.view(1, -1, SIDE, SIDE)
        whole = torch.nn.functional.adaptive_avg_pool2d(planes, 2)[0].flatten(1).T
        other = torch.nn.functional.interpolate(planes, size=self.size, mode="bilinear")[0].flatten(1).T
        kept = torch.arange(len(other)) % self.skip != 0
        return Grid(whole, 2, 2, picture, role=THUMBNAIL), Grid(other, *self.size, picture, kept=kept)

    def rewrite(self, draft: Draft, counts: Counts) -> Draft:
        encoded = zip(draft.encode(draft.pictures), draft.pictures, strict=True)
        return draft.replace([[self.grids(*pair)] for pair in encoded])


FEWER, MORE = Regrid(), Regrid(size=(5, 6), skip=4)  # 8 of 16 tokens, and 26
STAYS = {FEWER: 8, MORE: 26}
both = pytest.mark.parametrize("method", [FEWER, MORE], ids=["fewer", "more"])


def reduce(model: Any, method: Method, *behind: str) -> Any:
    parts = [part for text in behind for part in as_pipeline(text).parts]
    return tessella.reduce(model, Pipeline((Part(method), *parts)))


def by_hand(model: Any, inputs: dict[str, Any], method: Regrid) -> list[tuple[Tensor, list[bool]]]:
    """Each row's embeddings [S, C] with what stays of its pictures in place, and which of them are text."""
    out = []
    for row in rows_of(inputs):
        parts, text = [], []
        encoded: Any = () if row.pictures is None else model.model.get_image_features(row.pictures).pooler_output
        pictures = iter(zip(encoded, () if row.pictures is None else row.pictures, strict=True))
        run = 0
        for token in row.ids:
            run = run + 1 if token == IMAGE_TOKEN else 0
            if not run:
                parts.append(model.get_input_embeddings()(torch.tensor([token])))
                text.append(True)
            elif run % SIDE**2 == 1:
                whole, other = method.grids(*next(pictures))
                stays = torch.cat([whole.tokens, other.tokens[other.kept]])
                parts.append(stays)
                text += [False] * len(stays)
        out.append((torch.cat(parts), text))
    return out


def continued(model: Any, embeddings: Tensor, **kwargs: Any) -> list[list[int]]:
    """New tokens behind embeddings alone."""
    mask = torch.ones(1, len(embeddings), dtype=torch.long)
    kwargs = {"max_new_tokens": STEPS, "suppress_tokens": [IMAGE_TOKEN], **kwargs}
    return model.generate(inputs_embeds=embeddings[None], attention_mask=mask, **kwargs).tolist()


@both
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("images", [(1,), (1, 1), (2, 0, 1), (1, 3)])
def test_made_tokens_forward(model: Any, images: tuple[int, ...], padding: Any, method: Regrid) -> None:
    inputs = tiny_inputs(images, padding=padding)
    with reduce(model, method) as run:
        full = run.expand(model(**inputs).logits)
        assert [[len(k) for k in row] for row in run.kept] == [[STAYS[method]] * n for n in images]
    assert full.shape[:2] == inputs["input_ids"].shape
    wanted = by_hand(model, inputs, method)
    for row, mask, mine, (embeddings, text) in zip(
        rows_of(inputs), inputs["attention_mask"], full, wanted, strict=True
    ):
        is_text = torch.tensor(row.ids) != IMAGE_TOKEN
        close(mine[mask.bool()][is_text], model(inputs_embeds=embeddings[None]).logits[0, text])
        assert mine[mask.bool()][~is_text].isnan().all()


@both
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("images", [(1,), (2, 0, 1), (1, 3)])
def test_made_tokens_greedy(model: Any, images: tuple[int, ...], cached: bool, method: Regrid) -> None:
    inputs = tiny_inputs(images, padding="left")
    with reduce(model, method):
        out = generate(model, inputs, do_sample=False, use_cache=cached)
    for mine, (embeddings, _) in zip(out, by_hand(model, inputs, method), strict=True):
        assert [mine] == continued(model, embeddings, do_sample=False)


@both
def test_made_tokens_beams_and_samples(model: Any, method: Regrid) -> None:
    inputs = tiny_inputs((2, 1), padding="left")
    options = {"num_beams": 3, "num_return_sequences": 2, "do_sample": False}
    with reduce(model, method) as run:
        beams = generate(model, inputs, **options)
        assert run.report.last is not None
        assert run.report.last.tokens_kept == ((STAYS[method],) * 2,) * 3 + ((STAYS[method],),) * 3
    for row, (embeddings, _) in enumerate(by_hand(model, inputs, method)):
        assert beams[2 * row : 2 * row + 2] == continued(model, embeddings, **options)
    one = tiny_inputs((2,))
    torch.manual_seed(7)
    with reduce(model, method):
        sampled = generate(model, one, num_return_sequences=3, do_sample=True)
    torch.manual_seed(7)
    wanted = by_hand(model, one, method)[0][0]
    assert sampled == continued(model, wanted, num_return_sequences=3, do_sample=True)


@both
def test_made_tokens_prompt_comes_back(model: Any, method: Regrid) -> None:
    """Sequences begin with the user's prompt, and limits on the whole length count it."""
    inputs = tiny_inputs((2, 0), padding="left")
    length = inputs["input_ids"].shape[1]
    with reduce(model, method):
        out = model.generate(**inputs, do_sample=False, suppress_tokens=[IMAGE_TOKEN], max_length=length + 5)
    assert out.shape == (2, length + 5)
    assert torch.equal(out[:, :length], inputs["input_ids"])


@both
@pytest.mark.parametrize("behind", [(), ("fastv@2:4",)])
def test_made_tokens_second_turn(model: Any, method: Regrid, behind: tuple[str, ...]) -> None:
    """The cache speaks of the user's prompt: whole conversation and whole mask, or new tokens alone."""
    inputs = tiny_inputs((2, 1), padding="left")
    mask, more = inputs["attention_mask"], torch.tensor([[9, 10, 11]] * 2)
    options = {"do_sample": False, "suppress_tokens": [IMAGE_TOKEN], "max_new_tokens": STEPS}
    with reduce(model, method, *behind):
        first = model.generate(**inputs, **options, return_dict_in_generate=True)
        whole = torch.cat([first.sequences, more], dim=1)
        longer = torch.cat([mask, torch.ones(2, STEPS + 3, dtype=torch.long)], dim=1)
        cache = first.past_key_values
        cached = model.generate(input_ids=whole, attention_mask=longer, past_key_values=cache, **options)
        again = model.generate(**{**inputs, "input_ids": whole, "attention_mask": longer}, **options)
    assert cached.shape == again.shape
    if not behind:  # what fastv keeps depends on the last token, which is another
        assert torch.equal(cached, again)
    with reduce(model, method, *behind):
        cache = model(**inputs, use_cache=True).past_key_values
        step = model(input_ids=more, attention_mask=longer[:, : mask.shape[1] + 3], past_key_values=cache).logits
    assert cache.get_seq_length() == mask.shape[1] + 3
    if not behind:
        with reduce(model, method):
            ids = torch.cat([inputs["input_ids"], more], dim=1)
            want = model(**{**inputs, "input_ids": ids, "attention_mask": longer[:, : ids.shape[1]]}).logits
        close(step, want[:, -3:])


@both
def test_made_tokens_report(model: Any, method: Regrid, tmp_path: Any) -> None:
    """Tokens and cache against the prompt that the user gave; the pictures that the grids show."""
    inputs = tiny_inputs((2,))
    length = inputs["input_ids"].shape[1]
    with reduce(model, method) as run:
        model(**inputs)
        assert run.is_rewritten
        assert [b.role for b in run.layout.blocks[0]] == [THUMBNAIL, 0] * 2
        assert [p.size for p in run.pictures] == [(28, 28)] * 4
        run.show(tmp_path / "seen.png")
    report = run.report
    assert (report.tokens_in, report.tokens_kept) == (32, 2 * STAYS[method])
    each_token = 2 * 2 * 8 * 4  # keys and values, two heads of eight, float32
    assert report.full_cache_bytes == 4 * length * each_token
    assert report.last is not None
    assert report.last.cache_lengths == (length + 2 * (STAYS[method] - 16),) * 4
    assert (tmp_path / "seen.png").stat().st_size > 1000


def test_cut_behind_made_tokens(model: Any) -> None:
    """A method that reads tokens decides on those that stay, as it does on a prompt of embeddings."""
    inputs = tiny_inputs((1, 1), padding="left")
    with reduce(model, MORE, "random:0.5 per prompt | fastv@2:4") as run:
        together = generate(model, inputs, do_sample=False)
        kept = [[k.tolist() for k in row] for row in run.kept]
        assert run.report.layers == (26, 26, 8, 8)
    for row, one in enumerate(rows_of(inputs)):
        alone = {"input_ids": torch.tensor([one.ids]), "pixel_values": one.pictures}
        with reduce(model, MORE, "random:0.5 per prompt | fastv@2:4") as run:
            assert generate(model, alone, do_sample=False) == [together[row]]
            assert [k.tolist() for k in run.kept[0]] == kept[row]


def test_thumbnails_of_made_tokens_may_be_dropped(model: Any) -> None:
    with tessella.reduce(model, Pipeline((Part(FEWER),)), thumbnails="drop") as run:
        model(**tiny_inputs((2,)))
        assert [[len(k) for k in row] for row in run.kept] == [[4, 4]]


def test_made_tokens_labels(model: Any) -> None:
    inputs = tiny_inputs((1,))
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE_TOKEN, -100)
    with reduce(model, MORE):
        loss = model(**inputs, labels=labels).loss
    embeddings, text = by_hand(model, inputs, MORE)[0]
    wanted = torch.full((1, len(embeddings)), -100)
    wanted[0, text] = inputs["input_ids"][inputs["input_ids"] != IMAGE_TOKEN]
    close(loss, model(inputs_embeds=embeddings[None], labels=wanted).loss)


def test_made_tokens_position_ids_and_embeddings(model: Any) -> None:
    inputs = tiny_inputs((1, 1), padding="left")
    positions = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    rest = {n: v for n, v in inputs.items() if n != "input_ids"}
    with reduce(model, MORE) as run:
        plain = run.expand(model(**inputs).logits)
        placed = run.expand(model(**inputs, position_ids=positions).logits)
        embedded = run.expand(model(**rest, inputs_embeds=embeds).logits)
    real = inputs["attention_mask"].bool() & (inputs["input_ids"] != IMAGE_TOKEN)
    close(placed[real], plain[real])
    close(embedded[real], plain[real])


def test_made_tokens_are_refused(model: Any) -> None:
    inputs = tiny_inputs((1,))
    with reduce(model, FEWER, "hiprune:2"), pytest.raises(UnsupportedError, match="hiprune reads the vision encoder"):
        model(**inputs)
    with reduce(model, FEWER, "downsample:4") as run:
        with pytest.raises(UnsupportedError, match="downsample changes pictures, but regrid in front of it has made"):
            model(**inputs)
        assert run.num_cuts == 0
    long = r"regrid makes a prompt of 279 tokens of one of 25; this llava model reads at most 256"
    with reduce(model, Regrid(size=(20, 20))), pytest.raises(UnsupportedError, match=long):
        model(**inputs)
    with pytest.raises(MethodError, match="a grid of 2 x 3 tokens was given 5"):
        Grid(torch.zeros(5, 8), 2, 3, torch.zeros(3, 28, 28))
    with pytest.raises(MethodError, match="a grid of 2 x 3 tokens was given 4"):
        Grid(torch.zeros(6, 8), 2, 3, torch.zeros(3, 28, 28), kept=torch.ones(4, dtype=torch.bool))


def test_made_tokens_without_a_class_token() -> None:
    model, inputs = tiny_llava("siglip"), tiny_inputs((2, 1), padding="left")
    with reduce(model, MORE):
        out = generate(model, inputs, do_sample=False)
    for mine, (embeddings, _) in zip(out, by_hand(model, inputs, MORE), strict=True):
        assert [mine] == continued(model, embeddings, do_sample=False)
