"""LLaVA: a CLIP or SigLIP encoder, a two-layer connector and a causal decoder; one grid of tokens a picture."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava.modeling_llava import LlavaModel

from ..core.errors import LayoutError, UnsupportedError
from ..core.layout import Block, Layout
from ..core.model_info import ModelInfo
from .adapter import Adapter, Statistics, placeholders

_ALWAYS = {
    "features",
    "attention_received",
    "encoder_keys",
    "grid",
    "connector",
    "decoder_rows",
    "projection",
    "text",
    "pixels",
}


class LlavaAdapter(Adapter):
    """`LlavaForConditionalGeneration` with an encoder that has a class token (CLIP) or none (SigLIP)."""

    model_types = ("llava",)

    def __init__(self, entry: LlavaModel) -> None:
        config = entry.config
        if not isinstance(config.vision_feature_layer, int):
            raise UnsupportedError(
                f"vision_feature_layer={config.vision_feature_layer} joins several layers; one layer is supported."
            )
        self.entry = entry
        self.encoder = entry.vision_tower
        self.encoder_layers = _encoder_layers(entry.vision_tower)
        self.connector = entry.multi_modal_projector
        self.language_model = entry.language_model
        self.decoder_layers = entry.language_model.layers
        depth = len(self.encoder_layers)
        # hidden_states[0] is the embedding, so hidden_states[i] is the output of layer i - 1
        feature_layer = (config.vision_feature_layer % (depth + 1)) - 1
        if feature_layer < 0:
            raise UnsupportedError(f"vision_feature_layer={config.vision_feature_layer} is the embedding, not a layer.")
        self._has_class_token = _has_class_token(self.encoder)
        self._drops_class_token = config.vision_feature_select_strategy == "default"
        if self._drops_class_token and not self._has_class_token:
            raise UnsupportedError(
                "vision_feature_select_strategy='default' drops the first patch of an encoder without class token; "
                "use 'full'."
            )
        if self._has_class_token and not self._drops_class_token:
            raise UnsupportedError(
                "vision_feature_select_strategy='full' makes the class token a visual token, which has no place in the "
                "grid; use 'default'."
            )
        takes_sizes = "interpolate_pos_encoding" in inspect.signature(self.encoder.forward).parameters
        self.capabilities = frozenset(
            _ALWAYS | ({"class_token"} if self._has_class_token else set()) | ({"sizes"} if takes_sizes else set())
        )
        text = config.text_config
        self.info = ModelInfo(
            family="llava",
            num_layers=len(self.decoder_layers),
            num_encoder_layers=depth,
            feature_layer=feature_layer,
            has_class_token=self._has_class_token,
            hidden_size=text.hidden_size,
            num_heads=text.num_attention_heads,
        )

    @classmethod
    def entry_of(cls, model: nn.Module) -> nn.Module | None:
        return next((m for m in model.modules() if isinstance(m, LlavaModel)), None)

    def layout(self, inputs: Mapping[str, Any]) -> Layout | None:
        features = inputs.get("mm_encoder_outputs")
        encoded = features.get("image") if features else None
        if inputs.get("pixel_values") is None and encoded is None:
            return None
        where = placeholders(inputs, self.entry.config.image_token_id, self.language_model.embed_tokens)
        if where is None:
            return None
        grids = self._grids(inputs.get("pixel_values"), encoded)
        slots = [row.nonzero().reshape(-1) for row in where.cpu()]  # the one read-back of a prompt
        blocks: list[list[Block]] = []
        left = list(grids)
        for index, row in enumerate(slots):
            mine: list[Block] = []
            while left and sum(b.num_tokens for b in mine) < len(row):
                rows, columns = left.pop(0)
                mine.append(Block(image=len(mine), rows=rows, columns=columns))
            blocks.append(mine)
            if sum(b.num_tokens for b in mine) != len(row):
                raise LayoutError(
                    f"sample {index} has {len(row)} image placeholders but its {len(mine)} picture(s) "
                    f"{[(b.rows, b.columns) for b in mine]} need {sum(b.num_tokens for b in mine)}."
                )
        if left:
            raise LayoutError(
                f"{len(grids)} pictures were given but the prompts hold placeholders for {len(grids) - len(left)}."
            )
        return Layout.build(slots, blocks)

    def check_encoding(self, inputs: Mapping[str, Any]) -> None:
        for name in ("vision_feature_layer", "vision_feature_select_strategy"):
            given, own = inputs.get(name), getattr(self.entry.config, name)
            if given is not None and given != own:
                raise UnsupportedError(
                    f"{name}={given!r} differs from the {own!r} of the model's config, by which this method has chosen "
                    "its encoder layers. Leave it out, or set it in the config."
                )

    def flatten_encoder(self, values: Float[Tensor, "items S *rest"]) -> Float[Tensor, "T *rest"]:
        return (values[:, 1:] if self._has_class_token else values).flatten(0, 1)

    def pictures(self, inputs: Mapping[str, Any]) -> tuple[Float[Tensor, "c _ _"], ...]:
        return tuple(inputs["pixel_values"])

    def picture_size(self, rows: int, columns: int) -> tuple[int, int]:
        return rows * self._patch, columns * self._patch

    def picture_blocks(self, picture: Float[Tensor, "c _ _"], image: int) -> tuple[Block, ...]:
        rows, columns = self._grid(picture)
        return (Block(image=image, rows=rows, columns=columns),)

    def encode_pictures(
        self, pictures: Sequence[Float[Tensor, "c _ _"]], inputs: Mapping[str, Any]
    ) -> BaseModelOutputWithPooling:
        """One pass of the encoder for each size, with position embeddings interpolated to it."""
        names = ("vision_feature_layer", "vision_feature_select_strategy")
        given = {n: inputs[n] for n in names if inputs.get(n) is not None}
        encoded: dict[int, Tensor] = {}
        output = BaseModelOutputWithPooling()
        for shape in dict.fromkeys(p.shape for p in pictures):
            same = [i for i, p in enumerate(pictures) if p.shape == shape]
            pixels = torch.stack([pictures[i] for i in same])
            output = self.entry.get_image_features(
                pixel_values=pixels, interpolate_pos_encoding=True, return_dict=True, **given
            )
            encoded.update(zip(same, output.pooler_output, strict=True))
        if len(encoded) > len(output.pooler_output or ()):  # of several passes only the features are joined
            output = BaseModelOutputWithPooling()
        output.pooler_output = [encoded[i] for i in range(len(pictures))]
        return output

    def usual_statistics(self) -> Statistics:
        if self._has_class_token:
            return super().usual_statistics()
        return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # SigLIP

    @property
    def _patch(self) -> int:
        return int(self.entry.config.vision_config.patch_size)

    def _grid(self, picture: Tensor) -> tuple[int, int]:
        return picture.shape[-2] // self._patch, picture.shape[-1] // self._patch

    def _grids(self, pixels: Tensor | Sequence[Tensor] | None, encoded: Any) -> list[tuple[int, int]]:
        if pixels is not None:
            return [self._grid(picture) for picture in pixels]
        grids = []
        for features in encoded.pooler_output:
            side = math.isqrt(len(features))
            if side * side != len(features):
                raise LayoutError(
                    f"encoded features of {len(features)} tokens are not a square grid; give pixel_values."
                )
            grids.append((side, side))
        return grids


def _encoder_layers(tower: nn.Module) -> nn.ModuleList:
    inner = getattr(tower, "vision_model", tower)
    layers = getattr(getattr(inner, "encoder", None), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise UnsupportedError(
            f"the vision encoder {type(tower).__name__} is not CLIP or SigLIP; its layers are unknown."
        )
    return layers


def _has_class_token(tower: nn.Module) -> bool:
    inner = getattr(tower, "vision_model", tower)
    return isinstance(getattr(inner.embeddings, "class_embedding", None), torch.Tensor)
