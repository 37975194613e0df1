"""A picture made smaller in front of the encoder: rows of a batch against prompts that were short from the start."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comparing import STEPS, close, generate, rows_of

import tessella
from tessella.core.errors import UnsupportedError
from tessella.core.registry import make
from tessella.testing.tiny import IMAGE_TOKEN, NUM_VISUAL, tiny_inputs, tiny_llava

KEPT, SIZE = 6, (21, 14)  # of 16; three rows and two columns of patches of 7 pixels


def short(inputs: dict[str, Any]) -> list[dict[str, torch.Tensor]]:
    """Each row as a prompt of its own, with small pictures and as many placeholders as they need."""
    out = []
    for row in rows_of(inputs):
        ids, run = [], 0
        for token in row.ids:
            run = run + 1 if token == IMAGE_TOKEN else 0
            if not run or (run - 1) % NUM_VISUAL < KEPT:
                ids.append(token)
        one = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
        if row.pictures is not None:
            one["pixel_values"] = torch.nn.functional.interpolate(
                row.pictures, size=SIZE, mode="bicubic", antialias=True
            )
        out.append(one)
    return out


def features(model: Any, prompt: dict[str, Any]) -> dict[str, Any]:
    """The prompt with its pictures encoded; neither `generate` nor the oldest `forward` hands on how to encode them."""
    pixels = prompt.get("pixel_values")
    if pixels is None:
        return prompt
    encoded = model.model.get_image_features(pixels, interpolate_pos_encoding=True, return_dict=True)
    rest = {n: v for n, v in prompt.items() if n != "pixel_values"}
    return {**rest, "mm_encoder_outputs": {"image": encoded}}


def embedded(model: Any, prompt: dict[str, Any]) -> dict[str, Any]:
    """The prompt with its pictures in place; the oldest `generate` mixes up several pictures a row in beams."""
    encoded = features(model, prompt)
    embeddings = model.get_input_embeddings()(prompt["input_ids"]).detach().clone()
    if "mm_encoder_outputs" in encoded:
        pictures = encoded.pop("mm_encoder_outputs")["image"].pooler_output
        embeddings[prompt["input_ids"] == IMAGE_TOKEN] = torch.cat(list(pictures)).detach()
    return {**encoded, "inputs_embeds": embeddings}


def downsample(model: Any, text: str = "downsample:6") -> Any:
    return tessella.reduce(model, text)


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("images", [(1,), (1, 1), (2, 0, 1), (1, 3)])
def test_downsampled_forward(model: Any, images: tuple[int, ...], padding: Any) -> None:
    inputs = tiny_inputs(images, padding=padding)
    with downsample(model) as run:
        logits = model(**inputs).logits
        full = run.expand(logits)
        assert [[len(k) for k in row] for row in run.kept] == [[KEPT] * n for n in images]
    assert full.shape[:2] == inputs["input_ids"].shape
    assert logits.shape[1] == max(p["input_ids"].shape[1] for p in short(inputs)), "no more padding than needed"
    for row, prompt, mask, mine in zip(rows_of(inputs), short(inputs), inputs["attention_mask"], full, strict=True):
        want = model(**features(model, prompt)).logits[0]
        text = torch.tensor(row.ids) != IMAGE_TOKEN
        close(mine[mask.bool()][text], want[prompt["input_ids"][0] != IMAGE_TOKEN])
        assert mine[mask.bool()][~text].isnan().all()


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("images", [(1,), (2, 0, 1), (1, 3)])
def test_downsampled_greedy(model: Any, images: tuple[int, ...], cached: bool) -> None:
    inputs = tiny_inputs(images, padding="left")
    with downsample(model):
        out = generate(model, inputs, do_sample=False, use_cache=cached)
    for mine, prompt in zip(out, short(inputs), strict=True):
        assert [mine] == generate(model, features(model, prompt), do_sample=False)


def test_downsampled_beams_and_samples(model: Any) -> None:
    inputs = tiny_inputs((2, 1), padding="left")
    with downsample(model) as run:
        beams = generate(model, inputs, num_beams=3, num_return_sequences=2, do_sample=False)
        assert run.report.last is not None
        assert run.report.last.tokens_in == ((16, 16),) * 3 + ((16,),) * 3
    for row, prompt in enumerate(short(inputs)):
        want = generate(model, embedded(model, prompt), num_beams=3, num_return_sequences=2, do_sample=False)
        assert beams[2 * row : 2 * row + 2] == want
    one = tiny_inputs((2,))
    torch.manual_seed(7)
    with downsample(model):
        sampled = generate(model, one, num_return_sequences=3, do_sample=True)
    torch.manual_seed(7)
    assert sampled == generate(model, embedded(model, short(one)[0]), num_return_sequences=3, do_sample=True)


def test_downsampled_prompt_comes_back(model: Any) -> None:
    """Sequences begin with the user's prompt, and limits on the whole length count it."""
    inputs = tiny_inputs((2, 0), padding="left")
    length = inputs["input_ids"].shape[1]
    options = {"do_sample": False, "suppress_tokens": [IMAGE_TOKEN]}
    with downsample(model):
        by_length = model.generate(**inputs, **options, max_length=length + 5)
        first = model.generate(inputs["input_ids"], **{n: v for n, v in inputs.items() if n != "input_ids"}, **options,
                               max_new_tokens=5, return_dict_in_generate=True)  # fmt: skip
    assert by_length.shape == (2, length + 5)
    assert torch.equal(by_length[:, :length], inputs["input_ids"])
    assert torch.equal(first.sequences, by_length)


@pytest.mark.parametrize("text", ["downsample:6", "downsample:6 | fastv@2:4"])
@pytest.mark.parametrize("images", [(1,), (2, 1)])
def test_downsampled_second_turn(model: Any, images: tuple[int, ...], text: str) -> None:
    """The cache speaks of the user's prompt: whole conversation and whole mask, or new tokens alone."""
    inputs = tiny_inputs(images, padding="left")
    mask, more = inputs["attention_mask"], torch.tensor([[9, 10, 11]] * len(images))
    options = {"do_sample": False, "suppress_tokens": [IMAGE_TOKEN], "max_new_tokens": STEPS}
    with downsample(model, text):
        first = model.generate(**inputs, **options, return_dict_in_generate=True)
        whole = torch.cat([first.sequences, more], dim=1)
        longer = torch.cat([mask, torch.ones(len(images), STEPS + 3, dtype=torch.long)], dim=1)
        cache = first.past_key_values
        cached = model.generate(input_ids=whole, attention_mask=longer, past_key_values=cache, **options)
        again = model.generate(**{**inputs, "input_ids": whole, "attention_mask": longer}, **options)
    if text == "downsample:6":  # what fastv keeps depends on the last token, which is another
        assert torch.equal(cached, again)
    with downsample(model, text):
        out = model(**inputs, use_cache=True)
        cache = out.past_key_values
        step = model(input_ids=more, attention_mask=longer[:, : mask.shape[1] + 3], past_key_values=cache).logits
    assert cache.get_seq_length() == mask.shape[1] + 3
    if text == "downsample:6":
        with downsample(model, text):
            whole = torch.cat([inputs["input_ids"], more], dim=1)
            want = model(**{**inputs, "input_ids": whole, "attention_mask": longer[:, : whole.shape[1]]}).logits
        close(step, want[:, -3:])


def test_downsampled_report(model: Any) -> None:
    """Tokens, ratios and cache against the prompt that the user gave, in each stage of a pipeline."""
    inputs = tiny_inputs((2, 1), padding="left")
    length = inputs["input_ids"].shape[1]
    with downsample(model, "downsample:1/2 | fastv@2:0.5") as run:
        model(**inputs)
        assert run.layout.blocks[1][0].num_tokens == KEPT
        assert [[len(m) for m in row] for row in run.merged] == [[KEPT, KEPT], [KEPT]]
    report = run.report
    assert (report.tokens_in, report.tokens_kept, report.keep_ratio) == (48, 9, 9 / 48)
    assert report.mean_keep_ratio == (2 * 18 + 2 * 9) / (4 * 48)
    assert report.last is not None
    assert report.last.mean_keep_ratios == ((6 + 3) / 32,) * 2
    each_token = 2 * 2 * 8 * 4  # keys and values, two heads of eight, float32
    assert report.full_cache_bytes == 2 * 4 * length * each_token
    assert report.cache_bytes == 2 * sum(report.last.cache_lengths) * each_token
    assert report.last.cache_lengths[0] == length - 20


def test_downsampled_picture_is_shown(model: Any, tmp_path: Any) -> None:
    with downsample(model) as run:
        model(**tiny_inputs((2,)))
        assert [p.size for p in run.pictures] == [(14, 21)] * 2
        run.show(tmp_path / "seen.png")
        with pytest.raises(UnsupportedError, match="the model saw other pictures than the originals; leave images out"):
            run.show(tmp_path / "seen.png", images=run.pictures)
    assert (tmp_path / "seen.png").stat().st_size > 1000


@pytest.mark.parametrize("cut", ["fastervlm:3", "hiprune:3", "pool:4", "divprune:3", "random:3"])
def test_cut_behind_a_downsampled_picture(model: Any, cut: str) -> None:
    """What the encoder shows is that of the small picture: the same tokens stay as on a small picture given by hand."""
    inputs = tiny_inputs((2, 1), padding="left")
    with downsample(model, f"downsample:6 | {cut}") as run:
        out = generate(model, inputs, do_sample=False)
        kept = [[k.tolist() for k in row] for row in run.kept]
    for row, prompt in enumerate(short(inputs)):
        with tessella.reduce(model, cut) as run:
            assert out[row : row + 1] == generate(model, features(model, prompt), do_sample=False)
            assert [k.tolist() for k in run.kept[0]] == kept[row]


def test_downsampled_to_several_sizes(model: Any) -> None:
    """Pictures that share a budget may differ by a token: each has its grid, and its own view of the encoder."""
    inputs = tiny_inputs((2, 1), padding="left")
    with downsample(model, "downsample:0.4 per prompt") as run:  # 13 of 32, and 6 of 16
        out = generate(model, inputs, do_sample=False)
        assert [[b.num_tokens for b in row] for row in run.layout.blocks] == [[6, 6], [6]]
    with downsample(model, "downsample:0.3 per prompt") as run:  # 10 of 32 are 5 and 5; 5 of 16
        generate(model, inputs, do_sample=False)
        assert [[b.num_tokens for b in row] for row in run.layout.blocks] == [[4, 4], [4]]
    with downsample(model, "downsample:17/32 per prompt") as run:  # 17 of 32 are 9 and 8; 8 of 16
        several = generate(model, inputs, do_sample=False)
        assert [[(b.rows, b.columns) for b in row] for row in run.layout.blocks] == [[(3, 3), (3, 2)], [(3, 2)]]
    assert several != out
    with downsample(model, "downsample:17/32 per prompt | fastv@2:0.5") as run:
        generate(model, inputs, do_sample=False)
        assert [sum(map(len, row)) for row in run.kept] == [8, 3]
    cut = "downsample:17/32 per prompt | fastervlm:2"
    with downsample(model, cut) as run:
        together = generate(model, inputs, do_sample=False)
        kept = [[k.tolist() for k in row] for row in run.kept]
    for row, prompt in enumerate(rows_of(inputs)):
        alone = {"input_ids": torch.tensor([prompt.ids]), "pixel_values": prompt.pictures}
        with downsample(model, cut) as run:
            assert generate(model, alone, do_sample=False) == [together[row]]
            assert [k.tolist() for k in run.kept[0]] == kept[row]


def test_downsampled_labels(model: Any) -> None:
    """The loss of a short prompt; a token behind added padding is no target."""
    one, other = tiny_inputs((2,)), tiny_inputs((1,), text_length=24, seed=1)  # as long, with a picture less
    inputs = {name: torch.cat([one[name], other[name]]) for name in one}
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE_TOKEN, -100)
    with downsample(model):
        loss = model(**inputs, labels=labels).loss
    total, count = torch.tensor(0.0), 0
    for prompt in short(inputs):
        ids = prompt["input_ids"][0]
        logits = model(**features(model, prompt)).logits[0].log_softmax(dim=-1)
        for place in range(1, len(ids)):
            if ids[place] != IMAGE_TOKEN:
                total -= logits[place - 1, ids[place]]
                count += 1
    close(loss, total / count)


def test_downsampled_everything_is_untouched(model: Any) -> None:
    """Bit by bit, in bfloat16 too, where nothing is left out."""
    for dtype in (torch.float32, torch.bfloat16):
        mine = tiny_llava(dtype=dtype)
        inputs = tiny_inputs((2, 1), padding="left", dtype=dtype)
        want, tokens = mine(**inputs).logits, generate(mine, inputs, do_sample=False)
        for keep in (1.0, NUM_VISUAL):
            with tessella.reduce(mine, make("downsample"), keep=keep) as run:
                assert torch.equal(mine(**inputs).logits, want)
                assert generate(mine, inputs, do_sample=False) == tokens
                assert (run.num_rewrites, run.is_rewritten) == (2, False)


def test_downsample_refuses_what_it_cannot_follow(model: Any) -> None:
    inputs = tiny_inputs((2, 1), padding="left")
    encoded = features(model, inputs)
    with downsample(model):
        for call in (lambda: model(**encoded), lambda: generate(model, encoded)):
            with pytest.raises(UnsupportedError, match="downsample changes pictures before they are encoded"):
                call()
        mask = torch.ones(2, 1, 1, 1, dtype=torch.bool)
        with pytest.raises(UnsupportedError, match=r"an attention_mask that is not \[batch, tokens\] cannot follow"):
            model(**{**inputs, "attention_mask": mask})
        with pytest.raises(UnsupportedError, match="padded, which takes an attention_mask"):
            model(**{n: v for n, v in inputs.items() if n != "attention_mask"})
        with pytest.raises(UnsupportedError, match="logits_to_keep=20 names places of the full prompt"):
            model(**inputs, logits_to_keep=20)
        assert model(**inputs, logits_to_keep=2).logits.shape[1] == 2
    with pytest.raises(UnsupportedError, match=r"downsample rewrites the inputs, so it comes first; 'divprune:4"):
        downsample(model, "divprune:4 | downsample:4")


def test_downsampled_position_ids_and_embeddings(model: Any) -> None:
    """Explicit positions close up behind the smaller picture; placeholders are found by their embedding."""
    inputs = tiny_inputs((1, 1), padding="left")
    positions = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    rest = {n: v for n, v in inputs.items() if n != "input_ids"}
    with downsample(model) as run:
        full = run.expand(model(**inputs, position_ids=positions).logits)
        embedded = run.expand(model(**rest, inputs_embeds=embeds).logits)
        assert torch.equal(embedded.isnan(), full.isnan())
    real = inputs["attention_mask"].bool() & (inputs["input_ids"] != IMAGE_TOKEN)
    close(embedded[real], full[real])
    for mine, prompt in zip(full, short(inputs), strict=True):
        close(mine[-1], model(**features(model, prompt)).logits[0, -1])
