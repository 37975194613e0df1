"""yopo's cut: removing all visual tokens is masking their keys for the text, in the prefill and while decoding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tessella
from tessella.core.errors import BudgetError, MethodError, UnsupportedError
from tessella.core.registry import make
from tessella.models.adapter import find_adapter
from tessella.testing.families import tiny_family
from tessella.testing.tiny import IMAGE_TOKEN, tiny_inputs, tiny_llava

DECODED = 8
FAMILIES = ("llava", "llava_next", "qwen2_5_vl", "qwen3_vl", "gemma3", "internvl", "glm4v")


class Masked:
    """In layers from `first` on, no text looks at a visual token: minus infinity in front of the softmax."""

    def __init__(self, model: nn.Module, inputs: dict[str, Tensor], first: int) -> None:
        self.adapter, self.first = find_adapter(model), first
        slots = [self.adapter.slots(name, inputs) for name in self.adapter.modalities]
        self.visual = torch.stack([s for s in slots if s is not None]).any(dim=0)  # [B, S]
        self.hooks: list[Any] = []
        self.length: dict[nn.Module, int] = {}  # of the sequence, as each layer has read it

    def __enter__(self) -> None:
        for layer in self.adapter.decoder_layers[self.first :]:
            self.hooks.append(layer.register_forward_pre_hook(self.close, with_kwargs=True))

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def close(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = kwargs["attention_mask"]
        assert mask.ndim == 4, "the reference needs a mask of every pair"
        assert mask.is_floating_point()
        prefill = mask.shape[2] > 1
        length = self.length[module] = self.visual.shape[1] if prefill else self.length[module] + 1
        keys = nn.functional.pad(self.visual, (0, length - self.visual.shape[1]))[:, -mask.shape[3] :]  # of a window
        asking = ~self.visual if prefill else torch.ones(len(self.visual), 1, dtype=torch.bool)
        closed = asking[:, None, :, None] & keys[:, None, None, :]
        return args, {**kwargs, "attention_mask": mask.masked_fill(closed, torch.finfo(mask.dtype).min)}


def generated(model: Any, inputs: dict[str, Tensor]) -> Any:
    return model.generate(
        **inputs, max_new_tokens=1 + DECODED, do_sample=False, output_logits=True, return_dict_in_generate=True
    )


@pytest.mark.parametrize("at_layer", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_removal_is_masking_in_front_of_the_softmax(family: str, at_layer: int) -> None:
    """A padded batch of unequal rows, the logits of all text and those of every decode step, within 1e-5."""
    tiny = tiny_family(family)
    model = tiny.model(attention="eager")
    inputs = tiny.inputs([[tiny.sizes[0]], [tiny.sizes[0], tiny.sizes[-1]]])
    with torch.no_grad(), Masked(model, inputs, at_layer):
        want, masked = model(**inputs).logits, generated(model, inputs)
    with torch.no_grad(), tessella.reduce(model, make("yopo", at_layer=at_layer)) as run:
        got = run.expand(model(**inputs).logits)
        removed = generated(model, inputs)
    with torch.no_grad():
        untouched = generated(model, inputs)
    text = inputs["attention_mask"].bool() & ~Masked(model, inputs, at_layer).visual
    torch.testing.assert_close(got[text], want[text], rtol=0, atol=1e-5 * want[text].abs().max().item())
    assert len(removed.logits) == 1 + DECODED
    for step, (mine, theirs) in enumerate(zip(removed.logits, masked.logits, strict=True)):
        torch.testing.assert_close(
            mine, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item(), msg=lambda m, step=step: f"step {step}: {m}"
        )
    assert torch.equal(removed.sequences, masked.sequences)
    assert (untouched.logits[0] - masked.logits[0]).abs().max() > 1e-3, "the mask changed nothing"


@pytest.mark.parametrize("padding", ["left", "right"])
def test_under_sdpa_too(padding: Any) -> None:
    inputs = tiny_inputs((1, 2), padding=padding)
    eager, sdpa = tiny_llava(attention="eager"), tiny_llava()
    with torch.no_grad(), Masked(eager, inputs, 2):
        want = eager(**inputs).logits
    with torch.no_grad(), tessella.reduce(sdpa, make("yopo", at_layer=2)) as run:
        got = run.expand(sdpa(**inputs).logits)
    text = inputs["attention_mask"].bool() & (inputs["input_ids"] != IMAGE_TOKEN)
    torch.testing.assert_close(got[text], want[text], rtol=0, atol=1e-5 * want[text].abs().max().item())


def test_caches_hold_all_tokens_before_the_cut_and_text_behind_it() -> None:
    """The paper's layer 20 of 40 is layer 2 of 4."""
    model, inputs = tiny_llava(), tiny_inputs((2,))
    with torch.no_grad(), tessella.reduce(model, "yopo") as run:
        cache = model(**inputs).past_key_values
    whole = inputs["input_ids"].shape[1]
    assert [layer.keys.shape[2] for layer in cache.layers] == [whole, whole, whole - 32, whole - 32]
    assert [len(k) for k in run.kept[0]] == [0, 0]
    assert run.report.positions == "original"
    assert run.report.layers == (32, 32, 0, 0)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(MethodError, match=r"^yopo: at_layer must be >= 1; got 0\."):
        make("yopo", at_layer=0)
    with pytest.raises(UnsupportedError, match=r"yopo: at_layer=4 is not a layer of this decoder; it has 4 layers"):
        tessella.reduce(tiny_llava(), make("yopo", at_layer=4))
    with pytest.raises(BudgetError, match="yopo"):
        tessella.reduce(tiny_llava(), "yopo", keep=0.5)
