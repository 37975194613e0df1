"""pyramiddrop against its specification: a slow reference of ranking and counts, and models cut by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

import tessella
from tessella.core.budget import Counts
from tessella.core.errors import BudgetError, UnsupportedError
from tessella.core.layout import Block, Layout
from tessella.core.registry import make
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info
from tessella.testing.families import tiny_family
from tessella.testing.tiny import IMAGE_TOKEN, tiny_inputs, tiny_llava

INFO = default_info()
FIRST, BEHIND = 2, 3  # text in front of the pictures and behind
LAYERS, RATIOS = (2, 4, 6), (0.5, 0.25, 0.125)  # of a model of 8 layers
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def slow_scores(query: Tensor, key: Tensor, last: int, slots: list[int]) -> list[float]:
    """Steps 2 and 3 of the specification in float64, one head after the other; heads share keys in groups."""
    total = [0.0] * len(slots)
    for head in range(len(query)):
        k = key[head * len(key) // len(query), : last + 1].double()
        row = (k @ query[head, last].double() / k.shape[1] ** 0.5).softmax(dim=0)
        total = [t + float(row[s]) / len(query) for t, s in zip(total, slots, strict=True)]
    return total


def best(scores: list[float], count: int) -> list[int]:
    return sorted(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
    st.lists(st.floats(0, 1), min_size=1, max_size=4),
    st.integers(0, 999),
)
def test_every_cut_equals_the_reference_on_ragged_batches(there: list[int], ratios: list[float], seed: int) -> None:
    """Padding holds loud values, heads share keys, and each cut sees what the one before has left."""
    generator = torch.Generator().manual_seed(seed)
    shares = tuple(sorted(ratios, reverse=True))
    method: Any = make("pyramiddrop", layers=tuple(range(3, 3 + len(shares))), ratios=shares)
    now = list(there)
    for number, step in enumerate(method.steps(INFO, None)):
        layout = Layout.build([range(FIRST, FIRST + n) for n in now], [[Block(0, 1, n)] for n in now])
        lengths = [FIRST + n + BEHIND for n in now]
        query, key = (torch.randn(len(now), heads, max(lengths), 8, generator=generator) for heads in (4, 2))
        for row, length in enumerate(lengths):
            query[row, :, length:], key[row, :, length:] = 40.0, 40.0
        view = ArrayView(
            projection={step.at_layer: (query, key)},
            lengths=lengths,
            embeddings=torch.zeros(len(now), max(now), 1),
            layout=layout,
            at_layer=step.at_layer,
        )
        out = step.reduce(view, Counts(tuple(now), tuple(now), asked=False, num_first=tuple(there)))
        scores = method.score(view)
        for b, n in enumerate(now):
            slow = slow_scores(query[b], key[b], lengths[b] - 1, list(range(FIRST, FIRST + n)))
            torch.testing.assert_close(scores[b, :n].double(), torch.tensor(slow).double(), rtol=1e-4, atol=1e-7)
            count = max(1, int(there[b] * shares[number]))
            assert out.keep[b].nonzero()[:, 0].tolist() == best(scores[b, :n].tolist(), count)
            assert out.num_kept[b] == count
            now[b] = count


def test_the_papers_counts() -> None:
    """A mean of 270 of 576 tokens over 32 layers; and int(), not the nearest number."""
    method: Any = make("pyramiddrop")
    assert tuple(map(int, method.layers)) == (8, 16, 24)
    counts = Counts((576,), (576,), asked=False)
    left = [method.left_after(n, counts)[0] for n in range(3)]
    assert left == [288, 144, 72]
    assert sum(8 * n for n in (576, *left)) / 32 == 270
    low: Any = make("pyramiddrop", layers=(2, 10, 20), ratios=(0.32, 0.16, 0.08))
    assert [low.left_after(n, counts)[0] for n in range(3)] == [184, 92, 46]
    shares: Any = make("pyramiddrop", ratios=(0.3, 0.29, 0.125))
    hundred = Counts((100,), (100,), asked=False)
    assert [shares.left_after(n, hundred)[0] for n in range(3)] == [30, 28, 12]


# -- on a model ------------------------------------------------------------------------------------------------------


@dataclass
class ByHand:
    """One prompt, layer after layer, without padding, cache or hooks; what is kept is worked out at the first pass.

    `hides`: dropped tokens stay where they are, and from their cut on nobody sees them.
    """

    model: Any
    ids: Tensor
    pixels: Tensor
    positions: str
    hides: bool = False
    kept: dict[int, list[int]] = field(default_factory=dict)  # slots, by the layer in front of which others go

    def logits(self, more: list[int]) -> tuple[list[int], Tensor]:
        """Slots that are left of the prompt and what is written behind it, and their logits."""
        decoder = self.model.model.language_model
        visual = (self.ids == IMAGE_TOKEN).nonzero()[:, 0].tolist()
        hidden = self.model.get_input_embeddings()(torch.cat([self.ids, torch.tensor(more, dtype=torch.long)])).clone()
        hidden[visual] = torch.cat(list(self.model.model.get_image_features(self.pixels).pooler_output))
        slots, gone = list(range(len(hidden))), set()
        for number, layer in enumerate(decoder.layers):
            if number in LAYERS:
                if number not in self.kept:
                    here = [s for s in slots if s in visual and s not in gone]
                    scores = self.scores(layer, hidden, slots, here)
                    count = int(len(visual) * RATIOS[LAYERS.index(number)])
                    self.kept[number] = [here[i] for i in best(scores, count)]
                gone = set(visual) - set(self.kept[number])
                if not self.hides:
                    stay = [i for i, s in enumerate(slots) if s not in gone]
                    hidden, slots = hidden[stay], [slots[i] for i in stay]
            mask = torch.full((len(slots), len(slots)), torch.finfo(hidden.dtype).min).triu(1)
            for i, slot in enumerate(slots):
                if slot in gone:
                    mask[i + 1 :, i] = torch.finfo(hidden.dtype).min
            rotary = self.rotary(hidden, slots)
            hidden = layer(hidden[None], attention_mask=mask[None, None], position_embeddings=rotary)[0]
        return slots, self.model.lm_head(decoder.norm(hidden))

    def scores(self, layer: Any, hidden: Tensor, slots: list[int], here: list[int]) -> list[float]:
        normed = layer.input_layernorm(hidden)
        query, key = (
            p(normed).unflatten(1, (-1, 8)).transpose(0, 1)[None]
            for p in (layer.self_attn.q_proj, layer.self_attn.k_proj)
        )
        query, key = apply_rotary_pos_emb(query, key, *self.rotary(hidden, slots))
        return slow_scores(query[0], key[0], len(slots) - 1, [slots.index(s) for s in here])

    def rotary(self, hidden: Tensor, slots: list[int]) -> Any:
        """Positions of a sequence that earlier cuts have shortened."""
        where = slots if self.positions == "original" else list(range(len(slots)))
        return self.model.model.language_model.rotary_emb(hidden[None], torch.tensor(where)[None])


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize(("attention", "text_length"), [("sdpa", 6), ("eager", 0)])
def test_prefill_and_eight_steps_of_a_padded_batch_equal_rows_cut_by_hand(
    positions: Any, attention: str, text_length: int
) -> None:
    """Rows of one picture and of two, ranked together, and one with no text behind its picture (`text_length=0`)."""
    model = tiny_llava(attention=attention, num_layers=8)
    inputs = tiny_inputs((1, 2, 1), padding="left", text_length=text_length)
    with torch.no_grad():
        with tessella.reduce(model, "pyramiddrop", positions=positions) as run:
            prefill = run.expand(model(**inputs).logits)
            kept = run.kept
            out = model.generate(
                **inputs,
                max_new_tokens=8,
                do_sample=False,
                suppress_tokens=[IMAGE_TOKEN],
                output_logits=True,
                return_dict_in_generate=True,
            )
        written = out.sequences[:, inputs["input_ids"].shape[1] :].tolist()
        taken = 0
        for row, (ids, real) in enumerate(zip(inputs["input_ids"], inputs["attention_mask"], strict=True)):
            padding, pictures = int((real == 0).sum()), len(kept[row])
            pixels = inputs["pixel_values"][taken : taken + pictures]
            taken += pictures
            hand = ByHand(model, ids[padding:], pixels, positions)
            slots, logits = hand.logits([])
            torch.testing.assert_close(prefill[row, [padding + s for s in slots]], logits, **CLOSE)
            places = (ids[padding:] == IMAGE_TOKEN).nonzero()[:, 0].view(pictures, 16)
            ours = [int(p[i]) for p, k in zip(places, kept[row], strict=True) for i in k]
            assert ours == hand.kept[6]
            for step in range(8):
                _, logits = hand.logits(written[row][:step])
                torch.testing.assert_close(out.logits[step][row], logits[-1], **CLOSE)
                logits[-1, IMAGE_TOKEN] = -torch.inf
                assert int(logits[-1].argmax()) == written[row][step]


@pytest.mark.parametrize(("positions", "equal"), [("original", True), ("compact", False)])
def test_removing_is_hiding_where_positions_are_kept(positions: Any, equal: bool) -> None:
    model, inputs = tiny_llava(num_layers=8), tiny_inputs((1,))
    with torch.no_grad():
        with tessella.reduce(model, "pyramiddrop", positions=positions) as run:
            removed = run.expand(model(**inputs).logits)[0, -1]
        hidden = ByHand(model, inputs["input_ids"][0], inputs["pixel_values"], "original", hides=True).logits([])[1][-1]
    gap = float((removed - hidden).abs().max())
    assert gap < 1e-4 if equal else gap > 0.05


def test_ratios_of_one_are_the_untouched_model() -> None:
    model, inputs = tiny_llava(), tiny_inputs((1, 2), padding="left")
    with torch.no_grad():
        plain = model(**inputs).logits
        with tessella.reduce(model, "pyramiddrop(layers=(1, 2, 3), ratios=(1.0, 1.0, 1.0))") as run:
            assert torch.equal(model(**inputs).logits, plain)
        assert run.num_cuts == 3


def test_the_papers_mean_on_a_model_of_its_depth() -> None:
    model, inputs = tiny_llava(num_layers=32), tiny_inputs((1,))
    with torch.no_grad(), tessella.reduce(model, "pyramiddrop") as run:
        out = model(**inputs)
    assert run.report.mean_keep_ratio == 270 / 576
    assert run.report.last.layers == (16,) * 8 + (8,) * 8 + (4,) * 8 + (2,) * 8  # type: ignore[union-attr]
    text = inputs["input_ids"].shape[1] - 16
    assert [layer.keys.shape[-2] - text for layer in out.past_key_values.layers] == list(run.report.last.layers)  # type: ignore[union-attr]
    assert run.report.notes == ()


def test_a_row_is_cut_alone_as_in_a_batch() -> None:
    """In bfloat16 too: scores are float32, and a row's padding is no key."""
    model = tiny_llava(dtype=torch.bfloat16)
    batch = tiny_inputs((2, 1), padding="right", dtype=torch.bfloat16, seed=3)
    with torch.no_grad(), tessella.reduce(model, "pyramiddrop(layers=(1, 2, 3))", keep=3) as run:
        model(**batch)
        together = [[k.tolist() for k in row] for row in run.kept]
        size = int(batch["attention_mask"][1].sum())
        single = {n: batch[n][1:, :size] for n in ("input_ids", "attention_mask")}
        model(**single, pixel_values=batch["pixel_values"][2:])
        assert [k.tolist() for k in run.kept[0]] == together[1]
    assert [sum(map(len, row)) for row in together] == [6, 3]


def test_qwen_keeps_positions() -> None:
    family = tiny_family("qwen2_5_vl")
    model, inputs = family.model(), family.inputs([[(32, 32)]])
    with torch.no_grad(), tessella.reduce(model, "pyramiddrop(layers=(1, 2), ratios=(0.5, 0.2))") as run:
        model(**inputs)
    assert run.report.last.layers == (16, 8, *[3] * (len(run.report.last.layers) - 2))  # type: ignore[union-attr]
    assert run._wiring.prompt.segments[-1].positions == "original"  # type: ignore[union-attr]
    with pytest.raises(
        UnsupportedError, match="positions='compact' has no meaning on a model with multi-axis positions"
    ):
        tessella.reduce(model, "pyramiddrop", positions="compact")


def test_what_is_refused_on_a_model() -> None:
    model = tiny_llava()
    with pytest.raises(UnsupportedError, match=r"pyramiddrop: layers\[2\]=4 is not a layer of this decoder; it has 4"):
        tessella.reduce(model, "pyramiddrop(layers=(1, 2, 4))")
    with pytest.raises(BudgetError, match=r"pyramiddrop: ratios=\(0\.5, 0\.2, 0\.1\) fix what is kept"):
        tessella.reduce(model, "pyramiddrop(ratios=(0.5, 0.2, 0.1))", keep=4)
    with pytest.raises(
        BudgetError, match=r"pyramiddrop: give ratios and no keep, one for each of the 2 layers \(1, 2\)"
    ):
        tessella.reduce(model, "pyramiddrop(layers=(1, 2))", keep=4)
