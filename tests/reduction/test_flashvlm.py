"""flashvlm against a slow float64 reference of its specification."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tessella
from tessella.core.budget import Counts
from tessella.core.errors import MethodError, UnsupportedError
from tessella.core.registry import make
from tessella.core.view import Captures
from tessella.reduction.flashvlm import rounds, thinned
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info
from tessella.testing.families import tiny_family

INFO = default_info()
SIGLIP = dataclasses.replace(INFO, family="siglip", has_class_token=False)
PACKED = dataclasses.replace(SIGLIP, family="qwen", packs_pictures=True)


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)


def spread(x: Tensor) -> Tensor:
    return (x - x.min()) / (x.max() - x.min() + 1e-6)


def reference_relevance(projected: Tensor, text: Tensor, gate: str) -> Tensor:
    """Of one picture, in float64; a loop over its tokens."""
    projected, text = projected.double(), text.double()
    length = (unit(text) if gate == "post" else text).norm(dim=1)
    weighted = unit(text) * (length / (length.max() + 1e-6))[:, None]
    out = []
    for token in unit(projected):
        similarity = weighted @ token
        out.append(similarity @ (similarity / 0.05).softmax(dim=0))
    s = spread((torch.stack(out) / 0.01).softmax(dim=0) ** 2.5)
    return spread(torch.where(s < s.quantile(0.995), s * 0.1, s))


def reference_blend(saliency: Tensor, relevance: Tensor, eta: float) -> Tensor:
    return ((1 - eta) * saliency.clamp(min=1e-6).log() + eta * relevance.clamp(min=1e-6).log()).exp()


def reference_vispruner(features: Tensor, score: Tensor, keep: int, per_round: int = 8) -> list[int]:
    """Half by score; of the rest, even places that resemble an odd one go, a few a round."""
    order = sorted(range(len(score)), key=lambda i: (-float(score[i]), i))
    important, rest = order[: keep // 2], order[keep // 2 :]
    while len(rest) > keep - keep // 2:
        drop = min(per_round, len(rest) - (keep - keep // 2))
        vectors = unit(features.double()[rest])
        nearest = (vectors[0::2] @ vectors[1::2].T).amax(dim=1)
        even = [rest[0::2][i] for i in nearest.argsort(descending=True).tolist()]
        rest = even[drop:] + rest[1::2]
    return sorted(important + rest)


def reference_flashvlm(
    features: Tensor, attention: Tensor, projected: Tensor, text: Tensor, keep: int, eta: float = 0.5, gate: str = "raw"
) -> list[int]:
    saliency = spread(attention.double().mean(dim=0))
    score = reference_blend(saliency, reference_relevance(projected, text, gate), eta)
    return reference_vispruner(features, score, keep)


@dataclasses.dataclass
class Pictures:
    """Random pictures of several sizes with texts of several lengths, padded with loud values."""

    sizes: list[int]
    texts: list[int]
    seed: int = 0

    def arrays(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Features, attention, projected tokens, text and its mask."""
        gen = torch.Generator().manual_seed(self.seed)
        batch, most, words = len(self.sizes), max(self.sizes), max(self.texts)
        features = torch.randn(batch, most, 12, generator=gen)
        attention = torch.randn(batch, 3, most, generator=gen).softmax(dim=2)
        projected = torch.randn(batch, most, 10, generator=gen)
        text = torch.randn(batch, words, 10, generator=gen) * torch.rand(batch, words, 1, generator=gen)
        real = torch.arange(words) < torch.tensor(self.texts)[:, None]
        for b, n in enumerate(self.sizes):
            features[b, n:], attention[b, :, n:], projected[b, n:] = 30.0, 30.0, 30.0
            text[b, self.texts[b] :] = 30.0
        return features, attention, projected, text, real

    def view(self, **given: object) -> ArrayView:
        features, attention, projected, text, real = self.arrays()
        return ArrayView(
            features=features,
            class_attention={INFO.feature_layer: attention},
            embeddings=projected,
            text=(text, real),
            num_tokens=self.sizes,
            **given,  # type: ignore[arg-type]
        )

    def item(self, b: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        features, attention, projected, text, _ = self.arrays()
        n = self.sizes[b]
        return features[b, :n], attention[b, :, :n], projected[b, :n], text[b, : self.texts[b]]


def kept(keep: Tensor) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in keep]


# -- against the reference -------------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    eta=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    gate=st.sampled_from(["raw", "post"]),
    seed=st.integers(0, 999),
)
def test_equals_the_reference(sizes: list[int], eta: float, gate: str, seed: int) -> None:
    """Ragged pictures and texts, any count."""
    gen = torch.Generator().manual_seed(seed)
    pictures = Pictures(sizes, [int(torch.randint(1, 9, (1,), generator=gen)) for _ in sizes], seed)
    keep = tuple(int(torch.randint(1, n + 1, (1,), generator=gen)) for n in sizes)
    method, view = make("flashvlm", eta=eta, norm_gate=gate), pictures.view()
    relevance = method.relevance(view)  # type: ignore[attr-defined]
    reduction = method.reduce(view, Counts(keep, tuple(sizes)))
    assert reduction.num_kept == keep
    for b, n in enumerate(sizes):
        features, attention, projected, text = pictures.item(b)
        want = reference_relevance(projected, text, gate)
        torch.testing.assert_close(relevance[b, :n].double(), want, rtol=1e-3, atol=1e-5)
        saliency = spread(attention.double().mean(dim=0))
        score = reference_blend(saliency, relevance[b, :n].double(), eta)  # ties at eta = 1 as float32 has them
        assert kept(reduction.keep)[b] == reference_vispruner(features, score, keep[b])


@pytest.mark.parametrize(("num_tokens", "keep"), [(100, 25), (144, 16), (256, 129), (64, 1), (65, 64)])
def test_equals_the_whole_reference(num_tokens: int, keep: int) -> None:
    pictures = Pictures([num_tokens] * 2, [7, 4], seed=num_tokens)
    got = kept(make("flashvlm").reduce(pictures.view(), Counts((keep,) * 2, (num_tokens,) * 2)).keep)
    assert got == [reference_flashvlm(*pictures.item(b), keep) for b in range(2)]


def test_eta_zero_is_vispruner() -> None:
    pictures = Pictures([144, 90], [5, 5])
    got = kept(make("flashvlm", eta=0.0).reduce(pictures.view(), Counts((33, 20), (144, 90))).keep)
    for b, keep in enumerate((33, 20)):
        features, attention, _, _ = pictures.item(b)
        assert got[b] == reference_vispruner(features, attention.double().mean(dim=0), keep)


@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=3), per_round=st.integers(1, 9), seed=st.integers(0, 99))
def test_thinning_keeps_the_order_of_the_reference(sizes: list[int], per_round: int, seed: int) -> None:
    """In float64 the lists agree place for place: the order of one round divides the next."""
    gen = torch.Generator().manual_seed(seed)
    targets = [max(min(n, 1), int(torch.randint(0, n + 1, (1,), generator=gen))) for n in sizes]
    vectors = torch.nn.functional.normalize(torch.randn(len(sizes), 41, 6, generator=gen).double(), dim=2)
    lists = [torch.randperm(41, generator=gen)[:n].tolist() for n in sizes]
    rest = torch.tensor([row + [-1] * (max(sizes) - len(row)) for row in lists], dtype=torch.long)
    got = thinned(rest, vectors, rounds(sizes, targets, per_round))
    for b, row in enumerate(lists):
        while len(row) > targets[b]:
            drop = min(per_round, len(row) - targets[b])
            nearest = (vectors[b, row[0::2]] @ vectors[b, row[1::2]].T).amax(dim=1)
            row = [row[0::2][i] for i in nearest.argsort(descending=True).tolist()][drop:] + row[1::2]
        assert got[b].tolist() == row + [-1] * (got.shape[1] - len(row))


# -- what the specification promises ---------------------------------------------------------------------------------


def test_the_order_of_words_does_not_matter() -> None:
    pictures = Pictures([100], [12])
    view, counts = pictures.view(), Counts((31,), (100,))
    features, attention, projected, text, real = pictures.arrays()
    order = torch.randperm(12)
    shuffled = ArrayView(
        features=features, class_attention=attention, embeddings=projected, text=(text[:, order], real[:, order])
    )
    for gate in ("raw", "post"):
        method = make("flashvlm", norm_gate=gate)
        assert torch.equal(method.reduce(view, counts).keep, method.reduce(shuffled, counts).keep)


def test_the_most_relevant_token_is_kept_at_eta_one() -> None:
    for seed in range(20):
        pictures = Pictures([80], [6], seed)
        best = int(reference_relevance(*pictures.item(0)[2:], gate="raw").argmax())
        assert best in kept(make("flashvlm", eta=1.0).reduce(pictures.view(), Counts((2,), (80,))).keep)[0]


def test_the_gate_weighs_words_by_length() -> None:
    """A token that is the short word loses to one that is half the long word; "post" sees no length."""
    text = torch.tensor([[[10.0, 0, 0], [0, 0.1, 0]]])
    projected = torch.tensor([[[1.0, 0, 1], [0, 1, 0], [0, 0, 1]]])
    given = {"embeddings": projected, "text": (text, torch.ones(1, 2, dtype=torch.bool))}
    raw, post = (make("flashvlm", norm_gate=g).relevance(ArrayView(**given)) for g in ("raw", "post"))  # type: ignore
    assert raw.argmax(dim=1).tolist() == [0]
    assert post.argmax(dim=1).tolist() == [1]


def test_the_question_alone() -> None:
    picture = Pictures([50], [9], seed=4)
    features, attention, projected, text, real = picture.arrays()
    view = picture.view(question=(text[:, 6:], real[:, 6:]))
    keep = kept(make("flashvlm", text_scope="question").reduce(view, Counts((9,), (50,))).keep)[0]
    assert keep == reference_flashvlm(features[0], attention[0], projected[0], text[0, 6:], 9)
    assert keep != reference_flashvlm(features[0], attention[0], projected[0], text[0], 9)


def test_shares_of_the_count() -> None:
    picture = Pictures([60], [5], seed=2)
    saliency = picture.item(0)[1].double().mean(dim=0)
    by_score = make("flashvlm", eta=0.0, important_ratio=1.0)
    assert kept(by_score.reduce(picture.view(), Counts((9,), (60,))).keep) == [
        sorted(saliency.topk(9).indices.tolist())
    ]
    tenth = make("flashvlm", eta=0.0, important_ratio=0.1)
    picks = tenth.select(picture.view(), Counts((50,), (60,)))[0].tolist()  # type: ignore[attr-defined]
    assert picks[:5] == saliency.topk(5).indices.tolist()
    assert rounds([10], [9], 8) == [[(10, 1)]]
    assert rounds([9], [1], 8) == [[(9, 5)], [(4, 2)], [(2, 1)]]  # no more than there are even places


# -- encoders without a class token ----------------------------------------------------------------------------------


def test_without_class_token() -> None:
    method, counts = make("flashvlm"), Counts((9,), (40,))
    fallback = make("flashvlm", cls_fallback="received")
    picture = Pictures([40], [5])
    features, _, projected, text, _ = picture.arrays()
    received = torch.rand(1, 40)
    with pytest.raises(UnsupportedError, match=r"flashvlm needs a class token; .* siglip model has none"):
        method.reduce(picture.view(attention_received=received, info=SIGLIP), counts)
    here = kept(fallback.reduce(picture.view(attention_received=received, info=SIGLIP), counts).keep)[0]
    assert here == reference_flashvlm(features[0], received, projected[0], text[0], 9)
    packed = kept(method.reduce(picture.view(attention_received=received, info=PACKED), counts).keep)[0]
    assert packed == reference_flashvlm(projected[0], received, projected[0], text[0], 9)  # V = P
    assert here != packed
    assert method.needs(SIGLIP) == ("class_token", "features", "text")
    assert method.needs(PACKED) == fallback.needs(SIGLIP) == ("attention_received", "features", "text")
    assert method.remarks(PACKED) == ("attention received stands in for the class token",)
    assert method.remarks(SIGLIP) == method.remarks(INFO) == fallback.remarks(INFO) == ()
    assert method.captures(INFO) == Captures(encoder=(22,))


def test_runs_on_a_model_of_either_kind() -> None:
    for family, noted in (("llava", False), ("qwen2_5_vl", True)):
        tiny = tiny_family(family)
        model = tiny.model()
        with torch.no_grad(), tessella.reduce(model, "flashvlm", keep=3) as run:
            model(**tiny.inputs())
        record = run.report.last
        assert record is not None
        assert set(sum(record.tokens_kept, ())) == {3}
        assert any("attention received stands in" in note for note in run.report.notes) == noted


# -- bad input -------------------------------------------------------------------------------------------------------


def test_no_text_is_saliency_alone() -> None:
    picture = Pictures([50, 50], [5, 5])
    features, attention, projected, text, real = picture.arrays()
    want = kept(make("flashvlm", eta=0.0).reduce(picture.view(), Counts((9, 9), (50, 50))).keep)
    given = {"features": features, "class_attention": attention, "embeddings": projected}
    for pair in ((text[:, :0], real[:, :0]), (text, real & False)):
        view = ArrayView(**given, text=pair)  # type: ignore[arg-type]
        assert kept(make("flashvlm").reduce(view, Counts((9, 9), (50, 50))).keep) == want


def test_zero_variance_and_one_token() -> None:
    view = ArrayView(
        features=torch.zeros(1, 30, 4),
        class_attention=torch.full((1, 2, 30), 1 / 31),
        embeddings=torch.ones(1, 30, 6),
        text=(torch.zeros(1, 3, 6), torch.ones(1, 3, dtype=torch.bool)),
    )
    reduction = make("flashvlm").reduce(view, Counts((8,), (30,)))
    assert len(kept(reduction.keep)[0]) == 8
    assert kept(reduction.keep)[0][:4] == [0, 1, 2, 3]  # equal scores: the earlier token
    one = Pictures([1], [2])
    assert kept(make("flashvlm").reduce(one.view(), Counts((1,), (1,))).keep) == [[0]]


def test_everything_and_nothing() -> None:
    pictures = Pictures([20, 30], [3, 3])
    assert kept(make("flashvlm").reduce(pictures.view(), Counts((20, 0), (20, 30))).keep) == [list(range(20)), []]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"eta": 1.5}, r"eta is a share in \[0, 1\]; got 1.5"),
        ({"important_ratio": -0.1}, r"important_ratio is a share in \[0, 1\]; got -0.1"),
        ({"temperature": 0.0}, "temperature must be > 0; got 0.0"),
        ({"per_round": 0}, "per_round must be > 0; got 0"),
        ({"norm_gate": "none"}, "norm_gate must be 'raw' or 'post'; got 'none'"),
        ({"text_scope": "system"}, "text_scope must be 'all' or 'question'; got 'system'"),
        ({"cls_fallback": "first"}, "cls_fallback must be None or 'received'; got 'first'"),
    ],
)
def test_settings_are_checked(setting: dict[str, object], message: str) -> None:
    with pytest.raises(MethodError, match=f"flashvlm: {message}"):
        make("flashvlm", **setting)
