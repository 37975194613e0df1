"""The forward pass of training equals the model's own."""

from random import Random

import numpy as np
import torch

from tessella.mini.forward import decode, encode
from tessella.mini.lessons import NUM_THINGS, PREFIX, draw_batch, draw_crowd, label_patches
from tessella.mini.model import build_model, build_processor
from tessella.mini.questions import draw_sample


def _normalised(pixels: np.ndarray) -> torch.Tensor:
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.4) / 0.3


def test_packed_questions_give_the_logits_of_separate_prompts() -> None:
    processor = build_processor()
    model = build_model(processor, seed=3).eval()
    batch = next(b for b in (draw_batch(processor.tokenizer, f"forward/{i}", 1) for i in range(9)) if b.segments.max())
    ids, segments = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.segments)
    pixels = _normalised(batch.pixels)
    with torch.no_grad():
        hidden, _ = encode(model, pixels)
        packed = model.lm_head(decode(model, hidden[:, 1:], ids, torch.from_numpy(batch.positions), segments))[0]
        for segment in [s for s in range(1, 7) if s in segments[0]]:
            inside = segments[0] == segment
            prompt = torch.cat((ids[:, :PREFIX], ids[:, inside]), dim=1)
            alone = model(input_ids=prompt, pixel_values=pixels, attention_mask=torch.ones_like(prompt)).logits[0]
            torch.testing.assert_close(packed[inside[PREFIX:]], alone[PREFIX:], atol=2e-4, rtol=2e-4)


def test_blind_questions_give_the_logits_of_prompts_without_a_picture() -> None:
    processor = build_processor()
    model = build_model(processor, seed=3).eval()
    batch = draw_batch(processor.tokenizer, "blind/1", 8)
    ids, segments, positions = (torch.from_numpy(x) for x in (batch.input_ids, batch.segments, batch.positions))
    starts = set()
    with torch.no_grad():
        hidden, _ = encode(model, _normalised(batch.pixels))
        packed = model.lm_head(decode(model, hidden[:, 1:], ids, positions, segments))
        for row, segment in {(r, int(s)) for r in range(8) for s in segments[r].unique() if s < 0}:
            inside = segments[row] == segment
            prompt = torch.cat((ids[row, :2], ids[row, inside]))[None]
            where = torch.cat((torch.arange(2), positions[row, inside]))[None]
            alone = model(input_ids=prompt, position_ids=where, attention_mask=torch.ones_like(prompt)).logits[0]
            torch.testing.assert_close(packed[row, inside[PREFIX:]], alone[2:], atol=2e-4, rtol=2e-4)
            starts.add(int(where[0, 2]))
    assert starts == {2, PREFIX}


def test_conversation_gives_the_logits_of_one_long_prompt() -> None:
    processor = build_processor()
    model = build_model(processor, seed=3).eval()
    batches = (draw_batch(processor.tokenizer, f"forward/{i}", 1) for i in range(30))
    batch = next(b for b in batches if not b.segments.max())
    ids, pixels = torch.from_numpy(batch.input_ids), _normalised(batch.pixels)
    with torch.no_grad():
        hidden, _ = encode(model, pixels)
        positions, segments = torch.from_numpy(batch.positions), torch.from_numpy(batch.segments)
        ours = model.lm_head(decode(model, hidden[:, 1:], ids, positions, segments))
        theirs = model(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits[:, PREFIX:]
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=2e-4)


def test_encoder_matches_the_features_and_the_pooled_class_token() -> None:
    processor = build_processor()
    model = build_model(processor, seed=3).eval()
    tower = model.model.vision_tower
    pixels = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = tower(pixels, output_hidden_states=True)
        hidden, pooled = encode(model, pixels)
        torch.testing.assert_close(hidden, out.hidden_states[-2], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(pooled, out.pooler_output, atol=1e-4, rtol=1e-4)
        small = pixels[..., :40, :64]
        hidden, _ = encode(model, small, interpolate=True)
        out = tower(small, output_hidden_states=True, interpolate_pos_encoding=True)
    torch.testing.assert_close(hidden, out.hidden_states[-2], atol=1e-4, rtol=1e-4)


def test_answers_are_the_labels_of_the_tokens_before_them() -> None:
    tokenizer = build_processor().tokenizer
    batch = draw_batch(tokenizer, "labels", 4)
    for ids, labels in zip(batch.input_ids, batch.labels, strict=True):
        at = np.flatnonzero(labels >= 0)
        assert len(at) >= 20
        assert (ids[at + 1] == labels[at]).all()
    text = tokenizer.decode(batch.input_ids[0])
    assert text.startswith("<s><user><image>")
    assert batch.input_ids.shape == (4, 320)
    assert batch.positions[:, :PREFIX].tolist() == [list(range(PREFIX))] * 4


def test_crowds_are_asked_for_all_their_digits_words_and_counts() -> None:
    rng = Random(4)
    counts, sorts = [], set()
    for _ in range(60):
        scene, questions = draw_crowd(rng)
        kinds = {question.kind for question in questions}
        sorts.add(scene.items[0].kind)
        if kinds == {"count"}:
            counts += [int(question.answer) for question in questions]
            continue
        truth = {f"what is the {item.colour} {item.noun}?": item.text for item in scene.items}
        assert len(truth) == len(scene.items) >= 3
        assert {question.text: question.answer for question in questions}.items() <= truth.items()
        assert len(questions) >= len(truth) - 2
    assert sorts == {"shape", "digit", "word"}
    assert sum(count > 2 for count in counts) > 0.4 * len(counts)


def test_patch_labels_show_the_object_at_its_centre() -> None:
    rng = Random(5)
    for _ in range(20):
        scene, _ = draw_sample("colour", rng, "train")
        tags, things, colours, slots, centres = label_patches(scene)
        for item in scene.items:
            x, y = (int(v) // 8 for v in item.centre)
            assert centres[y * 14 + x] == 1
            if item.shape not in ("", "ring"):
                assert things[y * 14 + x] > 0
                assert tags[things[y * 14 + x] - 1] == 1
                assert colours[y * 14 + x] > 0
        letters = sum(len(item.text) for item in scene.items if item.kind == "word")
        assert (slots.max() > 0) == (letters > 0)
        assert things.max() < NUM_THINGS
