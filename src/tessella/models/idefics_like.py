"""What Idefics3 and SmolVLM share: square tiles, then the whole picture, each of 2 x 2 or more patches a token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..core.errors import UnsupportedError
from ..core.model_info import ModelInfo
from .adapter import COMMON, HALF_STATISTICS, Adapter, Statistics
from .footprint import Footprint, one_grid
from .on_host import on_host


class IdeficsLike(Adapter):
    """Encoder, connector and language model of an Idefics3. Tiles are footprints, and a picture's last is the whole.

    A frame of a clip is a picture that is not cut: nothing but words tells it from one.
    """

    entry_types: ClassVar[tuple[type[nn.Module], ...]]

    def __init__(self, entry: Any) -> None:
        text = entry.config.text_config
        self.entry = entry
        self.encoder = entry.vision_model
        self.encoder_layers = entry.vision_model.encoder.layers
        self.connector = entry.connector
        self.language_model = entry.text_model
        self.decoder_layers = entry.text_model.layers
        self.capabilities = COMMON
        self.info = ModelInfo(
            family=self.model_types[0],
            num_layers=len(self.decoder_layers),
            num_encoder_layers=len(self.encoder_layers),
            feature_layer=len(self.encoder_layers) - 1,
            has_class_token=False,
            hidden_size=text.hidden_size,
            num_heads=text.num_attention_heads,
            merge=entry.config.scale_factor,
        )

    @classmethod
    def entry_of(cls, model: nn.Module) -> nn.Module | None:
        return next((m for m in model.modules() if isinstance(m, cls.entry_types)), None)

    def footprints(self, modality: str, arguments: Mapping[str, Any]) -> list[tuple[Footprint, ...]]:
        pixels = arguments["pixel_values"]
        height, width = pixels.shape[-2:]
        if height != width:
            raise UnsupportedError(
                f"tiles of {height} x {width} pixels: the connector of this {self.info.family} model takes every tile "
                "for a square."
            )
        side = height // self.entry.config.vision_config.patch_size // self.info.merge
        tile = one_grid(side, side, merge=self.info.merge)
        return [(tile,) * count for count in self.real_tiles(pixels).sum(dim=1).tolist()]

    def pixels(self, modality: str, arguments: Mapping[str, Any]) -> list[Tensor]:
        pixels = arguments["pixel_values"]
        return [pixels[row, tile] for row, tile in self.real_tiles(pixels).nonzero().tolist()]

    def real_tiles(self, pixels: Float[Tensor, "B N c h w"]) -> Bool[Tensor, "B N"]:
        """True, on the CPU, for tiles that are encoded: those that fill up shorter rows are zero everywhere."""
        first_lines = pixels[..., 0, :].to(self.entry.dtype).flatten(2).any(dim=2)  # these tell of nearly all
        real = on_host(first_lines).clone()
        row, tile = (~real).nonzero(as_tuple=True)
        if len(row):
            real[row, tile] = on_host(pixels[row, tile].to(self.entry.dtype).flatten(1).any(dim=1))
        return real

    def image_numbers(self, tokens: Tensor, slots: Int[Tensor, " V"], footprints: Sequence[Footprint]) -> list[int]:
        """Tiles grouped by the token in front of each.

        The last one of a prompt shows a whole picture, and so does every one behind the same token.
        """
        if not footprints:
            return []
        starts = torch.tensor([f.num_tokens for f in footprints]).cumsum(0) - footprints[0].num_tokens
        names = tokens[slots[starts].to(tokens.device) - 1]
        same = names == names[-1]
        ends = same if same.ndim == 1 else same.all(dim=1)
        return (ends.long().cumsum(0) - ends.long()).tolist()

    def token_features(
        self, rows: Float[Tensor, "N C"], patches: Int[Tensor, "T P"], shares: Float[Tensor, "T P"] | None
    ) -> Float[Tensor, "T Ce"]:
        """The token's patches side by side, as the connector's last step reads them."""
        return rows[patches].flatten(1)

    def project(self, features: Float[Tensor, "B K Ce"]) -> Float[Tensor, "B K C"]:
        connector: Any = self.connector
        return connector.modality_projection(features)

    def check_encoding(self, inputs: Mapping[str, Any]) -> None:
        mask = inputs.get("pixel_attention_mask")
        if mask is not None and not bool(mask[self.real_tiles(inputs["pixel_values"])].all()):
            raise UnsupportedError(
                "pixel_attention_mask hides parts of tiles, where what patches attend to is not known to methods that "
                "read the encoder. Scale pictures to whole tiles, as the processor does."
            )

    def usual_statistics(self) -> Statistics:
        return HALF_STATISTICS
