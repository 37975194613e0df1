"""recoverable against its specification: a slow reference with scikit-learn's outliers, limits, quirks, and a model."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import LocalOutlierFactor
from torch import Tensor

import tessella
from tessella.core.budget import Budget, Counts
from tessella.core.errors import MethodError, UnsupportedError
from tessella.core.registry import make
from tessella.core.view import Captures
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info
from tessella.testing.tiny import tiny_llava

INFO = default_info()
HEADS, WIDTH, FEATURES, SHARED = 2, 4, 5, 6
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "reduction" / "recoverable_c128_a.npz"


def view_of(there: list[int], seed: int) -> ArrayView:
    """Random pictures of those many patches, some keys and patches far from the others; padding holds loud values."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(len(there), *shape, generator=generator)

    features, keys, patches = draw(max(there), FEATURES), draw(HEADS, max(there), WIDTH), draw(max(there), SHARED)
    query, question = draw(HEADS, WIDTH), draw(SHARED)
    keys[:, :, ::9] += 2 * query[:, :, None]
    patches[:, ::7] = 0.05 * patches[:, ::7] + question[:, None]
    for b, n in enumerate(there):
        features[b, n:], keys[b, :, n:], patches[b, n:] = 50.0, 50.0, 50.0
    return ArrayView(
        features=features,
        encoder_keys=keys,
        class_projection=(query, draw(HEADS, WIDTH)),
        text_tower=(question, patches),
        num_tokens=there,
    )


def free(*there: int) -> Counts:
    return Counts(there, there, asked=False)


def outlying(values: list[float], neighbours: int) -> float:
    """Share of outliers under contamination "auto"."""
    if len(values) < 2:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of copies, and of more neighbours than values
        return float((LocalOutlierFactor(n_neighbors=neighbours).fit_predict(np.array(values)[:, None]) == -1).mean())


def slow(
    view: ArrayView, b: int, n: int, most: int, near: tuple[int, int], quirks: bool
) -> tuple[list[int], list[int], Tensor]:
    """The specification in float64, step by step: kept patches, centres, and all tokens."""
    hidden = view.features()[b, :n].double()
    keys = view.encoder_keys(0)[b, :, :n].double().transpose(0, 1).reshape(n, -1)
    query, own = (t[b].double().reshape(-1) for t in view.class_projection(0))
    c = (torch.cat([own[None], keys]) @ query / len(query) ** 0.5).softmax(dim=0)[1:].tolist()
    question, patches = view.text_tower()
    sim = torch.nn.functional.cosine_similarity(patches[b, :n].double(), question[b : b + 1].double())
    likeness = (sim / question.shape[1] ** 0.5).tolist()

    def highest(scores: list[float], among: list[int], count: int) -> list[int]:
        return sorted(among, key=lambda i: (-scores[i], i))[:count]

    num_vision = int(n * outlying(c, near[0]))
    vision = highest(c, list(range(n)), num_vision)
    masked = [min(likeness) if i in vision else s for i, s in enumerate(likeness)]
    num_text = int((n - num_vision) * outlying(masked, near[0]))
    text = highest(likeness, [i for i in range(n) if i not in vision], num_text)
    rest = [i for i in range(n) if i not in vision and i not in text]
    share = outlying([c[i] for i in rest], near[1])
    num_centres = min(len(rest), int((FEATURES if quirks else len(rest)) * share))
    while num_text and num_vision + num_text + num_centres + (num_centres > 0) > most:
        num_text -= 1
    while num_vision and num_vision + num_text + num_centres + (num_centres > 0) > most:
        num_vision -= 1
    while num_centres and num_vision + num_text + num_centres + 1 > most:
        num_centres -= 1
    if num_vision + num_text + num_centres == 0:
        num_vision = 1
    vision = highest(c, list(range(n)), num_vision)
    text = highest(likeness, [i for i in range(n) if i not in vision], num_text)
    rest = [i for i in range(n) if i not in vision and i not in text]
    centres = highest(c, rest, num_centres)
    key_of = {i: keys[place if quirks else i] for place, i in enumerate(rest)}
    tokens = [hidden[i] for i in sorted(vision + text)]
    for a in centres:
        w = {
            i: float(torch.nn.functional.cosine_similarity(key_of[a], key_of[i], dim=0)) + 50 * likeness[i]
            for i in rest
            if i != a
        }
        members = sorted(w, key=lambda i: (-w[i], i))[:32]
        tokens.append(hidden[a] + sum((c[i] * hidden[i] for i in members), torch.zeros_like(hidden[0])))
    if centres:
        tokens.append(sum((c[i] * hidden[i] for i in rest if i not in centres), torch.zeros_like(hidden[0])))
    return sorted(vision + text), centres, torch.stack(tokens)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 120), min_size=1, max_size=3),
    st.booleans(),
    st.sampled_from([(20, 10), (6, 3)]),
    st.booleans(),
    st.integers(0, 999),
)
def test_equals_the_reference_on_ragged_pictures(
    there: list[int], asked: bool, near: tuple[int, int], quirks: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    view = view_of(there, seed)
    keep = [int(torch.randint(1, n + 1, (1,), generator=generator)) for n in there] if asked else there
    method = make(
        "recoverable",
        neighbours=near[0],
        center_neighbours=near[1],
        quirk_center_count=quirks,
        quirk_center_keys=quirks,
    )
    out = method.reduce(view, Counts(tuple(keep), tuple(there), asked))
    assert out.order is not None
    assert out.embeddings is not None
    assert out.num_kept == tuple(out.keep.sum(dim=1).tolist())
    for b, n in enumerate(there):
        kept, centres, tokens = slow(view, b, n, keep[b], near, quirks)
        size = len(tokens)
        assert out.num_kept[b] == size <= keep[b]
        last = [i for i in range(n) if i not in kept and i not in centres][: int(bool(centres))]
        assert out.order[b, :size].tolist() == [*kept, *centres, *last]
        torch.testing.assert_close(out.embeddings[b, :size].double(), tokens, rtol=1e-4, atol=1e-5)
        assert torch.equal(out.embeddings[b, : len(kept)], view.features()[b, kept])


def test_likeness_is_the_cosine_over_the_root_of_the_width() -> None:
    question, patches = (
        torch.tensor([[3.0, 0.0, 0.0, 4.0]]),
        torch.tensor([[[6.0, 0.0, 0.0, 8.0], [0.0, 2.0, 0.0, 0.0]]]),
    )
    method: Any = make("recoverable")
    similarity = method.similarity(ArrayView(features=torch.zeros(1, 2, 1), text_tower=(question, patches)))
    torch.testing.assert_close(similarity, torch.tensor([[0.5, 0.0]]))


def test_quirks_change_centres_and_nothing_before_them() -> None:
    """On the recording: with the quirks off the first K rows, and what was kept, are the same."""
    with np.load(GOLDEN) as file:
        query, keys, features = file["q_last"], file["k_last"], file["hidden_patch"]
        view = ArrayView(
            features=features, class_projection=(query[:, None, 0], keys[:, None, 0]), encoder_keys=keys[:, None, 1:]
        )
        similarity, num = torch.as_tensor(file["text_similarity"]), len(file["index_vision"]) + len(file["index_text"])
    outs = []
    for settings_ in ({}, {"quirk_center_count": True}, {"quirk_center_keys": True}):
        method: Any = make("recoverable", **settings_)
        outs.append(method.recover(view, method.attention(view), similarity, free(576)))
    plain, counted, keyed = outs
    for other in (counted, keyed):
        assert torch.equal(plain.embeddings[:, :num], other.embeddings[:, :num])
        assert torch.equal(plain.order[:, :num], other.order[:, :num])
    assert plain.num_kept == (num + 11 + 1,)  # 11 outliers of 523 patches; of 128 channels two
    assert counted.num_kept == (num + 2 + 1,)
    assert plain.num_kept == keyed.num_kept
    assert not torch.allclose(plain.embeddings[:, num], keyed.embeddings[:, num], atol=1e-3)


def test_low_outliers_bring_in_high_tokens() -> None:
    """Both tails count: one patch far below the others makes the one most attended stay."""
    method: Any = make("recoverable")
    attention = torch.linspace(0.0100, 0.0102, 60)[None].clone()
    attention[0, 7] = 0.0001
    view = view_of([60], 0)
    shares = method.shares(attention, torch.linspace(0, 1, 60)[None], view.mask)[0].tolist()
    assert shares == [1 / 60, 0.0, 1 / 59]
    num = method.counted(view, attention, torch.linspace(0, 1, 60)[None], free(60))
    assert num == [(1, 0, 1)]
    assert [t.tolist() for t in method.chosen(attention, attention, view.mask, num)] == [[[59]], [[]], [[58]]]


@pytest.mark.parametrize("there", [1, 2, 40])
def test_without_any_outlier_one_patch_stays(there: int) -> None:
    """Equal keys, features and patches, of no variance."""
    flat = torch.ones(1, 1, there, 4)
    view = ArrayView(
        features=flat[:, 0],
        encoder_keys=flat,
        class_projection=(torch.ones(1, 1, 4), torch.ones(1, 1, 4)),
        text_tower=(torch.ones(1, 3), torch.ones(1, there, 3)),
    )
    out = make("recoverable").reduce(view, free(there))
    assert (out.num_kept, out.keep[0].nonzero()[:, 0].tolist(), out.order.tolist()) == ((1,), [0], [[0]])  # type: ignore[union-attr]
    assert torch.equal(out.embeddings, flat[:, 0, :1])  # type: ignore[arg-type]


def test_a_patch_goes_to_the_centre_that_wants_it_most_or_to_the_token_for_the_rest() -> None:
    view = view_of([90], 4)
    method: Any = make("recoverable", center_neighbours=2, cluster_size=5, text_weight=0.0)
    out = method.reduce(view, free(90))
    num = method.counted(view, method.attention(view), method.similarity(view), free(90))
    ((vision, text, num_centres),) = num
    assert num_centres >= 2
    assert out.order is not None
    assert out.source is not None
    centres, last = out.order[0, vision + text : -1].tolist(), int(out.order[0, -1])
    keys = method.keys(view)[0]
    cosine = torch.nn.functional.cosine_similarity(keys[:, None], keys[None], dim=2)
    rest = [i for i in range(90) if i in centres or i == last or not out.keep[0, i]]
    near = {c: sorted((i for i in rest if i != c), key=lambda i: -float(cosine[c, i]))[:5] for c in centres}
    for i in set(rest) - {*centres, last}:
        takers = [c for c in centres if i in near[c]]
        assert out.source[0, i] == (max(takers, key=lambda c: float(cosine[c, i])) if takers else last)


def test_settings_and_promises() -> None:
    for change in ({"neighbours": 0}, {"center_neighbours": 0}, {"cluster_size": -1}):
        with pytest.raises(MethodError, match=f"recoverable: {next(iter(change))} must be >= "):
            make("recoverable", **change)
    method = make("recoverable")
    assert method.captures(INFO) == Captures(encoder=(47,), text_tower=True)
    assert [s.promised_count for s in method.steps(INFO, Budget(5))] == ["at_most"]
    assert [s.promised_count for s in method.steps(INFO, None)] == ["adaptive"]
    assert method.card.prompt_dependent
    with pytest.raises(UnsupportedError, match="recoverable needs a class token"):
        tessella.reduce(tiny_llava("siglip"), "recoverable", keep=4)
    with pytest.raises(UnsupportedError, match="recoverable needs a text tower"):
        tessella.reduce(tiny_llava(), "recoverable", keep=4)


# -- on the embedded model, which has a text tower -------------------------------------------------------------------


def test_logits_on_mini_equal_a_short_prompt_made_by_hand() -> None:
    model, processor = tessella.load("mini")
    generator = np.random.default_rng(0)
    pictures = [(generator.random((112, 112, 3)) * 255).astype("uint8") for _ in range(2)]
    texts = ["<image> what color is the star?", "<image> how many circles are there in this picture?"]
    batch = processor(images=pictures, text=texts, return_tensors="pt", padding=True)
    tower: Any = tessella.load_text_tower("mini")
    with torch.no_grad():
        with tessella.reduce(model, "recoverable") as run:
            together = model(**batch).logits[:, -1]
            kept = [row[0].tolist() for row in run.kept]
        for row, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
            inputs = processor(images=picture, text=text, return_tensors="pt")
            states = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states
            layer = model.model.vision_tower.encoder.layers[-1]
            normed = layer.layer_norm1(states[-2])
            query, keys = layer.self_attn.q_proj(normed), layer.self_attn.k_proj(normed)
            question = tower.of_texts([text.removeprefix("<image> ")])
            view = ArrayView(
                features=states[model.config.vision_feature_layer][:, 1:],
                class_projection=(query[:, None, 0], keys[:, None, 0]),
                encoder_keys=keys[:, None, 1:],
                text_tower=(question, tower.of_patches(states[-1][:, 1:])),
            )
            _, _, tokens = slow(view, 0, 196, 196, (20, 10), False)
            ids = inputs["input_ids"][0]
            visual = (ids == model.config.image_token_index).nonzero()[:, 0]
            embed = model.get_input_embeddings()
            parts = [
                embed(ids[: visual[0]]),
                model.model.multi_modal_projector(tokens.float()),
                embed(ids[visual[-1] + 1 :]),
            ]
            theirs = model(inputs_embeds=torch.cat(parts)[None]).logits[0, -1]
            torch.testing.assert_close(together[row], theirs, atol=1e-3, rtol=1e-3)
            assert len(kept[row]) == len(tokens)
