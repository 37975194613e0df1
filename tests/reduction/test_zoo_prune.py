"""zoo_prune against its specification and a slow float64 reference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

import tessella
from tessella.core.budget import Counts
from tessella.core.errors import MethodError
from tessella.core.registry import make
from tessella.engine.view import EngineView
from tessella.reduction import zoo_prune
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info
from tessella.testing.family_cases import indices_of

LOUD = 40.0
WIDTH, OUT = 6, 9


def mlp(seed: int = 0, curved: bool = True) -> nn.Module:
    """A connector of two layers, as LLaVA's, in float32."""
    layers = [nn.Linear(WIDTH, OUT), nn.GELU() if curved else nn.Identity(), nn.Linear(OUT, OUT)]
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in (w for layer in layers for w in layer.parameters()):
            weight.copy_(torch.randn(weight.shape, generator=draw) / weight.shape[-1] ** 0.5)
    return nn.Sequential(*layers).requires_grad_(False)


def view_of(there: list[int], seed: int = 0, connector: Callable[[Tensor], Tensor] | None = None) -> ArrayView:
    """Ragged items with loud padding; projected tokens are the connector's."""
    connector, draw = connector or mlp(seed), torch.Generator().manual_seed(seed)
    rows = [torch.randn(n, WIDTH, generator=draw) for n in there]
    features = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=LOUD)
    return ArrayView(embeddings=connector(features), features=features, connector=connector, num_tokens=there)


def sensitivity(features: Tensor, directions: Tensor, connector: nn.Module) -> Tensor:
    """Mean length of the exact derivatives along unit directions, token by token in float64."""
    double = copy.deepcopy(connector).double()
    out = []
    for token in features.double():
        jacobian = torch.autograd.functional.jacobian(double, token)  # [OUT, WIDTH]
        out.append(sum((jacobian @ (d / d.norm())).norm() for d in directions.double()) / len(directions))
    return torch.stack(out)


def picks_by(scores: Tensor, tokens: Tensor, keep: int) -> list[int]:
    """Sensitivity-aware diversity selection of one item, each distance computed anew, in float64."""
    scores, unit = scores.double(), torch.nn.functional.normalize(tokens.double(), dim=1)
    low, high = scores.min(), scores.max()
    weight = torch.ones_like(scores) if high - low <= 1e-5 * high else (scores - low) / (high - low + 1e-8)
    picks: list[int] = []
    for _ in range(keep):
        value = weight * ((1 - unit @ unit[picks].T).amin(dim=1) if picks else 1)
        value[picks] = -torch.inf
        picks.append(int(value.argmax()))
    return picks


def picks_of(view: ArrayView, keep: Sequence[int], **settings: Any) -> list[list[int]]:
    picks = make("zoo_prune", **settings).select(view, Counts(tuple(keep), view.layout.num_tokens))  # type: ignore[attr-defined]
    return [[i for i in row if i >= 0] for row in picks.tolist()]


def scores_of(view: ArrayView, **settings: Any) -> Tensor:
    return make("zoo_prune", **settings).score(view)  # type: ignore[attr-defined]


# -- sensitivity -----------------------------------------------------------------------------------------------------


@given(there=st.lists(st.integers(1, 8), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_zoo_prune_scores_equal_the_reference(there: list[int], seed: int) -> None:
    """Exact derivatives within rounding, differences within 1e-3."""
    view = view_of(there, seed)
    directions = zoo_prune.gaussians(5, WIDTH, seed, torch.device("cpu"))
    for b, n in enumerate(there):
        want = sensitivity(view.features()[b, :n], directions, mlp(seed)).float()
        exact = scores_of(view, num_directions=5, seed=seed, estimator="jvp")[b, :n]
        torch.testing.assert_close(exact, want, rtol=1e-5, atol=1e-6)
        for step in (0.01, 0.1):
            near = scores_of(view, num_directions=5, seed=seed, step=step)[b, :n]
            torch.testing.assert_close(near, want, rtol=1e-3, atol=1e-3 * want.max().item())


@pytest.mark.parametrize("estimator", zoo_prune.ESTIMATORS)
def test_zoo_prune_splits_directions(estimator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    view = view_of([7, 5])
    want = scores_of(view, estimator=estimator)[view.mask]
    monkeypatch.setattr(zoo_prune, "BLOCK_ELEMENTS", 3 * 14 * OUT)  # 3 directions at once, one at last
    torch.testing.assert_close(scores_of(view, estimator=estimator)[view.mask], want, rtol=1e-5, atol=1e-6)


def test_zoo_prune_directions_come_from_the_seed() -> None:
    device = torch.device("cpu")
    drawn = zoo_prune.gaussians(64, 1024, 0, device)
    assert drawn is zoo_prune.gaussians(64, 1024, 0, device)
    assert abs(drawn.mean().item()) < 0.02
    assert abs(drawn.std().item() - 1) < 0.02
    view = view_of([9])
    state = torch.get_rng_state()
    assert torch.equal(scores_of(view), scores_of(view))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(scores_of(view, seed=1), scores_of(view))


@pytest.mark.parametrize("estimator", zoo_prune.ESTIMATORS)
def test_zoo_prune_works_without_gradients(estimator: str) -> None:
    """Under inference mode too, and what it draws there is of use outside."""
    want = scores_of(view_of([9]), estimator=estimator)
    zoo_prune.gaussians.cache_clear()
    with torch.inference_mode():
        assert torch.equal(scores_of(view_of([9]), estimator=estimator), want)
    assert torch.equal(scores_of(view_of([9]), estimator=estimator), want)
    assert not zoo_prune.gaussians(64, WIDTH, 0, torch.device("cpu")).is_inference()


# -- selection -------------------------------------------------------------------------------------------------------


@given(there=st.lists(st.integers(1, 14), min_size=1, max_size=3), seed=st.integers(0, 99), data=st.data())
def test_zoo_prune_picks_equal_the_reference(there: list[int], seed: int, data: st.DataObject) -> None:
    view, keep = view_of(there, seed), [data.draw(st.integers(0, n)) for n in there]
    scores, tokens = scores_of(view), view.tokens.embeddings
    want = [picks_by(scores[b, :n], tokens[b, :n], k) for b, (n, k) in enumerate(zip(there, keep, strict=True))]
    assert picks_of(view, keep) == want


def test_zoo_prune_takes_the_most_sensitive_first_and_the_least_last() -> None:
    view = view_of([20])
    scores, picks = scores_of(view)[0], picks_of(view, [20])[0]
    assert (picks[0], picks[-1]) == (int(scores.argmax()), int(scores.argmin()))


@pytest.mark.parametrize("estimator", zoo_prune.ESTIMATORS)
def test_zoo_prune_under_a_linear_connector_spreads_from_the_first(estimator: str) -> None:
    """Sensitivities equal up to rounding are equal: no rounding error is stretched to a weight."""
    view = view_of([30], connector=mlp(curved=False))
    scores = scores_of(view, estimator=estimator)
    torch.testing.assert_close(scores, scores[:, :1].expand(-1, 30), rtol=1e-5, atol=0)
    assert torch.equal(zoo_prune.weights(scores, view), torch.ones(1, 30))
    picks = picks_of(view, [12], estimator=estimator)[0]
    assert picks == picks_by(torch.ones(30), view.tokens.embeddings[0], 12)
    assert picks[0] == 0


def test_zoo_prune_weights_of_ragged_items() -> None:
    view = ArrayView(embeddings=torch.randn(3, 4, 2), num_tokens=[4, 2, 3])
    scores = torch.tensor([[1.0, 3.0, 2.0, 1.5], [5.0, 5.00004, 99.0, -99.0], [5.0, 5.0002, 5.0001, 99.0]])
    weights = zoo_prune.weights(scores, view)
    torch.testing.assert_close(weights[0], torch.tensor([0.0, 1.0, 0.5, 0.25]))
    assert weights[1, :2].tolist() == [1.0, 1.0]  # within 1e-5 of each other
    torch.testing.assert_close(weights[2, :3], torch.tensor([0.0, 1.0, 0.5]), rtol=0, atol=1e-2)


def test_zoo_prune_chooses_by_other_scores() -> None:
    """Its selection takes another method's score."""
    view, scores = view_of([25]), torch.rand(1, 25)
    picks = make("zoo_prune").choose(scores, view, Counts((9,), (25,)))[0].tolist()  # type: ignore[attr-defined]
    assert picks == picks_by(scores[0], view.tokens.embeddings[0], 9)


@pytest.mark.parametrize("estimator", zoo_prune.ESTIMATORS)
def test_zoo_prune_of_equal_features_takes_different_tokens(estimator: str) -> None:
    connector = mlp()
    features = torch.ones(1, 12, WIDTH)
    view = ArrayView(embeddings=connector(features), features=features, connector=connector)
    assert len(set(picks_of(view, [5], estimator=estimator)[0])) == 5


# -- in a model ------------------------------------------------------------------------------------------------------


def test_zoo_prune_calls_the_connector_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the model's dtype, and the model's own weights stay as they are."""
    model, processor = tessella.load("mini")
    model = model.bfloat16()
    projector = model.model.multi_modal_projector
    before = {name: (w, w.clone()) for name, w in projector.state_dict(keep_vars=True).items()}
    calls: list[tuple[Tensor, Tensor]] = []
    connector = EngineView.connector

    def spy(view: EngineView, features: Tensor, precise: bool = False) -> Tensor:
        assert precise
        calls.append((features, connector(view, features, precise)))
        return calls[-1][1]

    monkeypatch.setattr(EngineView, "connector", spy)
    picture = Image.effect_noise((112, 112), 90).convert("RGB")
    inputs = processor(text="<user><image>Why?<assistant>", images=picture, return_tensors="pt")
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    with tessella.reduce(model, "zoo_prune", keep=20) as run:
        model(**inputs)
    assert len(indices_of(run)[0][0]) == 20
    for name, (weight, was) in before.items():
        assert projector.state_dict(keep_vars=True)[name] is weight
        assert torch.equal(weight, was)
    projector.double()
    for features, out in calls:
        assert out.dtype == torch.float32
        torch.testing.assert_close(out.double(), projector(features.double()), rtol=1e-5, atol=1e-5)
    assert calls


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"estimator": "exact"}, "estimator must be one of difference, jvp; got 'exact'"),
        ({"num_directions": 0}, "num_directions must be >= 1; got 0"),
        ({"step": 0.0}, "step must be > 0; got 0.0"),
    ],
)
def test_zoo_prune_refuses_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=f"zoo_prune: {message}"):
        make("zoo_prune", **settings)


def test_zoo_prune_card() -> None:
    method = make("zoo_prune")
    assert method.needs(default_info()) == ("features", "connector")
    assert (method.card.cost, method.card.newlines, method.card.rounding) == ("heavy", "keep", "floor")
    assert (method.num_directions, method.step) == (64, 0.01)  # type: ignore[attr-defined]
