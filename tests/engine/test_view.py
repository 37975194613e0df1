"""What a view shows, compared with what the same model returns in eager mode with all attentions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import tessella
from spying import NOTHING, Spy
from tessella.core.errors import MethodError, UnsupportedError
from tessella.core.view import Captures, View
from tessella.testing.tiny import NUM_VISUAL, tiny_inputs, tiny_llava


def look(
    function: Callable[[View], Any],
    inputs: dict[str, Tensor],
    encoder: str = "clip",
    *,
    at_layer: int = 0,
    layers: Captures = NOTHING,
    scope: Any = None,
    attention: str = "sdpa",
) -> Any:
    model = tiny_llava(encoder, attention=attention)
    seen: list[Any] = []
    with torch.no_grad(), tessella.reduce(model, Spy(function, layers, at_layer, seen), keep=0.5, scope=scope):
        model(**inputs)
    return seen[0]


def encoder_attentions(encoder: str, pixels: Tensor, layer: int) -> Tensor:
    model = tiny_llava(encoder, attention="eager")
    with torch.no_grad():
        return model.model.vision_tower(pixels, output_attentions=True).attentions[layer]


def decoder_attentions(inputs: dict[str, Tensor], layer: int) -> Tensor:
    with torch.no_grad():
        return tiny_llava(attention="eager")(**inputs, output_attentions=True).attentions[layer]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_class_attention_is_the_class_row_of_the_encoder(attention: str) -> None:
    inputs = tiny_inputs((2, 1), padding="left")
    shown = look(lambda v: v.class_attention(2), inputs, layers=Captures(encoder=(2,)), attention=attention)
    expected = encoder_attentions("clip", inputs["pixel_values"], 2)[:, :, 0, 1:]
    torch.testing.assert_close(shown, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("encoder", ["clip", "siglip"])
def test_attention_received_is_the_mean_column_of_the_encoder(encoder: str) -> None:
    inputs = tiny_inputs((2, 1), padding="left")
    shown = look(lambda v: v.attention_received(1), inputs, encoder, layers=Captures(encoder=(1,)))
    columns = encoder_attentions(encoder, inputs["pixel_values"], 1).mean(dim=(1, 2))
    expected = columns[:, 1:] if encoder == "clip" else columns
    torch.testing.assert_close(shown, expected, atol=1e-6, rtol=1e-5)


def test_encoder_keys_are_the_key_projection() -> None:
    inputs = tiny_inputs((1,))
    shown = look(lambda v: v.encoder_keys(2), inputs, layers=Captures(encoder=(2,), encoder_hidden=(1,)))
    model = tiny_llava()
    with torch.no_grad():
        hidden = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states[2]
        layer = model.model.vision_tower.encoder.layers[2]
        keys = layer.self_attn.k_proj(layer.layer_norm1(hidden))[:, 1:]
    torch.testing.assert_close(shown, keys.unflatten(2, (4, 8)).transpose(1, 2), atol=1e-5, rtol=1e-5)


def test_features_hidden_states_class_token_and_connector() -> None:
    inputs = tiny_inputs((1, 1), padding="left")
    captures = Captures(encoder_hidden=(0,), class_features=True)
    shown = look(
        lambda v: (
            v.features(),
            v.encoder_hidden(0),
            v.class_features(),
            v.connector(v.features()),
            v.tokens.embeddings,
        ),
        inputs,
        layers=captures,
    )
    model = tiny_llava()
    with torch.no_grad():
        hidden = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states
    features, first, class_token, projected, tokens = shown
    torch.testing.assert_close(features, hidden[-2][:, 1:])
    torch.testing.assert_close(first, hidden[1][:, 1:])
    torch.testing.assert_close(class_token, hidden[-2][:, 0])
    torch.testing.assert_close(projected, tokens)
    assert features.shape == (2, NUM_VISUAL, 32)


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rows_of_the_last_query_match_the_decoder(padding: str, attention: str) -> None:
    inputs = tiny_inputs((1, 1, 1), padding=padding)
    shown = look(lambda v: v.attention_rows(1), inputs, at_layer=2, layers=Captures(decoder=(1,)), attention=attention)
    full = decoder_attentions(inputs, 1)
    for row, ids in enumerate(inputs["input_ids"]):
        last = int(inputs["attention_mask"][row].nonzero().max())
        visual = (ids == 5).nonzero().reshape(-1)
        torch.testing.assert_close(shown[row, :, 0], full[row, :, last, visual], atol=1e-5, rtol=1e-4)


def test_rows_over_visual_keys_only_are_renormalised() -> None:
    inputs = tiny_inputs((2,))
    captures = Captures(decoder=(0,))
    shown = look(lambda v: v.attention_rows(0, softmax="visual"), inputs, at_layer=1, layers=captures, scope="prompt")
    visual = (inputs["input_ids"][0] == 5).nonzero().reshape(-1)
    row = decoder_attentions(inputs, 0)[0, :, -1, visual]
    torch.testing.assert_close(shown[0, :, 0], row / row.sum(dim=1, keepdim=True), atol=1e-5, rtol=1e-4)


def test_rows_of_text_queries_follow_the_causal_mask() -> None:
    inputs = tiny_inputs((1, 1), padding="left")
    shown = look(lambda v: v.attention_rows(1, queries="text"), inputs, at_layer=2, layers=Captures(decoder=(1,)))
    full = decoder_attentions(inputs, 1)
    for row, ids in enumerate(inputs["input_ids"]):
        visual = (ids == 5).nonzero().reshape(-1)
        text = ((ids != 5) & inputs["attention_mask"][row].bool()).nonzero().reshape(-1)
        expected = full[row][:, text][:, :, visual]
        torch.testing.assert_close(shown[row, :, : len(text)], expected, atol=1e-5, rtol=1e-4)
        assert shown[row, :, len(text) :].abs().sum() == 0


@pytest.mark.parametrize("rotate", [True, False])
def test_project_looks_ahead_without_touching_the_cache(rotate: bool) -> None:
    inputs = tiny_inputs((1,))
    query, key = look(lambda v: v.project(2, rotate=rotate), inputs, at_layer=2)
    model = tiny_llava()
    with torch.no_grad():
        hidden = model(**inputs, output_hidden_states=True).hidden_states[2]
        layer = model.model.language_model.layers[2]
        normed = layer.input_layernorm(hidden)
        q = layer.self_attn.q_proj(normed).unflatten(2, (4, 8)).transpose(1, 2)
        k = layer.self_attn.k_proj(normed).unflatten(2, (2, 8)).transpose(1, 2)
        if rotate:
            cos, sin = model.model.language_model.rotary_emb(hidden, torch.arange(hidden.shape[1])[None])
            q, k = (t * cos + torch.cat([-t[..., 4:], t[..., :4]], dim=-1) * sin for t in (q, k))
    torch.testing.assert_close(query, q, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(key, k, atol=1e-5, rtol=1e-5)


def test_project_leaves_cache_and_output_alone() -> None:
    inputs, seen = tiny_inputs((1,)), []
    model = tiny_llava()
    with torch.no_grad():
        with tessella.reduce(model, Spy(lambda v: None, at_layer=2, seen=seen), keep=0.5):
            plain = model(**inputs)
        with tessella.reduce(model, Spy(lambda v: v.project(3, rotate=True), at_layer=2, seen=seen), keep=0.5):
            probed = model(**inputs)
    assert torch.equal(plain.logits, probed.logits)
    assert [c.keys.shape for c in probed.past_key_values.layers] == [c.keys.shape for c in plain.past_key_values.layers]


def test_text_embeddings_are_the_prompt_without_pictures() -> None:
    inputs = tiny_inputs((1, 2), padding="left")
    shown, mask = look(lambda v: v.text_embeddings(), inputs, scope="prompt")
    table = tiny_llava().get_input_embeddings().weight
    for row, ids in enumerate(inputs["input_ids"]):
        text = ids[(ids != 5) & inputs["attention_mask"][row].bool()]
        assert mask[row].sum() == len(text)
        torch.testing.assert_close(shown[row, : len(text)], table[text].detach())


def test_pixels_and_draws_belong_to_the_picture() -> None:
    inputs = tiny_inputs((2, 1), padding="left")
    pixels, draws = look(lambda v: (v.pixels(), v.uniforms(0)), inputs)
    torch.testing.assert_close(pixels, inputs["pixel_values"])
    alone = {**tiny_inputs((1,)), "pixel_values": inputs["pixel_values"][2:]}
    torch.testing.assert_close(look(lambda v: v.uniforms(0), alone)[0], draws[2])
    assert not torch.equal(draws[0], draws[1])


def test_what_was_not_declared_is_refused() -> None:
    inputs = tiny_inputs((1,))
    with pytest.raises(MethodError, match=r"spy asks for encoder layer 2, which its captures\(\) does not declare"):
        look(lambda v: v.class_attention(2), inputs)
    with pytest.raises(MethodError, match="asks for attention_rows"):
        look(lambda v: v.attention_rows(1), inputs, at_layer=2)
    with pytest.raises(UnsupportedError, match="needs one encoded picture a decision; scope 'prompt' joins 2"):
        look(lambda v: v.class_features(), tiny_inputs((2,)), layers=Captures(class_features=True), scope="prompt")


def test_tokens_after_a_cut_still_find_their_features() -> None:
    inputs, seen = tiny_inputs((1, 1), padding="left"), []
    model = tiny_llava()
    captures = Captures(encoder=(2,))
    first = Spy(lambda v: v.attention_received(2), captures, 0, seen)
    second = Spy(lambda v: (v.layout.row * 4 + v.layout.column, v.attention_received(2)), captures, 2, seen)
    pipeline = tessella.Pipeline(tuple(tessella.core.pipeline.Part(m, tessella.Budget(0.5)) for m in (first, second)))
    with torch.no_grad(), tessella.reduce(model, pipeline):
        model(**inputs)
    everything, (place, left) = seen
    torch.testing.assert_close(left, everything.gather(1, place))
    assert left.shape == (2, NUM_VISUAL // 2)


@pytest.mark.parametrize("rotate", [True, False])
def test_project_looks_back_at_a_declared_layer(rotate: bool) -> None:
    """The queries and keys of layer 1 as it ran, in front of layer 2; grouped keys stay grouped."""
    inputs = tiny_inputs((1, 1), padding="left")
    captures = Captures(decoder=(1,), decoder_inputs=(1,))

    def both(view: Any) -> Any:
        recorder = view._sources.decoder[1]
        return view.project(1, rotate=rotate), (recorder.queries[0], recorder.keys[0])

    (query, key), ran = look(both, inputs, at_layer=2, layers=captures)
    assert key.shape[1] == 2
    if rotate:
        torch.testing.assert_close((query, key), ran, atol=1e-5, rtol=1e-5)
        return
    model = tiny_llava()
    with torch.no_grad():
        hidden = model(**inputs, output_hidden_states=True).hidden_states[1]
        layer = model.model.language_model.layers[1]
        raw = layer.self_attn.q_proj(layer.input_layernorm(hidden)).unflatten(2, (4, 8)).transpose(1, 2)
    torch.testing.assert_close(query, raw, atol=1e-5, rtol=1e-5)
    assert (query - ran[0]).abs().max() > 0.1


def test_project_does_not_look_back_undeclared_or_past_a_cut() -> None:
    inputs, model, seen = tiny_inputs((1,)), tiny_llava(), []
    with pytest.raises(MethodError, match=r"spy: layer 1 has already run and its input is gone; captures\(\) must"):
        look(lambda v: v.project(1, rotate=False), inputs, at_layer=2)
    captures = Captures(decoder_inputs=(1,))
    first = Spy(lambda v: None, at_layer=2, seen=seen)
    second = Spy(lambda v: v.project(1, rotate=False), captures, 2, seen)
    pipeline = tessella.Pipeline(tuple(tessella.core.pipeline.Part(m, tessella.Budget(0.5)) for m in (first, second)))
    with (
        torch.no_grad(),
        tessella.reduce(model, pipeline),
        pytest.raises(MethodError, match="no cut may lie between"),
    ):
        model(**inputs)


def test_looking_back_changes_no_logit_and_no_cache() -> None:
    inputs, seen, model = tiny_inputs((1,)), [], tiny_llava()
    with torch.no_grad():
        with tessella.reduce(model, Spy(lambda v: None, at_layer=2, seen=seen), keep=0.5):
            plain = model(**inputs)
        with tessella.reduce(
            model, Spy(lambda v: v.project(1, False), Captures(decoder_inputs=(1,)), 2, seen), keep=0.5
        ):
            probed = model(**inputs)
    assert torch.equal(plain.logits, probed.logits)
    assert [c.keys.shape for c in probed.past_key_values.layers] == [c.keys.shape for c in plain.past_key_values.layers]


@pytest.mark.parametrize("padding", ["left", "right"])
def test_places_name_visual_last_and_text_tokens(padding: str) -> None:
    inputs = tiny_inputs((2, 1), padding=padding)  # type: ignore[arg-type]
    visual, last, text = look(lambda v: tuple(v.places(o) for o in ("visual", "last", "text")), inputs, scope="prompt")
    for row, (ids, mask) in enumerate(zip(inputs["input_ids"], inputs["attention_mask"], strict=True)):
        real = mask.bool()
        for shown, where in ((visual, (ids == 5) & real), (text, (ids != 5) & real)):
            expected = where.nonzero().reshape(-1).tolist()
            assert shown[row].tolist() == expected + [-1] * (shown.shape[1] - len(expected))
        assert last[row].tolist() == [int(real.nonzero().max())]


def test_places_after_a_cut_are_of_the_shorter_sequence() -> None:
    inputs, seen, model = tiny_inputs((1, 1), padding="left"), [], tiny_llava()
    first = Spy(lambda v: None, at_layer=0, seen=seen)
    second = Spy(lambda v: (v.places("visual"), v.tokens.embeddings, v._hidden), at_layer=2, seen=seen)
    pipeline = tessella.Pipeline(tuple(tessella.core.pipeline.Part(m, tessella.Budget(0.5)) for m in (first, second)))
    with torch.no_grad(), tessella.reduce(model, pipeline):
        model(**inputs)
    places, embeddings, hidden = seen[1]
    assert places.tolist() == [[4, 5, 6, 7, 8, 9, 10, 11], [3, 4, 5, 6, 7, 8, 9, 10]]  # 1 padding + 3 text; 3 text
    torch.testing.assert_close(hidden.gather(1, places[:, :, None].expand_as(embeddings)), embeddings)


def test_class_projection_is_the_class_token_of_the_encoder() -> None:
    inputs = tiny_inputs((1, 1), padding="left")
    shown = look(lambda v: v.class_projection(3), inputs, layers=Captures(encoder=(3,)))
    model = tiny_llava()
    with torch.no_grad():
        hidden = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states[3]
        layer = model.model.vision_tower.encoder.layers[3]
        normed = layer.layer_norm1(hidden)[:, 0]
        for given, module in zip(shown, (layer.self_attn.q_proj, layer.self_attn.k_proj), strict=True):
            torch.testing.assert_close(given, module(normed).unflatten(1, (4, 8)), atol=1e-5, rtol=1e-5)
    with pytest.raises(UnsupportedError, match="spy needs a class token; this llava encoder has none"):
        look(lambda v: v.class_projection(3), inputs, "siglip", layers=Captures(encoder=(3,)))


def test_a_probe_is_not_taken_for_the_layers_own_call() -> None:
    """Rows of attention read after looking back at the same layer are those of the layer as it ran."""
    inputs, captures = tiny_inputs((1,)), Captures(decoder=(1,), decoder_inputs=(1,))
    before = look(lambda v: v.attention_rows(1), inputs, at_layer=2, layers=captures)
    after = look(lambda v: (v.project(1, False), v.attention_rows(1))[1], inputs, at_layer=2, layers=captures)
    assert torch.equal(before, after)


@pytest.mark.parametrize("encoder", ["clip", "siglip"])
def test_patch_attention_is_the_mean_of_rows_and_columns_without_the_class_token(encoder: str) -> None:
    inputs = tiny_inputs((2, 1), padding="left")
    received, given = look(lambda v: v.patch_attention(1), inputs, encoder, layers=Captures(encoder=(1,)))
    first = 1 if encoder == "clip" else 0
    among = encoder_attentions(encoder, inputs["pixel_values"], 1).mean(dim=1)[:, first:, first:]
    torch.testing.assert_close(received, among.mean(dim=1), atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(given, among.mean(dim=2), atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("queries", ["last", "text", "visual"])
@pytest.mark.parametrize("keys", ["visual", "text"])
def test_attention_rows_of_any_queries_and_columns(queries: Any, keys: Any) -> None:
    inputs = tiny_inputs((2, 1), padding="left")

    def function(view: View) -> tuple[Tensor, Tensor, Tensor]:
        return view.attention_rows(1, queries, keys=keys), view.places(queries), view.places(keys)

    shown, rows, columns = look(function, inputs, at_layer=2, layers=Captures(decoder=(1,)))
    whole = decoder_attentions(inputs, 1)
    for u, row in enumerate((0, 0, 1)):  # two pictures in the first prompt
        q, k = rows[u][rows[u] >= 0], columns[u][columns[u] >= 0]
        torch.testing.assert_close(shown[u][:, : len(q), : len(k)], whole[row][:, q][:, :, k], atol=1e-6, rtol=1e-5)
        assert shown[u][:, len(q) :].eq(0).all()
        assert shown[u][:, :, len(k) :].eq(0).all()


def test_attention_rows_in_blocks_are_those_of_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = tiny_inputs((2, 1), padding="left")

    def function(view: View) -> Tensor:
        whole = view.attention_rows(1, "visual", keys="text")
        monkeypatch.setattr("tessella.ops.attention.BLOCK_ELEMENTS", 1)  # a query at a time
        torch.testing.assert_close(view.attention_rows(1, "visual", keys="text"), whole, atol=1e-6, rtol=1e-5)
        starts, rows = zip(*view.attention_in_blocks(1, "visual", "text"), strict=True)
        assert starts == tuple(range(NUM_VISUAL))
        torch.testing.assert_close(torch.cat(rows, dim=2), whole, atol=1e-6, rtol=1e-5)
        return whole

    shown = look(function, inputs, at_layer=2, layers=Captures(decoder=(1,)))
    assert shown.shape == (3, 4, NUM_VISUAL, inputs["input_ids"].shape[1] - NUM_VISUAL)
