"""The interface of flash attention on a CPU: masks of two dimensions or none, packed sequences by their bounds.

The kernel itself needs a GPU. What stands in for it computes by hand from exactly what a flash kernel is given, so that
a mask or bound that the engine gets wrong shows; answers are compared with those of SDPA.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from comparing import generate
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

import tessella
from tessella.core.errors import UnsupportedError
from tessella.testing.families import tiny_family
from tessella.testing.tiny import tiny_inputs, tiny_llava

NAME = "flash_by_hand"
METHODS = [
    "random:0.5",
    "fastv@2:0.5",
    "hiprune:0.5",
    "feather:0.5",
    "pyramiddrop:0.25",
    "transprune:0.25",
    "sparsevlm:0.25",
    "adaptinfer:0.25",
]


def by_hand(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_ids: Tensor | None = None,
    cu_seq_lens_q: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What a flash kernel computes from its arguments."""
    rows, columns = query.shape[2], key.shape[2]
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    allowed = torch.ones(rows, columns, dtype=torch.bool)
    if is_causal:
        allowed = allowed.tril(columns - rows)
    sequence = torch.zeros(columns, dtype=torch.long)
    if cu_seq_lens_q is not None:
        sequence = torch.bucketize(torch.arange(columns), cu_seq_lens_q[1:], right=True)
    elif attention_mask is None and position_ids is not None and len(query) == 1 and rows > 1:
        sequence = (position_ids[0].diff(prepend=position_ids[0, :1] - 1) != 1).cumsum(0)  # taken for packed prompts
    allowed = allowed & (sequence[-rows:, None] == sequence[None, :])
    mask = allowed[None, None]
    if attention_mask is not None:
        assert attention_mask.ndim == 2
        mask = mask & attention_mask[:, None, None, -columns:].bool()
        mask = mask | (~mask.any(dim=-1, keepdim=True))  # a kernel leaves rows of padding out
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    out = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


@pytest.fixture(scope="module", autouse=True)
def _registered() -> None:
    AttentionInterface.register(NAME, by_hand)
    AttentionMaskInterface.register(NAME, flash_attention_mask)


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def with_flash(model: Any) -> Any:
    """The model with the stand-in as its attention, which loading by name would look for on a hub."""
    for module in model.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation_internal = NAME
    return model


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("images", [(1,), (2, 1)], ids=["one", "padded"])
def test_flash_llava(images: tuple[int, ...], method: str, positions: Any) -> None:
    inputs = tiny_inputs(images, padding="left")
    model, flash = tiny_llava(), with_flash(tiny_llava())
    with tessella.reduce(model, method, positions=positions):
        want = generate(model, inputs, do_sample=False)
    with tessella.reduce(flash, method, positions=positions) as run:
        assert generate(flash, inputs, do_sample=False) == want
        assert run.num_cuts >= 1


@pytest.mark.parametrize("method", METHODS)
def test_flash_packed_encoder(method: str) -> None:
    """Qwen2.5-VL hands all windows of all pictures to the kernel in one call."""
    family = tiny_family("qwen2_5_vl")
    inputs = family.inputs([[family.sizes[0], family.sizes[-1]], [family.sizes[1]]])
    model, flash = family.model(), with_flash(family.model())
    with tessella.reduce(model, method) as run:
        want = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        kept = [[k.tolist() for k in row] for row in run.kept]
    with tessella.reduce(flash, method) as run:
        assert torch.equal(flash.generate(**inputs, max_new_tokens=6, do_sample=False), want)
        assert [[k.tolist() for k in row] for row in run.kept] == kept


def test_flash_packed_prompts() -> None:
    flash, inputs = with_flash(tiny_llava()), tiny_inputs((1,))
    length = inputs["input_ids"].shape[1]
    packed = {**inputs, "position_ids": torch.tensor([[*range(length - 3), 0, 1, 2]]), "attention_mask": None}
    with (
        tessella.reduce(flash, "fastv@2:0.5"),
        pytest.raises(UnsupportedError, match="packed prompts under flash attention"),
    ):
        flash(**packed)


def test_flash_sliding_windows() -> None:
    """A flash kernel counts a window in tokens, of which a reduction leaves fewer."""
    with pytest.raises(UnsupportedError, match=f"'{NAME}' counts the sliding windows of this gemma3 model in tokens"):
        tessella.reduce(with_flash(tiny_family("gemma3").model()), "random:0.5")
