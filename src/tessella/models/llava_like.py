"""What the LLaVA families share: a CLIP or SigLIP encoder, one of whose layers a connector reads, and a decoder."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from ..core.errors import LayoutError, UnsupportedError
from ..core.model_info import ModelInfo
from .adapter import CLIP_STATISTICS, COMMON, HALF_STATISTICS, Adapter, Statistics


class LlavaLike(Adapter):
    """Encoder, connector and language model of a LLaVA; families say how tokens are laid out."""

    entry_types: ClassVar[tuple[type[nn.Module], ...]]
    encodes_sizes: ClassVar[bool] = False  # `encode_pictures` is there, for encoders that can

    def __init__(self, entry: Any) -> None:
        config = entry.config
        self.entry = entry
        self.encoder = entry.vision_tower
        self.encoder_layers = self.tower_layers(self.encoder)
        self.connector = entry.multi_modal_projector
        self.language_model = entry.language_model
        self.decoder_layers = entry.language_model.layers
        depth = len(self.encoder_layers)
        class_token = self.tower_has_class_token(self.encoder)
        takes_sizes = "interpolate_pos_encoding" in inspect.signature(self.encoder.forward).parameters
        self.capabilities = (
            COMMON
            | ({"class_token", "class_features", "text_tower"} if class_token else set())
            | ({"sizes", "made_tokens", "several_grids"} if takes_sizes and self.encodes_sizes else set())
        )
        self.info = ModelInfo(
            family=self.model_types[0],
            num_layers=len(self.decoder_layers),
            num_encoder_layers=depth,
            feature_layer=self.read_layer(depth, class_token),
            has_class_token=class_token,
            hidden_size=config.text_config.hidden_size,
            num_heads=config.text_config.num_attention_heads,
        )

    @classmethod
    def entry_of(cls, model: nn.Module) -> nn.Module | None:
        return next((m for m in model.modules() if isinstance(m, cls.entry_types)), None)

    def tower_layers(self, tower: nn.Module) -> nn.ModuleList:
        """The layers of the encoder. Raises UnsupportedError for an encoder of a kind that the family does not know."""
        return tower_layers(tower)

    def tower_has_class_token(self, tower: nn.Module) -> bool:
        """Whether the encoder puts a class token in front of its patches."""
        return has_class_token(tower)

    def read_layer(self, depth: int, class_token: bool) -> int:
        """The 0-based encoder layer, of `depth`, whose output the connector reads."""
        return read_layer(self.entry.config, depth, class_token)

    def check_encoding(self, inputs: Mapping[str, Any]) -> None:
        for name in ("vision_feature_layer", "vision_feature_select_strategy"):
            given, own = inputs.get(name), getattr(self.entry.config, name)
            if given is not None and given != own:
                raise UnsupportedError(
                    f"{name}={given!r} differs from the {own!r} of the model's config, by which this method has chosen "
                    "its encoder layers. Leave it out, or set it in the config."
                )

    def usual_statistics(self) -> Statistics:
        return CLIP_STATISTICS if self.info.has_class_token else HALF_STATISTICS

    @property
    def side(self) -> int:
        """Patches along a side of the square picture that the encoder takes."""
        vision = self.entry.config.vision_config
        return int(vision.image_size) // int(vision.patch_size)


def read_layer(config: Any, depth: int, class_token: bool) -> int:
    """The 0-based encoder layer whose output the connector reads. Raises UnsupportedError for odd settings."""
    if not isinstance(config.vision_feature_layer, int):
        raise UnsupportedError(
            f"vision_feature_layer={config.vision_feature_layer} joins several layers; one layer is supported."
        )
    # hidden_states[0] is the embedding, so hidden_states[i] is the output of layer i - 1
    layer = (config.vision_feature_layer % (depth + 1)) - 1
    if layer < 0:
        raise UnsupportedError(f"vision_feature_layer={config.vision_feature_layer} is the embedding, not a layer.")
    drops = config.vision_feature_select_strategy == "default"
    if drops and not class_token:
        raise UnsupportedError(
            "vision_feature_select_strategy='default' drops the first patch of an encoder without class token; "
            "use 'full'."
        )
    if class_token and not drops:
        raise UnsupportedError(
            "vision_feature_select_strategy='full' makes the class token a visual token, which has no place in the "
            "grid; use 'default'."
        )
    return layer


def square_side(num_tokens: int) -> int:
    """The side of a square grid of so many tokens. Raises LayoutError where there is none."""
    side = math.isqrt(num_tokens)
    if side * side != num_tokens:
        raise LayoutError(f"encoded features of {num_tokens} tokens are not a square grid; give pixel_values.")
    return side


def tower_layers(tower: nn.Module) -> nn.ModuleList:
    """The layers of a CLIP or SigLIP encoder. Raises UnsupportedError for others."""
    inner = getattr(tower, "vision_model", tower)
    layers = getattr(getattr(inner, "encoder", None), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise UnsupportedError(
            f"the vision encoder {type(tower).__name__} is not CLIP or SigLIP; its layers are unknown."
        )
    return layers


def has_class_token(tower: nn.Module) -> bool:
    """Whether a CLIP or SigLIP encoder puts a class token in front of its patches."""
    inner = getattr(tower, "vision_model", tower)
    return isinstance(getattr(inner.embeddings, "class_embedding", None), torch.Tensor)
