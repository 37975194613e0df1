"""The commands on models of other families: what they print, options for newlines and thumbnails, one line of error."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from PIL import Image
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, BlipImageProcessorPil

import tessella
from tessella.core.registry import method_modules
from tessella.reduction.divprune import DivPrune
from tessella.testing import families as tiny
from tessella.testing.families import tiny_family
from tessella.testing.families.text import word_tokenizer

QUESTION = "what color is the star ?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved LLaVA-NeXT."""
    return tiny_family("llava_next").save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model that takes pictures and has no adapter."""
    folder = tmp_path_factory.mktemp("blip")
    tokenizer = word_tokenizer({"image_token": "<image>"})
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Blip2Config(
        vision_config={**sizes, "intermediate_size": 16, "image_size": 28, "patch_size": 14},
        qformer_config={**sizes, "intermediate_size": 16, "encoder_hidden_size": 16, "vocab_size": 160},
        text_config={"model_type": "opt", **sizes, "ffn_dim": 16, "vocab_size": 160, "word_embed_proj_dim": 16},
        num_query_tokens=4,
        image_token_index=tokenizer.image_token_id,
    )
    Blip2ForConditionalGeneration(config).save_pretrained(folder)
    pictures = BlipImageProcessorPil(size={"height": 28, "width": 28})
    Blip2Processor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def two_families(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {name: tiny_family(name) for name in ("gemma3", "llava_next")}
    monkeypatch.setattr(tiny, "tiny_families", lambda: found)


def test_doctor_prints_the_matrix(call, two_families):
    code, out, err = call("doctor", "--families")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    head = next(n for n, line in enumerate(lines) if line.split() == ["method", "gemma3", "next"])
    assert lines[head - 1].split() == ["llava_"]
    table = {line.split()[0]: line.split()[1:] for line in lines[head + 1 : head + 1 + len(method_modules())]}
    assert list(table) == list(method_modules())
    assert table["divprune"] == ["yes", "yes"]
    assert table["fastervlm"] == ["no", "2", "yes"]
    assert "1: needs an encoder that takes pictures of other sizes; this model has none." in lines


def test_doctor_fails_where_a_method_breaks(call, two_families, monkeypatch):
    def broken(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(DivPrune, "select", broken)
    code, out, _ = call("doctor", "--families", "--json")
    assert code == 1
    outcomes = json.loads(out)["families"]["outcomes"]
    assert outcomes["gemma3"]["divprune"] == {"mark": "FAILED", "reason": "RuntimeError: a bug"}
    assert outcomes["gemma3"]["random"] == {"mark": "yes", "reason": ""}
    assert call("doctor")[0] == 0


def test_methods_of_another_family(call, folder):
    rows = {row["id"]: row for row in json.loads(call("methods", "--json", "--model", folder)[1])}
    assert rows["fastervlm"]["can_apply"] is True
    assert rows["downsample"]["reason"] == (
        "downsample needs an encoder that takes pictures of other sizes; this llava_next model has none."
    )


def test_ask_says_what_became_of_newlines_and_thumbnails(call, picture, folder, tmp_path):
    options = ["--model", folder, "--method", "uniform", "--keep", "1/4", "--newlines", "drop", "--thumbnails", "keep"]
    code, out, err = call("ask", picture, QUESTION, *options, "--max-new-tokens", 2, "--show", tmp_path / "kept.png")
    assert (code, err) == (0, "")
    assert out.splitlines()[1].startswith("uniform:0.25: 32 of 88 visual tokens (newline 0 of 8, thumbnail 16 of 16), ")
    assert Image.open(tmp_path / "kept.png").width == 224 + 448 + 3 * 16  # the thumbnail and the mosaic
    code, out, _ = call("ask", picture, QUESTION, *options, "--max-new-tokens", 1, "--json")
    assert json.loads(out)["report"]["roles"] == {"newline": {"kept": 0, "of": 8}, "thumbnail": {"kept": 16, "of": 16}}


def test_ask_about_several_pictures(call, picture, folder):
    options = ["--also", picture, "--also", picture, "--model", folder, "--keep", 5, "--max-new-tokens", 1, "--json"]
    code, out, err = call("ask", picture, QUESTION, *options)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert sum(map(len, found["kept"])) == found["report"]["tokens_kept"]
    assert len(found["kept"]) == 3
    assert (found["image"], found["also"]) == (picture, [picture, picture])
    assert found["report"]["tokens_in"] == 3 * 88


def test_compare_with_a_scope_and_policies(call, picture, folder):
    options = ["--methods", "uniform,random,none", "--keep", 6, "--scope", "tile", "--thumbnails", "drop"]
    code, out, err = call(
        "compare", picture, QUESTION, *options, "--newlines", "drop", "--model", folder, "--max-new-tokens", 1, "--json"
    )
    assert (code, err) == (0, "")
    assert {r["method"]: r["tokens_kept"] for r in json.loads(out)["rows"]} == {
        "none": 88,
        "uniform:6 per tile": 4 * 6,
        "random:6 per tile": 4 * 6,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--newlines", "burn"), "newlines must be one of compete, follow, keep, drop; got 'burn'."),
        (("--thumbnails", "follow"), "thumbnails must be one of compete, keep, drop; got 'follow'."),
    ],
)
def test_policies_that_there_are_not(refusal, picture, options, message, monkeypatch):
    monkeypatch.setattr("tessella.loading.load", None)  # it is said before the model is loaded
    assert refusal("ask", picture, QUESTION, "--keep", 5, *options) == message
    assert refusal("compare", picture, QUESTION, "--methods", "uniform:5", *options) == message


def test_a_scope_that_no_method_takes(refusal, picture):
    for methods in ("uniform:5", "none,blind"):
        error = refusal("compare", picture, QUESTION, "--methods", methods, "--scope", "tile")
        assert error == "scope='tile' was given, but every method has its own budget or takes none."
    error = refusal("compare", picture, QUESTION, "--methods", "random", "--scope", "tile")
    assert error.startswith("random needs a keep: ")


def test_a_further_picture_that_is_none(refusal, picture, tmp_path):
    assert "there is no file" in refusal("ask", picture, QUESTION, "--also", tmp_path / "gone.png")


# --- models that cannot be asked ------------------------------------------------------------------------------------


def test_a_layer_beyond_the_depth_of_another_family(refusal, picture, folder):
    error = refusal("ask", picture, QUESTION, "--model", folder, "--method", "fastv@9:5")
    assert error == "fastv: at_layer=9 is not a layer of this decoder; it has 4 layers: 0 to 3."


@pytest.mark.parametrize("args", [("ask",), ("compare", "--methods", "uniform:2"), ("methods",)])
def test_a_family_without_adapter_is_refused_in_one_line(refusal, picture, blip, args):
    asked = () if args == ("methods",) else (picture, QUESTION)
    error = refusal(args[0], *asked, *args[1:], "--model", blip)
    assert error.startswith("no adapter for model type 'blip-2'; known: gemma3, ")


def test_a_name_without_a_network_fails_within_seconds(refusal, picture, monkeypatch):
    """Nothing is tried again: neither here, where no name is resolved, nor with a client that would wait."""

    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("socket.getaddrinfo", no_network)
    start = time.perf_counter()
    error = refusal("ask", picture, QUESTION, "--model", "no-such-owner/no-such-model")
    assert error == (
        "the configuration of 'no-such-owner/no-such-model' is not in the local cache, and the hub cannot be reached."
    )
    assert time.perf_counter() - start < 10


def test_a_model_in_the_cache_is_loaded_by_name_without_a_network(tmp_path, monkeypatch, folder):
    """As a download leaves it: a snapshot that a branch points to."""
    cached = tmp_path / "models--some--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    (cached / "snapshots").mkdir()
    (cached / "snapshots" / ("0" * 40)).symlink_to(folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    model, processor = tessella.load("some/model", device="cpu")
    assert (model.config.model_type, type(processor).__name__) == ("llava_next", "LlavaNextProcessor")
