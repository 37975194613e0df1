"""transprune against its specification: a slow reference over several cuts, its parts, and what it reads of models."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tessella
from tessella.core.budget import Budget, Counts
from tessella.core.errors import BudgetError, MethodError, UnsupportedError
from tessella.core.layout import Block, Layout
from tessella.core.registry import make
from tessella.core.view import Point
from tessella.engine.decoder_view import DecoderView
from tessella.models.adapter import find_adapter
from tessella.reduction.transprune import MODULES, TransPrune, transition_variation
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info
from tessella.testing.families import tiny_families, tiny_family
from tessella.testing.tiny import NUM_VISUAL, tiny_inputs, tiny_llava

INFO = default_info()
FIRST, CHANNELS, HEADS, WIDTH = 3, 10, 2, 8
CUTS, SUMMED = (2, 4), (0, 1, 3)


# -- a slow reference ------------------------------------------------------------------------------------------------


def slow_variation(x: Tensor, y: Tensor, absolute: bool = False) -> list[float]:
    """TTV of one module for one sequence `[S, C]`, token by token."""
    cosines = [float(a @ b) / (math.sqrt(a @ a) * math.sqrt(b @ b)) for a, b in zip(x, y, strict=True)]
    logits = [1 - (abs(c) if absolute else c) for c in cosines]
    total = sum(map(math.exp, logits))
    lengths = [math.sqrt(b @ b) / math.sqrt(a @ a) for a, b in zip(x, y, strict=True)]
    return [math.exp(z) / total * m for z, m in zip(logits, lengths, strict=True)]


def slow_guidance(query: Tensor, key: Tensor, visual: range, behind: list[int]) -> list[float]:
    """Mean over heads and text rows of the causal attention to each visual token; query and key are `[H, S, D]`."""
    received = [0.0] * len(visual)
    for q, k in zip(query, key, strict=True):
        for row in behind:
            logits = [float(q[row] @ k[column]) / math.sqrt(WIDTH) for column in range(row + 1)]
            total = sum(map(math.exp, logits))
            for i, column in enumerate(visual):
                received[i] += math.exp(logits[column]) / total / (len(query) * len(behind))
    return received


class Sequence:
    """One prompt: text, `there` visual tokens, `behind` text tokens, and random tensors for all of it."""

    def __init__(self, there: int, behind: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.there, self.behind, self.length = there, behind, FIRST + there + behind
        self.pairs = {
            (layer, module): tuple(
                torch.randn(self.length, CHANNELS, generator=draw) * (1 + torch.rand(self.length, 1, generator=draw))
                for _ in range(2)
            )
            for layer in SUMMED
            for module in MODULES
        }
        shape = (HEADS, self.length, WIDTH)
        self.projections = {cut: tuple(torch.randn(shape, generator=draw) for _ in range(2)) for cut in CUTS}

    def kept(self, counts: list[int], alpha: float, absolute: bool) -> list[list[int]]:
        """Visual tokens that each cut leaves, in float64."""
        left = list(range(self.length))
        summed = dict.fromkeys(left, 0.0)
        out = []
        for cut, count in zip(CUTS, counts, strict=True):
            for layer in (n for n in SUMMED if n < cut and (cut == CUTS[0] or n >= CUTS[0])):
                for module in MODULES:
                    x, y = (t[left].double() for t in self.pairs[layer, module])
                    for place, value in zip(left, slow_variation(x, y, absolute), strict=True):
                        summed[place] += value
            visual = [p for p in left if FIRST <= p < FIRST + self.there]
            query, key = (t[:, left].double() for t in self.projections[cut])
            where = range(FIRST, FIRST + len(visual))
            guided = [0.0] * len(visual)
            if self.behind:
                guided = slow_guidance(query, key, where, list(range(len(left) - self.behind, len(left))))
            share = alpha if self.behind else 1.0
            changed = [summed[p] for p in visual]
            scores = [
                share * v / (sum(changed) + 1e-8) + (1 - share) * g / (sum(guided) + 1e-8)
                for v, g in zip(changed, guided, strict=True)
            ]
            best = sorted(sorted(range(len(visual)), key=lambda i: -scores[i])[:count])
            dropped = {p for i, p in enumerate(visual) if i not in best}
            left = [p for p in left if p not in dropped]
            out.append([visual[i] - FIRST for i in best])
        return out


def batch_of(values: list[Tensor], axis: int = 0) -> Tensor:
    """Tensors of several lengths along an axis as one, padded with a loud value."""
    rows = [v.movedim(axis, 0) for v in values]
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=50.0)
    return padded.movedim(1, axis + 1)


def kept_by(method: TransPrune, items: list[Sequence]) -> list[list[list[int]]]:
    """For each item the visual tokens that each cut leaves, by the method."""
    left = [list(range(i.length)) for i in items]
    out: list[list[list[int]]] = [[] for _ in items]
    state: dict[str, Any] = {}
    first = tuple(i.there for i in items)
    observed = method.observes(INFO)
    for step in method.steps(INFO, None):
        visual = [[p for p in row if FIRST <= p < FIRST + i.there] for row, i in zip(left, items, strict=True)]
        lengths = [len(row) for row in left]
        blocks = [[Block(0, 1, len(v))] for v in visual]
        layout = Layout.build([range(FIRST, FIRST + len(v)) for v in visual], blocks)
        view = ArrayView(
            embeddings=torch.zeros(len(items), max(map(len, visual)), 1),
            projection=tuple(
                batch_of([i.projections[step.at_layer][n][:, row] for i, row in zip(items, left, strict=True)], 1)
                for n in range(2)
            ),
            layout=layout,
            lengths=lengths,
            at_layer=step.at_layer,
        )
        view.state = state
        for point in (p for p in observed if p.layer < step.at_layer):
            pairs = [[t[row] for t in i.pairs[point.layer, point.module]] for i, row in zip(items, left, strict=True)]
            method.observe(view, point, *(batch_of([pair[n] for pair in pairs]) for n in range(2)))
        observed = tuple(p for p in observed if p.layer >= step.at_layer)
        there = view.layout.num_tokens
        keep = step.reduce(view, Counts(there, there, asked=False, num_first=first)).keep
        order = torch.sort((~keep).int(), dim=1, stable=True).indices[:, : int(keep.sum(dim=1).max())]
        state = {name: values.gather(1, order) for name, values in view.state.items()}
        for b, (row, tokens) in enumerate(zip(left, visual, strict=True)):
            stay = {p for p, k in zip(tokens, keep[b].tolist(), strict=False) if k}
            out[b].append([p - FIRST for p in sorted(stay)])
            left[b] = [p for p in row if p in stay or p not in tokens]
    return out


@pytest.mark.parametrize(("alpha", "absolute"), [(0.5, False), (0.5, True), (0.0, False), (0.8, False), (1.0, True)])
def test_two_cuts_of_a_ragged_batch_equal_the_slow_reference(alpha: float, absolute: bool) -> None:
    """The last item has no text behind its picture, one keeps no token in the end, one is a single token."""
    sizes = ((40, 5), (17, 2), (3, 4), (1, 1), (23, 0))
    items = [Sequence(there, behind, seed) for seed, (there, behind) in enumerate(sizes)]
    method: Any = make("transprune", layers=CUTS, accumulate=SUMMED, ratios=(0.6, 0.2), alpha=alpha, abs_cos=absolute)
    got = kept_by(method, items)
    for item, cuts in zip(items, got, strict=True):
        counts = [max(int(item.there * r), 1) for r in (0.6, 0.2)]
        assert cuts == item.kept(counts, alpha, absolute)
        assert cuts == kept_by(method, [item])[0], "another answer alone"
    assert got != kept_by(dataclasses.replace(method, abs_cos=not absolute), items) or alpha == 0


# -- its parts ---------------------------------------------------------------------------------------------------------


def test_variation_is_a_softmax_over_the_whole_sequence_times_the_ratio_of_lengths() -> None:
    x, y = torch.randn(2, 9, CHANNELS), torch.randn(2, 9, CHANNELS) * 3
    real = torch.ones(2, 9, dtype=torch.bool)
    real[1, :4] = False  # a prompt padded on the left
    x[1, :2], y[1, :4] = torch.nan, torch.inf
    got = transition_variation(x, y, real)
    for b, start in ((0, 0), (1, 4)):
        want = torch.tensor(slow_variation(x[b, start:].double(), y[b, start:].double()))
        torch.testing.assert_close(got[b, start:], want, rtol=1e-5, atol=0)
    assert got[1, :4].tolist() == [0, 0, 0, 0]


def test_variation_of_half_precision_is_worked_out_in_float32() -> None:
    x, y = (torch.randn(1, 300, 512).bfloat16() for _ in range(2))
    got = transition_variation(x, y, torch.ones(1, 300, dtype=torch.bool))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, transition_variation(x.float(), y.float(), torch.ones(1, 300, dtype=torch.bool)))


def test_a_token_of_zeros_has_no_variation() -> None:
    x, y = torch.randn(1, 5, CHANNELS), torch.randn(1, 5, CHANNELS)
    x[0, 2] = 0
    got = transition_variation(x, y, torch.ones(1, 5, dtype=torch.bool))
    assert got[0, 2] == 0
    assert (got[0, [0, 1, 3, 4]] > 0).all()


def test_layers_add_up_as_they_are() -> None:
    """No layer is normalised before the sum, so that one that changes tokens more counts for more."""
    there = 6
    view = ArrayView(embeddings=torch.zeros(1, there, 1), hidden=torch.zeros(1, there + 2, 1), first_slot=1)
    pairs = [(torch.randn(1, there + 2, 4), torch.randn(1, there + 2, 4) * scale) for scale in (1.0, 7.0)]
    method: Any = make("transprune", alpha=1.0)
    for pair in pairs:
        method.observe(view, Point(6, "mlp"), *pair)
    real = torch.ones(1, there + 2, dtype=torch.bool)
    want = sum(transition_variation(*pair, real) for pair in pairs)[:, 1:-1]
    torch.testing.assert_close(view.state["variation"], want)
    torch.testing.assert_close(method.score(view), want / want.sum())


def test_alpha_0_ranks_as_the_mean_row_of_the_text_behind() -> None:
    rows = torch.rand(1, HEADS, 9, 12)
    view = ArrayView(attention_rows={7: rows}, first_slot=4, lengths=[21], at_layer=7)
    view.state["variation"] = torch.rand(1, 12)
    want = rows[0, :, 4:].mean(dim=(0, 1))  # 4 of the 9 stand in front
    method: Any = make("transprune", alpha=0.0)
    torch.testing.assert_close(method.score(view)[0], want / want.sum())


def test_a_prompt_without_text_behind_its_picture_is_ranked_by_variation_alone() -> None:
    rows = torch.rand(1, HEADS, 4, 12)
    view = ArrayView(attention_rows={7: rows}, first_slot=4, lengths=[16], at_layer=7)
    view.state["variation"] = torch.rand(1, 12)
    for alpha in (0.0, 0.5):
        method: Any = make("transprune", alpha=alpha)
        torch.testing.assert_close(method.score(view), view.state["variation"] / view.state["variation"].sum())


def test_alpha_1_reads_no_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    probed: list[int] = []
    probe = DecoderView._probe
    monkeypatch.setattr(DecoderView, "_probe", lambda self, layer, **o: probed.append(layer) or probe(self, layer, **o))
    model, inputs = tiny_llava(), tiny_inputs((1,))
    for alpha, layers in ((1.0, []), (0.5, [1, 2, 3])):
        probed.clear()
        with torch.no_grad(), tessella.reduce(model, make("transprune", alpha=alpha), keep=4) as run:
            model(**inputs)
        assert probed == layers
        assert run.num_cuts == 3
    assert make("transprune", alpha=1.0).needs(INFO) == ()
    assert make("transprune").needs(INFO) == ("projection", "decoder_rows")


# -- layers and counts -------------------------------------------------------------------------------------------------


def test_the_papers_high_schedule() -> None:
    """504, 360 and 72 of 576 tokens: 236.25 in the mean of 32 layers."""
    method: Any = make("transprune")
    steps = method.steps(INFO, None)
    assert [s.at_layer for s in steps] == [7, 9, 12]
    assert method.accumulated == (6, 7, 8, 9, 10, 11)
    counts = Counts((576,), (576,), asked=False)
    left = [method.counts_at(s.at_layer, counts).num_keep[0] for s in steps]
    assert left == [504, 360, 72]
    assert (7 * 576 + 2 * left[0] + 3 * left[1] + 20 * left[2]) / 32 == 236.25
    for vision_zip, final in ((288, 36), (192, 24)):
        assert method.counts_at(12, Counts((vision_zip,), (vision_zip,), asked=False)).num_keep == (final,)
    low: Any = make("transprune", ratios=(0.5, 0.25, 0.0625))
    left = [low.counts_at(s.at_layer, counts).num_keep[0] for s in steps]
    assert (7 * 576 + 2 * left[0] + 3 * left[1] + 20 * left[2]) / 32 == 180


@pytest.mark.parametrize(
    ("depth", "layers", "summed"),
    [
        (28, (7, 9, 12), (6, 7, 8, 9, 10, 11)),
        (8, (2, 3, 4), (1, 2, 3)),
        (4, (1, 2, 3), (0, 1, 2)),
    ],
)
def test_accumulated_layers_follow_the_cuts_to_other_depths(
    depth: int, layers: tuple[int, ...], summed: tuple[int, ...]
) -> None:
    info = dataclasses.replace(INFO, num_layers=depth)
    fitted: Any = make("transprune").fit(info)
    assert tuple(map(int, fitted.layers)) == layers
    assert fitted.accumulated == summed
    assert fitted.observes(info) == tuple(Point(n, m) for n in summed for m in ("self_attn", "mlp"))


def test_bad_settings_are_refused() -> None:
    for alpha in (-0.1, 1.5, float("nan")):
        with pytest.raises(MethodError, match=rf"^transprune: alpha is a share in \[0, 1\]; got {alpha}\.$"):
            make("transprune", alpha=alpha)
    for summed in ((7, 8), (6, 12), (8, 6), (6, 6), (-1, 3), ()):
        with pytest.raises(MethodError, match=r"accumulate must ascend, begin in front of the first cut .*; got"):
            make("transprune", accumulate=summed)
    with pytest.raises(MethodError, match=r"layers must ascend, from 1 on; got \(9, 7\)"):
        make("transprune", layers=(9, 7))
    with pytest.raises(MethodError, match="do not grow with depth"):
        make("transprune", ratios=(0.5, 0.6, 0.1))
    with pytest.raises(UnsupportedError, match=r"transprune: layers\[1\]=40 is not a layer of this decoder"):
        make("transprune", layers=(7, 40), ratios=(0.5, 0.2)).fit(dataclasses.replace(INFO, num_layers=32))
    with pytest.raises(BudgetError, match="leave out the keep"):
        make("transprune", ratios=(0.5, 0.3, 0.1)).steps(INFO, Budget(9))


# -- in models ---------------------------------------------------------------------------------------------------------


def summed_at_first_cut(model: Any, inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """What the method has summed in front of its first cut, and which tokens those are."""
    seen: list[tuple[Tensor, Layout]] = []
    score = TransPrune.score

    def look(self: TransPrune, view: Any) -> Tensor:
        seen.append((view.state["variation"].clone(), view.layout))
        return score(self, view)

    with monkeypatch.context() as patch:
        patch.setattr(TransPrune, "score", look)
        method = make("transprune", layers=(2, 3), ratios=(0.5, 0.25), accumulate=(0, 1, 2))
        with torch.no_grad(), tessella.reduce(model, method):
            model(**inputs)
    return seen[0]


@pytest.mark.parametrize("family", sorted(tiny_families()))
def test_what_is_summed_is_what_the_modules_of_each_family_take_and_give(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain hooks on the untouched model, row by row without padding, give the same."""
    tiny = tiny_family(family)
    model, sizes = tiny.model(), [[tiny.sizes[0]], [tiny.sizes[0], tiny.sizes[-1]]]
    batch = tiny.inputs(sizes)
    variation, layout = summed_at_first_cut(model, batch, monkeypatch)
    for row, pictures in enumerate(sizes):
        heard: list[tuple[Tensor, Tensor]] = []

        def hear(module: nn.Module, args: Any, kwargs: Any, output: Any, heard: list[Any] = heard) -> None:
            given = args[0] if args else kwargs["hidden_states"]
            heard.append((given[0], (output[0] if isinstance(output, tuple) else output)[0]))

        modules = [getattr(find_adapter(model).decoder_layers[n], m) for n in (0, 1) for m in MODULES]
        hooks = [m.register_forward_hook(hear, with_kwargs=True) for m in modules]
        alone = tiny.inputs([pictures], first_row=row)
        with torch.no_grad():
            model(**alone)
        for hook in hooks:
            hook.remove()
        assert len(heard) == 4
        want = torch.tensor([slow_variation(x.double(), y.double()) for x, y in heard]).sum(dim=0)
        padding = batch["input_ids"].shape[1] - alone["input_ids"].shape[1]
        count = layout.num_tokens[row]
        slots = layout.slot[row, :count] - padding
        torch.testing.assert_close(variation[row, :count].double(), want[slots].double(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("positions", ["compact", "original"])
def test_rows_of_unequal_pictures_keep_what_they_keep_alone(padding: Any, positions: Any) -> None:
    """Behind a cut that leaves the rows unequal, the engine's own padding takes no part in any softmax."""
    model = tiny_llava(num_layers=8)
    batch = tiny_inputs((2, 1, 3), padding=padding, seed=6)
    method = make("transprune", layers=(2, 4, 6), ratios=(0.6, 0.4, 0.2), accumulate=(1, 2, 3, 4, 5))
    with torch.no_grad(), tessella.reduce(model, method, positions=positions) as run:
        model(**batch)
        together = [[k.tolist() for k in row] for row in run.kept]
        pictures = batch["pixel_values"].split([2, 1, 3])
        for row in range(3):
            real = batch["attention_mask"][row].bool()
            single = {n: batch[n][row : row + 1, real] for n in ("input_ids", "attention_mask")}
            model(**single, pixel_values=pictures[row])
            assert [k.tolist() for k in run.kept[0]] == together[row]
    assert [sum(map(len, row)) for row in together] == [int(n * NUM_VISUAL * 0.2) for n in (2, 1, 3)]


@pytest.mark.parametrize("family", ["mini", "qwen2_5_vl"])
def test_generates_on_real_architectures(family: str) -> None:
    if family == "mini":
        model, processor = tessella.load("mini")
        inputs = dict(processor(images=torch.zeros(3, 112, 112), text="<image> what color?", return_tensors="pt"))
    else:
        model, inputs = tiny_family(family).model(), tiny_family(family).inputs()
    with torch.no_grad(), tessella.reduce(model, "transprune", keep=2) as run:
        out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert out.shape[1] <= inputs["input_ids"].shape[1] + 4
    assert [len(k) for row in run.kept for k in row] == [2]
    assert run.num_cuts == 3
    assert run.report.positions == ("compact" if family == "mini" else "original")
