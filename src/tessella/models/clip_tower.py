"""A CLIP text encoder beside a vision encoder: texts and patches as vectors of one space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPModel

from ..core.errors import InputError, UnsupportedError


class ClipTower(nn.Module):
    """The text encoder of a CLIP model and both projections; its vision encoder is left to the model that has it.

    `tokenizer` ends a text with its end token and pads with the same at the end, as CLIP's does.
    """

    def __init__(self, model: CLIPModel, tokenizer: Any) -> None:
        super().__init__()
        self.config, self.tokenizer = model.config, tokenizer
        self.text_model, self.text_projection = model.text_model, model.text_projection
        self.visual_projection = model.visual_projection

    def tokens(self, texts: Sequence[str]) -> Int[Tensor, "B T"]:
        """Ids of the texts, each cut or padded to the greatest length that the tower takes."""
        length = self.config.text_config.max_position_embeddings
        given = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
        return self.tokenizer(list(texts), **given)["input_ids"]

    def of_tokens(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        """Texts as vectors: the last position's state, projected.

        No position is masked: the end tokens that pad a text read it, and the last of them is its vector.
        """
        states = self.text_model(input_ids=ids).last_hidden_state
        return self.text_projection(states[:, -1])

    @torch.no_grad()
    def of_texts(self, texts: Sequence[str]) -> Float[Tensor, "B D"]:
        """Texts as vectors in float32, not normalised."""
        return self.of_tokens(self.tokens(texts).to(self.text_projection.weight.device)).float()

    @torch.no_grad()
    def of_patches(self, hidden: Float[Tensor, "*B Ce"]) -> Float[Tensor, "*B D"]:
        """Outputs of the vision encoder's last layer, without its last norm, as vectors in float32, not normalised.

        Raises UnsupportedError for an encoder of another width.
        """
        weight = self.visual_projection.weight
        if hidden.shape[-1] != weight.shape[1]:
            raise UnsupportedError(
                f"this text tower belongs to a vision encoder of {weight.shape[1]} channels; the model's has "
                f"{hidden.shape[-1]}. Load the tower of the CLIP model that the encoder was taken from."
            )
        return F.linear(hidden.float(), weight.to(hidden.device).float())


def read_tower(name: str, options: dict[str, Any]) -> ClipTower:
    """The tower of a folder or hub id with a CLIP model, whole or without the tensors of its vision encoder.

    `options` are those of `from_pretrained`. Raises InputError where tensors are missing.
    """
    model, info = CLIPModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True, **options)
    missing = sorted(key for key in info["missing_keys"] if key.startswith(("text_", "visual_projection.")))
    if missing:  # transformers has filled them with random numbers
        raise InputError(f"{len(missing)} tensors of the text tower {name!r} are missing, e.g. {missing[0]}.")
    return ClipTower(model, AutoTokenizer.from_pretrained(name, **options))
