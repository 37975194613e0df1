"""Ways to call forward under a reduction, against an oracle of its own. See docs/compatibility.md."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comparing import (
    KEEP,
    PLACES,
    STEPS,
    close,
    compare,
    fixed_kept,
    kept_above,
    kept_by_features,
    kept_by_norm,
    oracles,
    rows_of,
)
from oracle import Oracle
from plain_methods import Drawn, Features, Fixed, Norm
from transformers import DynamicCache

import tessella
from tessella.core.errors import UnsupportedError
from tessella.ops import draws
from tessella.testing.family_cases import Above, Told
from tessella.testing.tiny import IMAGE_TOKEN, NUM_VISUAL, tiny_inputs, tiny_llava


@pytest.mark.parametrize("at_layer, positions", PLACES)
@pytest.mark.parametrize("use_cache", [True, False])
def test_forward(model: Any, at_layer: int, positions: str, use_cache: bool) -> None:
    inputs = tiny_inputs((2, 2))
    rows = oracles(model, inputs, kept_by_norm(model, inputs, KEEP, at_layer), at_layer, positions)
    with tessella.reduce(model, Norm(at_layer), keep=KEEP, positions=positions) as run:
        out = model(**inputs, use_cache=use_cache)
        compare(model, inputs, run.expand(out.logits), rows)
    assert out.logits.shape[1] == inputs["input_ids"].shape[1] - 2 * (NUM_VISUAL - KEEP)
    assert (out.past_key_values is not None) is use_cache


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("at_layer, positions", PLACES)
def test_padded_forward(model: Any, side: Any, at_layer: int, positions: str) -> None:
    """The last token of a row may be padding; its logits stand before it."""
    inputs = tiny_inputs((1, 0, 2), padding=side)
    rows = oracles(model, inputs, kept_by_norm(model, inputs, KEEP, at_layer), at_layer, positions)
    with tessella.reduce(model, Norm(at_layer), keep=KEEP, positions=positions) as run:
        compare(model, inputs, run.expand(model(**inputs).logits), rows)


def test_right_padded_generate(model: Any) -> None:
    """transformers answers from the padding and warns; a reduction does not change which token that is."""
    inputs = tiny_inputs((1, 1), padding="right")
    with tessella.reduce(model, Norm(2), keep=1.0):
        same = model.generate(**inputs, max_new_tokens=3)
    assert torch.equal(same, model.generate(**inputs, max_new_tokens=3))
    kept = kept_by_norm(model, inputs, KEEP, 2)[1]  # the row without padding is answered as ever
    row = rows_of(inputs)[1]
    oracle = Oracle(model, row.ids, row.pictures, [(2, kept)])
    with tessella.reduce(model, Norm(2), keep=KEEP, positions="original"):
        got = model.generate(**inputs, max_new_tokens=STEPS, suppress_tokens=[IMAGE_TOKEN])
    assert got[1, inputs["input_ids"].shape[1] :].tolist() == oracle.greedy(STEPS)


def test_no_attention_mask(model: Any) -> None:
    """Gaps in positions are not taken for packed sequences."""
    inputs = {k: v for k, v in tiny_inputs().items() if k != "attention_mask"}
    inputs["position_ids"] = torch.arange(inputs["input_ids"].shape[1])[None]
    [oracle] = oracles(model, tiny_inputs(), kept_by_norm(model, tiny_inputs(), KEEP, 2), 2, "original")
    with tessella.reduce(model, Norm(2), keep=KEEP, positions="original") as run:
        for use_cache in (True, False):
            close(run.expand(model(**inputs, use_cache=use_cache).logits)[0, -6:], oracle.logits()[-6:])


@pytest.mark.parametrize("positions", ["original", "compact"])
def test_packed_prompts(model: Any, positions: str) -> None:
    """Two prompts in one row, told apart by positions that start again."""
    two = tiny_inputs((1, 1))
    packed = {
        "input_ids": two["input_ids"].reshape(1, -1),
        "pixel_values": two["pixel_values"],
        "position_ids": torch.arange(two["input_ids"].shape[1]).repeat(2)[None],
    }
    rows = oracles(model, two, kept_by_norm(model, two, KEEP, 2), 2, positions)
    with tessella.reduce(model, Norm(2), keep=KEEP, positions=positions):
        logits = model(**packed, use_cache=False).logits[0]
    close(logits, torch.cat([o.logits() for o in rows]))


@pytest.mark.parametrize("form", ["bool", "float"])
def test_mask_of_four_dimensions(model: Any, form: str) -> None:
    """A ready-made mask loses rows and columns; here text cannot see the first three tokens."""
    inputs = tiny_inputs()
    size = inputs["input_ids"].shape[1]
    allowed = torch.ones(size, size, dtype=torch.bool).tril()
    allowed[-6:, :3] = False
    mask = allowed if form == "bool" else torch.zeros(size, size).masked_fill(~allowed, torch.finfo(torch.float32).min)
    kept = kept_by_norm(model, inputs, KEEP, 0)
    with tessella.reduce(model, Norm(), keep=KEEP, positions="original") as run:
        got = model(**{**inputs, "attention_mask": mask[None, None]}).logits
        plain = model(**inputs).logits
    slots = [0, 1, 2, *(3 + k for k in kept[0]), *range(19, size)]
    embedded = Oracle(model, inputs["input_ids"][0].tolist(), inputs["pixel_values"]).embed()[slots]
    dense = torch.zeros(len(slots), len(slots)).masked_fill(~allowed[slots][:, slots], torch.finfo(torch.float32).min)
    hidden = embedded[None]
    for layer in model.model.language_model.layers:
        rotary = model.model.language_model.rotary_emb(hidden, torch.tensor(slots)[None])
        hidden = layer(hidden, attention_mask=dense[None, None], position_embeddings=rotary)
    close(got, model.lm_head(model.model.language_model.norm(hidden)))
    assert (got[0, -6:] - plain[0, -6:]).abs().max() > 0.01
    assert run.report.prompts == 2


def test_mask_of_four_dimensions_on_a_cache_is_refused(model: Any) -> None:
    inputs = tiny_inputs()
    with tessella.reduce(model, Norm(2), keep=KEEP):
        cache = model(**inputs).past_key_values
        mask = torch.ones(1, 1, 1, 26, dtype=torch.bool)
        with pytest.raises(UnsupportedError, match=r"attention_mask of 4 dimensions on a reduced cache"):
            model(input_ids=torch.tensor([[33]]), attention_mask=mask, past_key_values=cache)


def test_logits_to_keep(model: Any) -> None:
    inputs = tiny_inputs((1, 1))
    rows = oracles(model, inputs, kept_by_norm(model, inputs, KEEP, 2), 2, "compact")
    with tessella.reduce(model, Norm(2), keep=KEEP):
        for count in (1, 4, 6):
            logits = model(**inputs, logits_to_keep=count).logits
            assert logits.shape[1] == count
            for mine, oracle in zip(logits, rows, strict=True):
                close(mine, oracle.logits()[-count:])


def test_logits_to_keep_beyond_the_text_is_refused(model: Any) -> None:
    """Places of the full prompt are not places of the shorter one."""
    inputs = tiny_inputs()
    for wanted in (7, torch.tensor([2, 20])):
        refused = pytest.raises(UnsupportedError, match=r"logits_to_keep=.* run\.expand")
        with tessella.reduce(model, Norm(2), keep=KEEP), refused:
            model(**inputs, logits_to_keep=wanted)
        with tessella.reduce(model, Norm(2), keep=1.0):
            kept = model(**inputs, logits_to_keep=wanted).logits
        assert torch.equal(kept, model(**inputs, logits_to_keep=wanted).logits)


@pytest.mark.parametrize("at_layer, positions", PLACES)
def test_output_hidden_states(model: Any, at_layer: int, positions: str) -> None:
    """One a layer; from `at_layer` on they have the short length."""
    inputs = tiny_inputs()
    [oracle] = oracles(model, inputs, kept_by_norm(model, inputs, KEEP, at_layer), at_layer, positions)
    with tessella.reduce(model, Norm(at_layer), keep=KEEP, positions=positions):
        hidden = model(**inputs, output_hidden_states=True).hidden_states
    states = oracle.states()
    assert len(hidden) == len(states) == 5
    for number, (mine, state) in enumerate(zip(hidden, states, strict=True)):
        if number != at_layer or number == 0:  # what layer 1 gave, before it was cut
            close(mine[0], state.hidden)
        else:
            close(mine[0][list(state.slots)], state.hidden)


def test_output_attentions() -> None:
    """Under eager attention: whole matrices in front of the cut, short ones behind; the rows add up."""
    model, inputs = tiny_llava(attention="eager"), tiny_inputs()
    [oracle] = oracles(model, inputs, kept_by_norm(model, inputs, KEEP, 2), 2, "compact")
    expected = oracle.attention(1)
    with tessella.reduce(model, Norm(2), keep=KEEP):
        attentions = model(**inputs, output_attentions=True).attentions
    assert [a.shape[-1] for a in attentions] == [25, 25, 14, 14]
    close(attentions[1][0], expected)
    close(attentions[3].sum(dim=-1), torch.ones(1, 4, 14))


def test_positional_arguments_and_tuples(model: Any) -> None:
    inputs = tiny_inputs()
    [oracle] = oracles(model, inputs, kept_by_norm(model, inputs, KEEP, 2), 2, "compact")
    given = (inputs["input_ids"], inputs["pixel_values"], inputs["attention_mask"])
    with tessella.reduce(model, Norm(2), keep=KEEP):
        close(model(*given).logits[0], oracle.logits())
        close(model(*given, return_dict=False)[0][0], oracle.logits())
        close(model.model(*given)[0][0], oracle.states()[-1].hidden)
        got = model.generate(inputs["input_ids"], pixel_values=inputs["pixel_values"], max_new_tokens=3)
    assert got[0, :25].tolist() == inputs["input_ids"][0].tolist()
    assert got.shape == (1, 28)


@pytest.mark.parametrize("at_layer, positions", PLACES)
def test_inputs_embeds(model: Any, at_layer: int, positions: str) -> None:
    """Embeddings instead of ids: placeholders are found by their embedding."""
    inputs = tiny_inputs()
    [oracle] = oracles(model, inputs, kept_by_norm(model, inputs, KEEP, at_layer), at_layer, positions)
    ids = inputs.pop("input_ids")
    inputs["inputs_embeds"] = model.get_input_embeddings()(ids)
    with tessella.reduce(model, Norm(at_layer), keep=KEEP, positions=positions):
        close(model(**inputs).logits[0], oracle.logits())
        got = model.generate(**inputs, max_new_tokens=STEPS, suppress_tokens=[IMAGE_TOKEN])
    assert got[0].tolist() == oracle.greedy(STEPS)


def test_mm_encoder_outputs(model: Any) -> None:
    """Pictures encoded beforehand serve methods that do not read the encoder."""
    inputs = tiny_inputs((2,))
    [oracle] = oracles(model, inputs, kept_by_norm(model, inputs, KEEP, 0), 0, "compact")
    encoded = model.get_image_features(inputs.pop("pixel_values"), return_dict=True)
    with tessella.reduce(model, Norm(), keep=KEEP):
        for _ in range(2):
            close(model(**inputs, mm_encoder_outputs={"image": encoded}).logits[0], oracle.logits())
        got = model.generate(
            **inputs, mm_encoder_outputs={"image": encoded}, max_new_tokens=STEPS, suppress_tokens=[IMAGE_TOKEN]
        )
    assert got[0, inputs["input_ids"].shape[1] :].tolist() == oracle.greedy(STEPS)


def test_mm_encoder_outputs_of_the_run(model: Any) -> None:
    """Pictures encoded inside the run carry what the encoder showed, for every prompt that uses them."""
    inputs = tiny_inputs((2,))
    [oracle] = oracles(model, inputs, kept_by_features(model, inputs), 0, "compact")
    pixels = inputs.pop("pixel_values")
    with tessella.reduce(model, Features(), keep=KEEP):
        encoded = model.get_image_features(pixels, return_dict=True)
        model(**tiny_inputs((1,), seed=9))  # another picture in between
        for _ in range(2):
            close(model(**inputs, mm_encoder_outputs={"image": encoded}).logits[0], oracle.logits())
        features = model.get_image_features(pixels, return_dict=False)
    assert isinstance(features, tuple)


def test_mm_encoder_outputs_of_elsewhere_are_refused_to_encoder_methods(model: Any) -> None:
    inputs = tiny_inputs()
    encoded = model.get_image_features(inputs.pop("pixel_values"), return_dict=True)
    refused = pytest.raises(UnsupportedError, match=r"features reads the vision encoder, but the call was given mm_")
    with tessella.reduce(model, Features(), keep=KEEP), refused:
        model(**inputs, mm_encoder_outputs={"image": encoded})


@pytest.mark.parametrize("at_layer", [0, 2])
def test_eager_attention(at_layer: int) -> None:
    model, inputs = tiny_llava(attention="eager"), tiny_inputs((1, 2), padding="left")
    kept = kept_above(model, inputs, at_layer)
    rows = oracles(model, inputs, kept, at_layer, "compact")
    with tessella.reduce(model, Above(at_layer)) as run:
        got = model.generate(**inputs, max_new_tokens=STEPS, suppress_tokens=[IMAGE_TOKEN])
        compare(model, inputs, run.expand(model(**inputs).logits), rows)
    assert got[:, inputs["input_ids"].shape[1] :].tolist() == [o.greedy(STEPS) for o in rows]


def test_siglip_encoder() -> None:
    """An encoder without class token."""
    model, inputs = tiny_llava("siglip"), tiny_inputs((1, 2), padding="left")
    rows = oracles(model, inputs, kept_by_norm(model, inputs, KEEP, 2), 2, "compact")
    with tessella.reduce(model, Norm(2), keep=KEEP) as run:
        got = model.generate(**inputs, max_new_tokens=STEPS, suppress_tokens=[IMAGE_TOKEN])
        compare(model, inputs, run.expand(model(**inputs).logits), rows)
    assert got[:, inputs["input_ids"].shape[1] :].tolist() == [o.greedy(STEPS) for o in rows]


@pytest.mark.parametrize("at_layer, positions", PLACES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_half_precision(dtype: torch.dtype, at_layer: int, positions: str) -> None:
    """The same tokens wherever the two best differ by more than the untouched model's own noise."""
    model = tiny_llava(dtype=dtype)
    inputs = tiny_inputs(dtype=dtype)
    row = rows_of(inputs)[0]
    whole = Oracle(model, row.ids, row.pictures)
    noise = 4 * (model(**inputs).logits[0] - whole.logits()).abs().max().item()
    kept = fixed_kept(KEEP)
    oracle = Oracle(model, row.ids, row.pictures, [(at_layer, kept)], positions)
    with tessella.reduce(model, Fixed(at_layer), keep=KEEP, positions=positions):
        got = model.generate(**inputs, max_new_tokens=STEPS, suppress_tokens=[IMAGE_TOKEN])[0, 25:].tolist()
    decisive = 0
    for step, token in enumerate(got):
        logits = oracle.logits(got[:step])[-1].float()
        logits[IMAGE_TOKEN] = -torch.inf
        best = logits.topk(2).values
        if best[0] - best[1] > noise:
            decisive += 1
            assert token == int(logits.argmax())
    assert decisive >= STEPS // 2, f"noise {noise}"


def test_autocast(model: Any) -> None:
    """Mixed precision: as far from float32 as the untouched model, and bit by bit its own at keep=1.0."""
    inputs = tiny_inputs((1, 2), padding="left")
    kept = kept_above(model, inputs, 2)
    rows = oracles(model, inputs, kept, 2, "compact")
    exact = model(**inputs).logits
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(**inputs).logits
        noise = (mixed - exact)[inputs["attention_mask"] == 1].abs().max().item()
        with tessella.reduce(model, Norm(2), keep=1.0):
            assert torch.equal(model(**inputs).logits, mixed)
        with tessella.reduce(model, Told(2, tuple(map(tuple, kept)))) as run:
            full = run.expand(model(**inputs).logits)
    for row, oracle, mine in zip(rows_of(inputs), rows, full, strict=True):
        here = mine[[row.padding + s for s in oracle.states()[-1].slots]]
        assert (here - oracle.logits()).abs().max().item() < 4 * noise


def test_random_draws(model: Any) -> None:
    """A seeded method draws by picture: alike in forward, generate, beams and for features encoded elsewhere."""
    inputs = tiny_inputs((2,))
    pixels = inputs["pixel_values"]
    drawn = [draws.philox_uniforms(3, draws.sample_id_of(p), i, 0, NUM_VISUAL) for i, p in enumerate(pixels)]
    expected = [sorted(torch.tensor(d).topk(KEEP).indices.tolist()) for d in drawn]
    encoded = model.get_image_features(pixels, return_dict=True)
    ids, answers = inputs["input_ids"], []
    with tessella.reduce(model, Drawn(seed=3), keep=KEEP) as run:
        for call in (
            lambda: model(**inputs),
            lambda: model.generate(**inputs, max_new_tokens=2),
            lambda: model.generate(**inputs, max_new_tokens=2, num_beams=2),
        ):
            call()
            assert all([p.tolist() for p in row] == expected for row in run.kept)
        for _ in range(2):
            model(input_ids=ids, mm_encoder_outputs={"image": encoded})
            answers.append([p.tolist() for p in run.kept[0]])
    assert answers[0] == answers[1]


def test_inference_mode(model: Any) -> None:
    inputs = tiny_inputs((2,))
    with torch.inference_mode():
        [oracle] = oracles(model, inputs, kept_by_norm(model, inputs, KEEP, 2), 2, "compact")
        with tessella.reduce(model, Norm(2), keep=KEEP) as run:
            compare(model, inputs, run.expand(model(**inputs).logits), [oracle])
            got = model.generate(**inputs, max_new_tokens=STEPS, suppress_tokens=[IMAGE_TOKEN])
        assert got[0, inputs["input_ids"].shape[1] :].tolist() == oracle.greedy(STEPS)
        features = model.get_image_features(inputs["pixel_values"], return_dict=True)
        with tessella.reduce(model, Features(), keep=1.0):
            same = model(**inputs).logits
        assert torch.equal(same, model(**inputs).logits)
    assert len(features.pooler_output) == 2


def test_layers_called_directly(model: Any) -> None:
    """Decoder and language model called by themselves know nothing of pictures and run as they are."""
    embedded = torch.randn(1, 7, 32)
    decoder = model.model.language_model
    before = decoder(inputs_embeds=embedded).last_hidden_state
    rotary = decoder.rotary_emb(embedded, torch.arange(7)[None])
    single = decoder.layers[3](embedded, position_embeddings=rotary)
    with tessella.reduce(model, Norm(2), keep=KEEP) as run:
        model(**tiny_inputs())
        assert torch.equal(single, decoder.layers[3](embedded, position_embeddings=rotary))
        after = model.model.language_model(inputs_embeds=embedded)
        assert torch.equal(before, after.last_hidden_state)
        assert type(after.past_key_values) is DynamicCache
    assert run.report.prompts == 1
