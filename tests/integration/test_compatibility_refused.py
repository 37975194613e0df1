"""What a reduced model refuses, and says why: nothing is silently wrong. See docs/compatibility.md."""

from __future__ import annotations

import dataclasses
import re
import threading
from functools import partial
from typing import Any

import pytest
import torch
from comparing import KEEP, kept_by_norm, oracles
from oracle import Oracle
from plain_methods import Asked, Features, Norm
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, StaticCache
from transformers.modeling_outputs import BaseModelOutputWithPooling

import tessella
from tessella.core.errors import BudgetError, LayoutError, MethodError, UnsupportedError
from tessella.core.pipeline import as_pipeline
from tessella.core.view import View
from tessella.engine.plan import make_plan
from tessella.models.adapter import find_adapter
from tessella.testing.family_cases import Above
from tessella.testing.tiny import IMAGE_TOKEN, tiny_inputs, tiny_llava


def refused(reason: str, kind: type[Exception] = UnsupportedError) -> Any:
    return pytest.raises(kind, match=re.escape(reason))


def test_assisted_decoding(model: Any) -> None:
    inputs = tiny_inputs()
    with tessella.reduce(model, Norm(2), keep=KEEP):
        with refused("generate(assistant_model=...) is not supported on a reduced model: assisted decoding rolls"):
            model.generate(**inputs, assistant_model=tiny_llava(num_layers=2), max_new_tokens=4)
        with refused("generate(prompt_lookup_num_tokens=...) is not supported on a reduced model: prompt lookup is"):
            model.generate(**inputs, prompt_lookup_num_tokens=3, max_new_tokens=4)
        config = GenerationConfig(prompt_lookup_num_tokens=3, max_new_tokens=4)
        ids = inputs["input_ids"]
        with refused("prompt lookup is assisted decoding"):
            model.generate(ids, config, pixel_values=inputs["pixel_values"])


def test_chunked_prefill(model: Any) -> None:
    inputs = tiny_inputs()
    with tessella.reduce(model, Norm(2), keep=KEEP):
        with refused("generate(prefill_chunk_size=...) is not supported on a reduced model: chunked prefill shows"):
            model.generate(**inputs, prefill_chunk_size=8, max_new_tokens=4)
        with refused("sample 0 has 7 image placeholders but its 1 picture(s) [(4, 4)] need 16", LayoutError):
            model(input_ids=inputs["input_ids"][:, :10], pixel_values=inputs["pixel_values"])


def test_static_cache(model: Any) -> None:
    inputs = tiny_inputs()
    with tessella.reduce(model, Norm(2), keep=KEEP):
        for name in ("static", "quantized", "offloaded"):
            with refused(f"cache_implementation='{name}' is not supported on a reduced model: layers hold different"):
                model.generate(**inputs, cache_implementation=name, max_new_tokens=4)
        cache = StaticCache(config=model.config.text_config, max_cache_len=64)
        for call in (model, partial(model.generate, max_new_tokens=4)):
            with refused("a StaticCache cannot hold a different number of tokens in each layer"):
                call(**inputs, past_key_values=cache)
    assert cache.get_seq_length() == 0


def test_custom_decoding_loop(model: Any) -> None:
    with tessella.reduce(model, Norm(2), keep=KEEP), refused("a custom decoding loop is unknown to the engine"):
        model.generate(**tiny_inputs(), custom_generate=lambda *a, **k: None)


def test_two_threads(model: Any) -> None:
    """The second thread is refused; the first one's answer is not disturbed."""
    inputs, answers = tiny_inputs(), []
    [oracle] = oracles(model, inputs, kept_by_norm(model, inputs, KEEP, 2), 2, "compact")
    expected = oracle.greedy(6)
    scoring, tried = threading.Event(), threading.Event()

    @dataclasses.dataclass(frozen=True)
    class Slow(Norm):
        def score(self, view: View) -> Tensor:
            scoring.set()
            assert tried.wait(10)
            return super().score(view)

    @torch.no_grad()
    def first() -> None:
        out = model.generate(**inputs, max_new_tokens=6, suppress_tokens=[IMAGE_TOKEN])
        answers.append(out[0, inputs["input_ids"].shape[1] :].tolist())

    with tessella.reduce(model, Slow(2), keep=KEEP):
        thread = threading.Thread(target=first)
        thread.start()
        try:
            assert scoring.wait(10)
            for call in (
                lambda: model(**inputs),
                lambda: model.generate(**inputs, max_new_tokens=2),
                lambda: model.get_image_features(inputs["pixel_values"]),
            ):
                with refused("another thread is using this model under a reduction; a run serves one thread"):
                    call()
        finally:
            tried.set()
            thread.join()
        assert answers == [expected]
        first()  # free again
    assert answers == [expected] * 2


def test_new_picture_on_a_used_cache(model: Any) -> None:
    """Also behind a prefix of text alone: a reduction is decided once a prompt."""
    inputs = tiny_inputs()
    with tessella.reduce(model, Norm(2), keep=KEEP):
        prefix = model(input_ids=torch.tensor([[1, 7, 8]])).past_key_values
        used = model(**inputs).past_key_values
        for cache in (prefix, used):
            length = cache.get_seq_length()
            with refused("this forward brings new visual tokens on a cache that already holds a prompt"):
                model(**{**inputs, "attention_mask": None}, past_key_values=cache)
            assert cache.get_seq_length() == length
        assert model(input_ids=torch.tensor([[9]]), past_key_values=prefix).logits.shape == (1, 1, 64)
        assert model(input_ids=torch.tensor([[9]]), past_key_values=used).logits.shape == (1, 1, 64)


def test_pictures_again_in_a_second_turn(model: Any) -> None:
    """Pixels whose placeholders are on the cache already fit no placeholder of the new tokens."""
    inputs = tiny_inputs()
    with tessella.reduce(model, Norm(2), keep=KEEP):
        cache = model(**inputs).past_key_values
        told = torch.cat([inputs["input_ids"], torch.tensor([[33, 34]])], dim=1)
        with refused("1 pictures were given but the prompts hold placeholders for 0", LayoutError):
            model.generate(told, pixel_values=inputs["pixel_values"], past_key_values=cache, max_new_tokens=2)


def test_cache_outside_its_run(model: Any) -> None:
    inputs, token = tiny_inputs(), torch.tensor([[33]])
    with tessella.reduce(model, Norm(2), keep=KEEP) as run:
        cache = model(**inputs).past_key_values
        with tessella.reduce(model, Norm(2), keep=KEEP), refused("this cache was made by another run"):
            model(input_ids=token, past_key_values=cache)
        with refused("this cache holds a prompt with visual tokens removed; use it inside the run that made it"):
            tiny_llava()(input_ids=token, past_key_values=cache)
    with refused("this cache holds a prompt with visual tokens removed; use it inside the run that made it"):
        model(input_ids=token, past_key_values=cache)
    with refused("use it inside the run that made it"):
        model.generate(token, attention_mask=torch.ones(1, 26), past_key_values=cache, max_new_tokens=2)
    assert [layer.keys.shape[2] for layer in cache.layers] == [25, 25, 14, 14]
    with run:
        assert model(input_ids=token, past_key_values=cache).logits.shape == (1, 1, 64)


def test_cache_changed_by_hand(model: Any) -> None:
    with tessella.reduce(model, Norm(2), keep=KEEP):
        cache = model(**tiny_inputs()).past_key_values
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys[:, :, :-1], layer.values[:, :, :-1]
        with refused("layer 0 of this cache holds [batch, tokens] = [1, 24] where the run knows of [1, 25]"):
            model(input_ids=torch.tensor([[33]]), past_key_values=cache)


def test_cache_of_another_model_in_a_run(model: Any) -> None:
    inputs, token = tiny_inputs(), torch.tensor([[33]])
    other = tiny_llava(seed=1)
    with tessella.reduce(model, Norm(2), keep=KEEP), tessella.reduce(other, Norm(2), keep=KEEP):
        cache = model(**inputs).past_key_values
        with refused("this cache was made by another run"):
            other(input_ids=token, past_key_values=cache)


def test_positions(model: Any) -> None:
    """Compact positions have no meaning where a token has several."""
    adapter = find_adapter(model)
    adapter.info = dataclasses.replace(adapter.info, multi_axis_positions=True)
    pipeline = as_pipeline(Norm(2)).with_budget(KEEP)
    with refused("positions='compact' has no meaning on a model with multi-axis positions; use 'original'."):
        make_plan(adapter, pipeline, "compact")
    assert make_plan(adapter, pipeline, "original").positions == "original"
    with refused("positions must be 'original' or 'compact'; got 'gappy'."):
        tessella.reduce(model, Norm(2), keep=KEEP, positions="gappy")


def test_layer_mean_of_pictures_of_different_sizes(model: Any) -> None:
    """A count means another share of each; a fraction the same."""
    sizes = (16, 4)
    ids = torch.tensor([[1, *[IMAGE_TOKEN] * 16, 33, *[IMAGE_TOKEN] * 4, 34, 35]])
    features = [torch.randn(n, 32) for n in sizes]
    inputs = {"input_ids": ids, "mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=features)}}
    reason = "keep=12 per layer-mean on images of [4, 16] tokens; give a fraction instead."
    with tessella.reduce(model, Norm(2), keep=12, scope="layer-mean"), refused(reason, BudgetError):
        model(**inputs)
    with tessella.reduce(model, Norm(2), keep=0.75, scope="layer-mean", positions="original") as run:
        logits = model(**inputs).logits
    assert [len(k) for k in run.kept[0]] == [8, 2]
    assert run.report.mean_keep_ratio == 0.75
    assert logits.shape[1] == ids.shape[1] - 10


@pytest.mark.parametrize("keep, scope, reason", [
    (17, None, "keep=17 asks for 17 visual tokens per image, but only 16 are there"),
    (17, "prompt", "keep=17 asks for 17 visual tokens per prompt, but only 16 are there"),
    (0.3, "layer-mean", "a layer mean of 0.3 is out of reach for norm"),
])  # fmt: skip
def test_more_than_there_is(model: Any, keep: Any, scope: Any, reason: str) -> None:
    """Nothing is clamped."""
    inputs = tiny_inputs()
    before = model(**inputs).logits
    with tessella.reduce(model, Norm(2), keep=keep, scope=scope), refused(reason, BudgetError):
        model(**inputs)
    assert torch.equal(model(**inputs).logits, before)


def test_methods_that_break_their_card(model: Any) -> None:
    @dataclasses.dataclass(frozen=True)
    class Greedy(Above):
        id = "greedy"
        card = dataclasses.replace(Above.card, count="exact", count_reason="")

    @dataclasses.dataclass(frozen=True)
    class Flat(Norm):
        id = "flat"

        def score(self, view: View) -> Tensor:
            return super().score(view)[:, :-1]

    for method, reason in (
        (Greedy(2), "greedy kept 9 tokens where (5,) were asked; its card says exact."),
        (Flat(2), "flat: score must be [B, V] = (1, 16); got (1, 15)."),
    ):
        with tessella.reduce(model, method, keep=KEEP), refused(reason, MethodError):
            model(**tiny_inputs())


def test_pictures_that_fit_no_placeholder(model: Any) -> None:
    inputs = tiny_inputs((2,))
    one = {**inputs, "pixel_values": inputs["pixel_values"][:1]}
    with tessella.reduce(model, Norm(2), keep=KEEP):
        with refused("sample 0 has 32 image placeholders but its 1 picture(s)", LayoutError):
            model(**one)
        three = {**inputs, "pixel_values": inputs["pixel_values"].repeat(2, 1, 1, 1)[:3]}
        with refused("3 pictures were given but the prompts hold placeholders for 2.", LayoutError):
            model(**three)


def test_another_feature_layer(model: Any) -> None:
    """A method that reads encoder layers has chosen them by the config."""

    @dataclasses.dataclass(frozen=True)
    class Reads(Features):
        id = "reads"

        def captures(self, info: Any) -> Any:
            return dataclasses.replace(super().captures(info), encoder=(info.feature_layer,))

    inputs = tiny_inputs()
    with tessella.reduce(model, Reads(), keep=KEEP):
        for call in (model, model.generate):
            with refused("vision_feature_layer=-1 differs from the -2 of the model's config"):
                call(**inputs, vision_feature_layer=-1)
    features = model.get_image_features(inputs["pixel_values"], vision_feature_layer=-1, return_dict=True).pooler_output
    expected = sorted(features[0].norm(dim=-1).topk(KEEP).indices.tolist())
    with tessella.reduce(model, Norm(), keep=KEEP) as run:  # this one reads what the connector gave
        model(**inputs, vision_feature_layer=-1)
    assert run.kept[0][0].tolist() == expected


def test_expand_of_other_logits(model: Any) -> None:
    inputs = tiny_inputs()
    run = tessella.reduce(model, Norm(2), keep=KEEP)
    with refused("no prompt with pictures has been read under this run yet."):
        run.expand(torch.zeros(1, 14, 64))
    with run:
        out = model(**inputs)
        with refused("expand takes the logits of the whole shortened prompt, [B, R] = (1, 14); got (1, 1)."):
            run.expand(out.logits[:, -1:])


def test_positive_crop(model: Any) -> None:
    with tessella.reduce(model, Norm(2), keep=KEEP):
        cache = model(**tiny_inputs()).past_key_values
        with refused("crop(20) is not supported; pass the number to remove as negative."):
            cache.crop(20)
    assert cache.get_seq_length() == 25


def test_model_without_adapter() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=8)
    with refused("no adapter for model type 'llama'; known: "):
        tessella.reduce(LlamaForCausalLM(config), Norm(), keep=KEEP)


def test_layer_outside_the_model(model: Any) -> None:
    with refused("norm: at_layer=4 is not a layer of this decoder; it has 4 layers: 0 to 3."):
        tessella.reduce(model, Norm(4), keep=KEEP)
    with refused("act at layers [2, 0]; write them in ascending order."):
        parts = [as_pipeline(m).with_budget(KEEP).parts[0] for m in (Norm(2), Norm())]
        tessella.reduce(model, tessella.Pipeline(tuple(parts)))


def test_reading_a_layer_that_no_longer_fits(model: Any) -> None:
    """Attention of a layer in front of an earlier cut has other columns."""

    @dataclasses.dataclass(frozen=True)
    class Early(Asked):
        id = "early"

        def captures(self, info: Any) -> Any:
            return dataclasses.replace(super().captures(info), decoder=(0,))

        def score(self, view: View) -> Tensor:
            return view.attention_rows(layer=0)[:, :, 0].mean(dim=1)

    parts = [as_pipeline(m).with_budget(k).parts[0] for m, k in ((Norm(1), 9), (Early(2), KEEP))]
    with (
        tessella.reduce(model, tessella.Pipeline(tuple(parts))),
        refused("layer 0 ran before the last cut", MethodError),
    ):
        model(**tiny_inputs())


def test_used_cache_of_a_text_is_no_prompt(model: Any) -> None:
    """Text on an ordinary cache passes through, bit by bit, under a run."""
    text = torch.tensor([[1, 7, 8, 9]])
    before = model(input_ids=text).logits[:, -1]
    with tessella.reduce(model, Norm(2), keep=KEEP):
        cache = model(input_ids=text[:, :3]).past_key_values
        after = model(input_ids=text[:, 3:], past_key_values=cache).logits[:, -1]
    plain = model(input_ids=text[:, 3:], past_key_values=model(input_ids=text[:, :3]).past_key_values).logits[:, -1]
    assert type(cache) is DynamicCache
    assert torch.equal(after, plain)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    assert Oracle(model, text[0].tolist()).logits().shape == (4, 64)
