"""Loading: the embedded model, folders, and every broken folder in one line."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, LlavaForConditionalGeneration
from transformers.utils import logging

from tessella import mini
from tessella.core.errors import InputError
from tessella.loading import load


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the embedded model that a test may break."""
    return Path(shutil.copytree(mini.path(), tmp_path / "model"))


def _refusal(*args: object, **kwargs: object) -> str:
    with pytest.raises(InputError) as caught:
        load(*args, **kwargs)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    return str(caught.value)


def test_the_embedded_model_loads_without_network(monkeypatch):
    def no_network(*_):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_info()
    logging.enable_progress_bar()
    try:
        model, processor = load("mini", device="cpu")
        assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (logging.INFO, True)
    finally:
        logging.set_verbosity(level)
        (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
    assert isinstance(model, LlavaForConditionalGeneration)
    assert (model.training, model.dtype, model.device.type) == (False, torch.float32, "cpu")
    assert processor.image_token == "<image>"


def test_a_folder_loads_in_the_dtype_asked_for(folder):
    for dtype in ("bfloat16", torch.bfloat16, "auto"):  # the weights are saved in bfloat16
        assert load(folder, dtype=dtype, device="cpu")[0].dtype == torch.bfloat16
    assert load(str(folder), dtype="float16", device="cpu")[0].dtype == torch.float16


def test_wrong_dtypes_and_devices_are_named():
    assert _refusal("mini", dtype="int8") == ("dtype must be one of float32, bfloat16, float16 or auto; got 'int8'.")
    assert "got 'torch.float64'" in _refusal("mini", dtype=torch.float64)
    assert _refusal("mini", device="gpu").startswith("device 'gpu' cannot be used here: ")
    assert _refusal("mini", device="cuda:99").startswith("device 'cuda:99' cannot be used here: ")


@pytest.mark.parametrize("name", ["/no/such/folder", "./gone", "gone", "a/b/c", "", Path("gone/model")])
def test_a_missing_folder(name):
    assert _refusal(name).startswith(("there is no model folder", "'.' holds no config.json"))


def test_a_hub_id_that_is_not_here_and_cannot_be_fetched(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = _refusal("no-such-owner/no-such-model")
    assert message.startswith("the configuration of 'no-such-owner/no-such-model' is not in the local cache")


def test_a_folder_without_config(folder):
    (folder / "config.json").unlink()
    assert _refusal(folder) == f"{str(folder)!r} holds no config.json, so it is not a model folder."


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"model_type": "no_such_type"}', "{}"])
def test_a_broken_config(folder, content):
    (folder / "config.json").write_text(content)
    assert str(folder) in _refusal(folder)


@pytest.mark.parametrize("size", [0, 5, 1000, 2_000_000])
def test_truncated_weights(folder, size):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    message = _refusal(folder)
    assert message.startswith(f"the weights of {str(folder)!r} are damaged or cut short (")
    assert message.endswith("); copy them again.")


def test_weights_of_noise_and_no_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(bytes(range(256)) * 1000)
    assert _refusal(folder).startswith(f"the weights of {str(folder)!r} are damaged or cut short (")
    weights.unlink()
    assert _refusal(folder).startswith(f"the weights of {str(folder)!r} cannot be loaded: ")


def test_weights_that_lack_tensors_are_not_filled_with_noise(folder):
    tensors = load_file(folder / "model.safetensors")
    gone = sorted(name for name in tensors if "mlp" in name)[:3]
    save_file({n: t for n, t in tensors.items() if n not in gone}, folder / "model.safetensors", {"format": "pt"})
    assert _refusal(folder).startswith(f"3 tensors of {str(folder)!r} are missing, e.g. model.language_model.")


def test_weights_of_another_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] += 8
    (folder / "config.json").write_text(json.dumps(config))
    assert "have another shape than config.json says, e.g. model.language_model." in _refusal(folder)


def test_a_model_without_image_input(tmp_path):
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    assert _refusal(tmp_path) == (
        f"{str(tmp_path)!r} is a 'llama' model, which takes no pictures; a vision-language model is needed."
    )


def test_a_folder_without_processor_files(folder):
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink()
    assert "processor" in _refusal(folder)


def test_a_folder_without_image_processor(folder):
    (folder / "processor_config.json").unlink()
    assert "processor" in _refusal(folder)


def test_quantised_weights_stay_where_they_are(folder, monkeypatch):
    """As bitsandbytes leaves a model, which raises where 8-bit weights are moved."""

    def read(*_):
        model = LlavaForConditionalGeneration.from_pretrained(folder)
        model.hf_quantizer, model.to = object(), None
        return model

    monkeypatch.setattr("tessella.loading._read_model", read)
    assert load(folder, device="cpu")[0].training is False


def test_the_hub_is_asked_once_and_not_for_a_folder(folder, monkeypatch):
    asked = []

    def answers():
        asked.append(1)
        return False

    monkeypatch.setattr("tessella.loading._hub_answers", answers)
    load(folder, device="cpu")
    assert asked == []
    assert _refusal("no-such-owner/no-such-model") == (
        "the configuration of 'no-such-owner/no-such-model' is not in the local cache, and the hub cannot be reached."
    )
    assert asked == [1]


def test_a_hub_that_answers_with_an_error_is_quoted(monkeypatch):
    def not_there(*_, **__):
        raise OSError("no-such-owner/no-such-model is not a model")

    monkeypatch.setattr("tessella.loading._hub_answers", lambda: True)
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", not_there)
    assert _refusal("no-such-owner/no-such-model").endswith(
        "is not in the local cache and cannot be fetched: no-such-owner/no-such-model is not a model."
    )
