"""SmolVLM: Idefics3 with clips, whose frames are pictures that are not cut."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMModel

from .idefics_like import IdeficsLike


class SmolVLMAdapter(IdeficsLike):
    """`SmolVLMForConditionalGeneration`."""

    model_types = ("smolvlm",)
    entry_types = (SmolVLMModel,)

    def real_tiles(self, pixels: Float[Tensor, "B N c h w"]) -> Bool[Tensor, "B N"]:
        """As ever, but where all are zero the first is encoded."""
        real = super().real_tiles(pixels)
        real.view(-1)[0] |= ~real.any()
        return real
