"""What the Qwen-VL families share: pictures of any size in one sequence, 2 x 2 patches a token, three positions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..core.errors import UnsupportedError
from ..core.layout import Block
from ..core.model_info import ModelInfo
from .adapter import COMMON, IMAGE, VIDEO, Adapter, Modality
from .footprint import Footprint
from .on_host import on_host
from .patch_order import PatchOrder


class QwenLike(Adapter):
    """Encoder, merger and language model of a Qwen-VL. A clip is an image with frames."""

    modalities: ClassVar[Mapping[str, Modality]] = {"image": IMAGE, "video": VIDEO}
    entry_types: ClassVar[tuple[type[nn.Module], ...]]

    def __init__(self, entry: Any) -> None:
        vision, text = entry.config.vision_config, entry.config.text_config
        self.entry = entry
        self.encoder = entry.visual
        self.encoder_layers = entry.visual.blocks
        self.connector = entry.visual.merger
        self.language_model = entry.language_model
        self.decoder_layers = entry.language_model.layers
        own_tokens = self.deepstack is None  # what a deep stack adds to its tokens, others lack
        self.capabilities = COMMON | {"sizes", "frames"} | ({"made_tokens"} if own_tokens else set())
        self.info = ModelInfo(
            family=self.model_types[0],
            num_layers=len(self.decoder_layers),
            num_encoder_layers=len(self.encoder_layers),
            feature_layer=len(self.encoder_layers) - 1,
            has_class_token=False,
            hidden_size=text.hidden_size,
            num_heads=text.num_attention_heads,
            merge=vision.spatial_merge_size,
            multi_axis_positions=True,
            packs_pictures=True,
            global_layers=self.global_layers(vision),
        )

    @classmethod
    def entry_of(cls, model: nn.Module) -> nn.Module | None:
        return next((m for m in model.modules() if isinstance(m, cls.entry_types)), None)

    def global_layers(self, vision: Any) -> tuple[int, ...] | None:
        """Encoder layers that attend to whole pictures, by the encoder's config; None if all do."""
        return None

    @property
    def order(self) -> PatchOrder:
        """How pictures stand in the pixels."""
        vision = self.entry.config.vision_config
        return PatchOrder(vision.patch_size, self.info.merge, vision.temporal_patch_size)

    @property
    def window(self) -> int | None:
        """Visual tokens along a side of an attention window, by which the encoder orders its patches; None without."""
        return None

    def footprints(self, modality: str, arguments: Mapping[str, Any]) -> list[tuple[Footprint, ...]]:
        grids = on_host(arguments[f"{modality}_grid_thw"]).tolist()
        merge = self.info.merge
        return [(clip_footprint(t, h // merge, w // merge, merge, self.window),) for t, h, w in grids]

    def pixels(self, modality: str, arguments: Mapping[str, Any]) -> list[Tensor]:
        sizes = [math.prod(grid) for grid in on_host(arguments[f"{modality}_grid_thw"]).tolist()]
        return list(arguments[self.modalities[modality].pixels].split(sizes))

    def restore(self, pixels: Tensor, footprint: Footprint) -> list[Float[Tensor, "c h w"]]:
        """The first frame of each group of frames that is encoded together."""
        block = footprint.blocks[0]
        return self.order.frames_of(pixels, (len(footprint.blocks), block.rows, block.columns))

    def pictures(self, inputs: Mapping[str, Any]) -> tuple[Float[Tensor, "c _ _"], ...]:
        entries = zip(self.pixels("image", inputs), self.footprints("image", inputs), strict=True)
        return tuple(self.restore(pixels, footprint)[0] for pixels, (footprint,) in entries)

    def picture_size(self, rows: int, columns: int) -> tuple[int, int]:
        return rows * self.order.token, columns * self.order.token

    def picture_blocks(self, picture: Float[Tensor, "c _ _"], image: int) -> tuple[Block, ...]:
        return (Block(image, picture.shape[1] // self.order.token, picture.shape[2] // self.order.token),)

    def encode_pictures(
        self, pictures: Sequence[Float[Tensor, "c _ _"]], inputs: Mapping[str, Any]
    ) -> BaseModelOutputWithPooling:
        rows = torch.cat([self.order.rows_of(p) for p in pictures])
        token = self.order.token
        grids = [(p.shape[1] // token, p.shape[2] // token) for p in pictures]
        return self.entry.get_image_features(rows, **self.picture_arguments(grids, rows.device), return_dict=True)

    def picture_arguments(self, grids: Sequence[tuple[int, int]], device: torch.device) -> dict[str, Any]:
        merge = self.info.merge
        patches = [(1, rows * merge, columns * merge) for rows, columns in grids]
        return {"image_grid_thw": torch.tensor(patches, device=device)}

    def token_features(
        self, rows: Float[Tensor, "N C"], patches: Int[Tensor, "T P"], shares: Float[Tensor, "T P"] | None
    ) -> Float[Tensor, "T Ce"]:
        """The token's patches side by side, as the merger reads them."""
        return rows[patches].flatten(1)

    def project(self, features: Float[Tensor, "B K Ce"]) -> Float[Tensor, "B K C"]:
        merged = self.connector(features.reshape(-1, features.shape[-1] // self.info.merge**2))
        return merged.reshape(*features.shape[:-1], -1)

    def rotary(self, hidden: Tensor, position_ids: Int[Tensor, "B S"], layer: int) -> tuple[Tensor, Tensor]:
        """Raises UnsupportedError: positions of several axes stay as the prompt has them, and are gathered."""
        raise UnsupportedError(f"a {self.info.family} model has three positions a token, which cannot be counted anew.")

    def encoder_attention(self, layer: int) -> nn.Module:
        return self.encoder_layers[layer].attn  # type: ignore[return-value]


@lru_cache(maxsize=64)
def clip_footprint(frames: int, rows: int, columns: int, merge: int, window: int | None = None) -> Footprint:
    """Grids of `rows` x `columns` tokens, one a frame, of `merge`^2 patches a token that stand together.

    With `window` the encoder holds tokens window by window of so many tokens a side.

    >>> clip_footprint(1, 2, 2, merge=1, window=1).patches.T
    tensor([[0, 1, 2, 3]])
    >>> clip_footprint(1, 2, 3, merge=1, window=2).patches.T
    tensor([[0, 1, 4, 2, 3, 5]])
    """
    frame, row, column = torch.meshgrid(*(torch.arange(n) for n in (frames, rows, columns)), indexing="ij")
    place = torch.arange(frames * rows * columns)
    if window is not None:
        across = math.ceil(columns / window)
        number = (frame * math.ceil(rows / window) + row // window) * across + column // window
        place = torch.argsort(torch.argsort(number.reshape(-1), stable=True))
    patches = place[:, None] * merge**2 + torch.arange(merge**2)
    blocks = tuple(Block(0, rows, columns, frame=f) for f in range(frames))
    return Footprint(blocks, patches, patches.numel(), items=tuple(range(frames)), num_items=frames)
