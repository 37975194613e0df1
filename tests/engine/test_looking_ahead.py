"""Attention of the layer that runs next, hidden states, and watching layers: against what the layers really do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import tessella
from spying import seen_by
from tessella.core.budget import Budget, Counts
from tessella.core.cards import Card
from tessella.core.contracts import Method, Step
from tessella.core.errors import MethodError
from tessella.core.model_info import ModelInfo
from tessella.core.pipeline import Part
from tessella.core.reduction import Reduction
from tessella.core.view import Captures, Point, View
from tessella.core.watching import Watch
from tessella.models.adapter import find_adapter
from tessella.testing.families import TinyFamily, tiny_families, tiny_family
from tessella.testing.tiny import IMAGE_TOKEN, tiny_inputs, tiny_llava

CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def eager(inputs: dict[str, Tensor]) -> Any:
    with torch.no_grad():
        return tiny_llava(attention="eager")(**inputs, output_attentions=True, output_hidden_states=True)


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("layer", [1, 2])
def test_the_next_layer_is_asked_without_running_it(layer: int, padding: str) -> None:
    inputs = tiny_inputs((1, 2, 1), padding=padding)
    model = tiny_llava()
    rows = seen_by(lambda v: v.attention_rows(v.at_layer, "last"), model, inputs, at_layer=layer)
    text = seen_by(lambda v: v.attention_rows(v.at_layer, "text", keys="text"), model, inputs, at_layer=layer)
    full = eager(inputs).attentions[layer]
    for row, (ids, real) in enumerate(zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)):
        visual, words = (ids == IMAGE_TOKEN).nonzero()[:, 0], ((ids != IMAGE_TOKEN) & real).nonzero()[:, 0]
        torch.testing.assert_close(rows[row, :, 0, : len(visual)], full[row, :, int(words[-1]), visual], **CLOSE)
        count = len(words)
        torch.testing.assert_close(text[row, :, :count, :count], full[row][:, words][:, :, words], **CLOSE)


def test_other_layers_ahead_must_be_declared() -> None:
    with pytest.raises(MethodError, match=r"spy asks for attention_rows\(layer=2\), which its captures\(\) does not"):
        seen_by(lambda v: v.attention_rows(2), tiny_llava(), tiny_inputs((1,)), at_layer=1)


@dataclass(frozen=True, eq=False)
class Twice(Method):
    """Drops every second token in front of layer 1; reads layer 2 before it runs, and behind it."""

    before: list[dict[str, Tensor]] = field(default_factory=list)
    behind: list[dict[str, Tensor]] = field(default_factory=list)

    id: ClassVar[str] = "twice"
    card = Card("Twice", stages=("prefill",), takes_keep=False, count="adaptive", count_reason="a toy", unit="prompt")

    def steps(self, info: ModelInfo, budget: Budget | None) -> tuple[Step, ...]:
        point, behind = (Point(2),), Captures(decoder=(2,))
        return (
            Step(self, "prefill", 1, None, self.reduce, behind, point),
            Step(self, "prefill", 2, None, self.look, Captures()),
        )

    def reduce(self, view: View, counts: Counts) -> Reduction:
        even = torch.arange(view.mask.shape[1]) % 2 == 0
        return Reduction(view.mask & even)

    def look(self, view: View, counts: Counts) -> Reduction:
        self.before.append(every_row(view, view.at_layer))
        return Reduction(view.mask, view.layout.num_tokens)

    def observe(self, view: View, point: Point, inputs: Tensor, outputs: Tensor) -> None:
        self.behind.append(every_row(view, point.layer))


def every_row(view: View, layer: int) -> dict[str, Tensor]:
    return {
        "last": view.attention_rows(layer, "last"),
        "text": view.attention_rows(layer, "text", keys="text"),
        "visual": view.attention_rows(layer, "visual"),
    }


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("family", tiny_families().values(), ids=lambda f: f.id)
def test_what_is_foreseen_is_what_the_layer_does(family: TinyFamily, positions: Any) -> None:
    """On every family, behind a cut: with the layer's own window, cap and mask."""
    model, inputs = family.model(), family.inputs([[family.sizes[0]], [family.sizes[0], family.sizes[-1]]])
    if find_adapter(model).info.multi_axis_positions and positions == "compact":
        positions = None
    method = Twice()
    with torch.no_grad(), tessella.reduce(model, method, positions=positions):
        model(**inputs)
    for queries, rows in method.before[0].items():
        assert rows.abs().sum() > 0 or (family.id == "gemma3" and queries == "last")  # its window ends before them
        torch.testing.assert_close(rows, method.behind[0][queries], **CLOSE)


def test_hidden_states_are_those_that_enter_the_layer() -> None:
    inputs = tiny_inputs((1, 2), padding="left")
    shown, places, tokens = seen_by(
        lambda v: (v.hidden_states(), v.places("visual"), v.tokens.embeddings), tiny_llava(), inputs, at_layer=2
    )
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(shown[real], eager(inputs).hidden_states[2][real], **CLOSE)
    for row, where in enumerate(places):
        real = where >= 0
        assert torch.equal(shown[row, where[real]], tokens[row, real])


def test_watching_sees_every_layer_and_changes_nothing() -> None:
    model, inputs = tiny_llava(), tiny_inputs((1, 2), padding="left")
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def see(view: View, layer: int) -> None:
        seen[layer] = view.hidden_states(), view.attention_rows(layer)

    with torch.no_grad():
        before = model(**inputs).logits
        with tessella.reduce(model, Watch(see, tuple(range(4)))) as run:
            assert torch.equal(model(**inputs).logits, before)
            out = model.generate(**inputs, max_new_tokens=3, do_sample=False, suppress_tokens=[IMAGE_TOKEN])
        assert torch.equal(
            out, model.generate(**inputs, max_new_tokens=3, do_sample=False, suppress_tokens=[IMAGE_TOKEN])
        )
    full, ids, real = eager(inputs), inputs["input_ids"], inputs["attention_mask"].bool()
    assert sorted(seen) == [0, 1, 2, 3]
    assert run.report.keep_ratio == 1.0
    for layer, (hidden, rows) in seen.items():
        if layer < 3:  # behind the last layer transformers shows the normed states
            torch.testing.assert_close(hidden[real], full.hidden_states[layer + 1][real], **CLOSE)
        for row in range(2):
            visual = (ids[row] == IMAGE_TOKEN).nonzero()[:, 0]
            torch.testing.assert_close(
                rows[row, :, 0, : len(visual)], full.attentions[layer][row, :, -1, visual], **CLOSE
            )


def test_watching_sees_the_connector_too() -> None:
    model, inputs = tiny_llava(), tiny_inputs((1,))
    seen: dict[int, Tensor] = {}
    with torch.no_grad(), tessella.reduce(model, Watch(lambda v, n: seen.update({n: v.tokens.embeddings}), (-1, 2))):
        model(**inputs)
    assert sorted(seen) == [-1, 2]
    features = model.model.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output
    torch.testing.assert_close(seen[-1], torch.stack(list(features)))


def test_what_goes_in_and_out_of_modules_is_observed_whole() -> None:
    model, inputs = tiny_llava(), tiny_inputs((1, 1), padding="left")
    seen: dict[Point, tuple[Tensor, Tensor]] = {}
    points = (Point(1, "self_attn"), Point(1, "mlp"), Point(1))

    @dataclass(frozen=True)
    class Modules(Watch):
        def observes(self, info: ModelInfo) -> tuple[Point, ...]:
            return points

        def observe(self, view: View, point: Point, inputs: Tensor, outputs: Tensor) -> None:
            seen[point] = inputs, outputs

    with torch.no_grad():
        with tessella.reduce(model, Modules(lambda view, layer: None, (1,))):
            model(**inputs)
        entering, leaving = model(**inputs, output_hidden_states=True).hidden_states[1:3]
        layer = model.model.language_model.layers[1]
        normed = layer.input_layernorm(entering)
    (attn_in, attn_out), (mlp_in, mlp_out), (layer_in, layer_out) = (seen[p] for p in points)
    torch.testing.assert_close(layer_in, entering, **CLOSE)
    torch.testing.assert_close(layer_out, leaving, **CLOSE)
    torch.testing.assert_close(attn_in, normed, **CLOSE)
    torch.testing.assert_close(mlp_in, layer.post_attention_layernorm(entering + attn_out), **CLOSE)
    torch.testing.assert_close(entering + attn_out + mlp_out, leaving, **CLOSE)


@dataclass(frozen=True, eq=False)
class Rememberer(Method):
    """Marks every token with its slot at layer 0 and reads the marks in front of later layers."""

    found: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    id: ClassVar[str] = "rememberer"
    card = Card(
        "Rememberer",
        stages=("connector", "prefill"),
        takes_keep=False,
        min_keep=0,
        count="adaptive",
        count_reason="a toy",
    )

    def steps(self, info: ModelInfo, budget: Budget | None) -> tuple[Step, ...]:
        return (
            Step(self, "connector", 0, None, self.reduce, Captures()),
            Step(self, "prefill", 2, None, self.read, Captures()),
            Step(self, "prefill", 3, None, self.read, Captures()),
        )

    def reduce(self, view: View, counts: Counts) -> Reduction:
        view.state["marks"] = view.layout.slot.clone()
        view.state["pairs"] = torch.stack([view.layout.slot, -view.layout.slot], dim=2).float()
        view.state["word"] = "kept as it is"
        return Reduction(view.mask, view.layout.num_tokens)

    def read(self, view: View, counts: Counts) -> Reduction:
        real = view.mask
        assert torch.equal(view.state["marks"][real], view.layout.slot[real])
        assert torch.equal(
            view.state["pairs"][real], torch.stack([view.layout.slot, -view.layout.slot], 2)[real].float()
        )
        assert view.state["word"] == "kept as it is"
        self.found.append((view.state["marks"], view.mask))
        odd = torch.arange(view.mask.shape[1]) % 2 == 1
        return Reduction(view.mask & odd)


@dataclass(frozen=True, eq=False)
class Interleaved(Rememberer):
    """The same, with a cut of another method between the step that marks and those that read."""

    between: Part | None = None

    def steps(self, info: ModelInfo, budget: Budget | None) -> tuple[Step, ...]:
        first, *rest = super().steps(info, budget)
        assert self.between is not None
        return (first, *self.between.method.fit(info).steps(info, self.between.budget), *rest)


@pytest.mark.parametrize("between", ["random@1:0.5 per prompt", "fastv@1:3 per image", "divprune:0.5 per tile"])
def test_state_stays_with_its_tokens_whoever_cuts(between: str) -> None:
    """Cuts of other methods, over other groups, lie between the steps that remember."""
    family = tiny_family("llava_next")
    model = family.model()
    inputs = family.inputs([[family.sizes[0]], [family.sizes[-1], family.sizes[0]]])
    method = Interleaved(between=tessella.parse(between).parts[0])
    with torch.no_grad(), tessella.reduce(model, method) as run:
        model(**inputs)
    assert len(method.found) == 2
    assert 0 < method.found[1][1].sum() < method.found[0][1].sum()
    assert run.num_cuts >= 3
