"""The interface between the engine and a model family."""

from __future__ import annotations

import importlib
import json
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..core.errors import LayoutError, UnsupportedError
from ..core.layout import Block
from ..core.model_info import ModelInfo
from .footprint import Footprint

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
MaskRule = Callable[[Int[Tensor, "B Q 1"], Int[Tensor, "B 1 S"]], Bool[Tensor, "B Q S"]]


@dataclass(frozen=True)
class Modality:
    """A kind of visual input: the entry's method that encodes it, its argument of pixels, its token in the config."""

    encode: str
    pixels: str
    placeholder: str


IMAGE = Modality("get_image_features", "pixel_values", "image_token_id")
VIDEO = Modality("get_video_features", "pixel_values_videos", "video_token_id")

# what every adapter can give
COMMON = frozenset(
    {"features", "attention_received", "encoder_keys", "grid", "connector"}
    | {"decoder_rows", "projection", "text", "words", "pixels"}
)


class Adapter(ABC):
    """Where the parts of one model are, which of its tokens are visual, and what it can give.

    A family fills the attributes and the abstract methods; the other methods have defaults that fit a model with one
    picture grid per image and one position axis.
    """

    model_types: ClassVar[tuple[str, ...]]
    modalities: ClassVar[Mapping[str, Modality]] = {"image": IMAGE}
    deepstack: ClassVar[str | None] = None  # the language model's method that adds features to visual tokens
    capabilities: frozenset[str]
    info: ModelInfo
    entry: Any  # the module whose forward receives input_ids and pixels
    encoder: nn.Module
    encoder_layers: nn.ModuleList
    connector: nn.Module
    language_model: Any
    decoder_layers: nn.ModuleList

    @classmethod
    @abstractmethod
    def entry_of(cls, model: nn.Module) -> nn.Module | None:
        """The module of `model` whose forward receives input_ids and pixels, if it belongs to this family."""

    # -- where visual tokens come from and where they are --------------------------------------------------------------

    @abstractmethod
    def footprints(self, modality: str, arguments: Mapping[str, Any]) -> list[tuple[Footprint, ...]]:
        """For each entry of the encoder's `pooler_output`, what is in it, from the arguments that are encoded."""

    def footprints_of_features(self, modality: str, features: Sequence[Float[Tensor, "N C"]]) -> list[Footprint]:
        """The same, one an entry, from features whose pixels are unknown. Raises LayoutError where they do not tell."""
        raise LayoutError(
            f"encoded {modality} features alone do not tell the grid of a {self.info.family} model; "
            f"give {self.modalities[modality].pixels}, or encode them inside the run."
        )

    def pixels(self, modality: str, arguments: Mapping[str, Any]) -> list[Tensor]:
        """Normalised pixels of each footprint, as the encoder takes them."""
        return list(arguments[self.modalities[modality].pixels])

    def slots(self, modality: str, inputs: Mapping[str, Any]) -> Bool[Tensor, "B S"] | None:
        """True where a prompt has a placeholder of a modality; None where that is not known."""
        token = getattr(self.entry.config, self.modalities[modality].placeholder)
        return placeholders(inputs, token, self.language_model.get_input_embeddings())

    def image_numbers(self, tokens: Tensor, slots: Int[Tensor, " V"], footprints: Sequence[Footprint]) -> list[int]:
        """For each footprint of a prompt the number of the image that it is part of, from 0.

        `tokens` are the prompt's ids `[S]` or embeddings `[S, C]`. By default every footprint is an image; families
        whose tiles are footprints of their own say which belong together. The last of several is then the thumbnail.
        """
        return list(range(len(footprints)))

    def as_patches(self, values: Float[Tensor, "items S *rest"]) -> Float[Tensor, "N *rest"]:
        """Values of the encoder's positions as one row a patch, without class tokens."""
        return (values[:, 1:] if self.info.has_class_token else values).flatten(0, 1)

    def feature_rows(self, features: Tensor) -> Float[Tensor, "N C"]:
        """The connector's input as one row a patch, or a token."""
        return features.flatten(0, -2)

    def token_features(
        self, rows: Float[Tensor, "N C"], patches: Int[Tensor, "T P"], shares: Float[Tensor, "T P"] | None
    ) -> Float[Tensor, "T Ce"]:
        """One row a visual token of what the connector was given: such that `project` makes its embedding of it.

        By default the mean over the token's patches.
        """
        return gather_patches(rows, patches, shares)

    def check_encoding(self, inputs: Mapping[str, Any]) -> None:  # noqa: B027  # most families have nothing to check
        """Raise UnsupportedError where arguments of the encoder contradict what `info` says of it."""

    def restore(self, pixels: Tensor, footprint: Footprint) -> list[Float[Tensor, "c h w"]]:
        """The normalised picture of each encoder item of one footprint."""
        return [pixels] if pixels.ndim == 3 else list(pixels)

    # -- other pictures than those given, for methods that rewrite the inputs ------------------------------------------

    def pictures(self, inputs: Mapping[str, Any]) -> tuple[Float[Tensor, "c _ _"], ...]:
        """Normalised pixels of each picture, in the order of the prompts."""
        raise self._no_other_sizes()

    def picture_size(self, rows: int, columns: int) -> tuple[int, int]:
        """Height and width of a picture that gives `rows` x `columns` visual tokens."""
        raise self._no_other_sizes()

    def picture_blocks(self, picture: Float[Tensor, "c _ _"], image: int) -> tuple[Block, ...]:
        """The grids of visual tokens that a picture gives, as image number `image` of its prompt."""
        raise self._no_other_sizes()

    def encode_pictures(
        self, pictures: Sequence[Float[Tensor, "c _ _"]], inputs: Mapping[str, Any]
    ) -> BaseModelOutputWithPooling:
        """What the entry's `get_image_features` gives for pictures of any sizes, under the other arguments `inputs`."""
        raise self._no_other_sizes()

    def native_size(self) -> tuple[int, int]:
        """Height and width of the pictures for which the encoder was made."""
        raise UnsupportedError(f"the encoder of this {self.info.family} model has no size of its own.")

    def picture_arguments(self, grids: Sequence[tuple[int, int]], device: torch.device) -> dict[str, Any]:
        """Arguments of the entry, beside encoded pictures, that say of how many rows and columns of tokens each is."""
        return {}

    def _no_other_sizes(self) -> UnsupportedError:
        return UnsupportedError(f"the encoder of this {self.info.family} model takes pictures of one size only.")

    # -- modules -------------------------------------------------------------------------------------------------------

    def encoder_attention(self, layer: int) -> nn.Module:
        """The attention module of an encoder layer."""
        return self.encoder_layers[layer].self_attn  # type: ignore[return-value]

    def decoder_attention(self, layer: int) -> nn.Module:
        """The attention module of a decoder layer."""
        return self.decoder_layers[layer].self_attn  # type: ignore[return-value]

    def decoder_norm(self, layer: int) -> nn.Module:
        """The norm in front of a decoder layer's attention."""
        return self.decoder_layers[layer].input_layernorm  # type: ignore[return-value]

    def project(self, features: Float[Tensor, "B K Ce"]) -> Float[Tensor, "B K C"]:
        """Token features through the connector."""
        return self.connector(features)

    # -- positions and masks -------------------------------------------------------------------------------------------

    def rotary(self, hidden: Tensor, position_ids: Int[Tensor, "B S"], layer: int) -> tuple[Tensor, Tensor]:
        """cos and sin of positions for a decoder layer, by the model's own module."""
        return self.language_model.rotary_emb(hidden, position_ids)

    def rotary_kind(self, layer: int) -> str | None:
        """What tells layers whose `rotary` differs; by default they all have the same."""
        return None

    def mask_rule(self, layer: int) -> MaskRule | None:
        """Which keys a query may see beyond causality, by original position; None if all earlier ones.

        Layers with the same rule are given the same object. By default layers that the config calls sliding forget what
        is a window behind.
        """
        config = self.language_model.config
        window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
        if window is None or (kinds is not None and kinds[layer] != "sliding_attention"):
            return None
        return sliding(window)

    def position_memory(self) -> Int[Tensor, "B 1"] | None:
        """What the model itself remembers of the prompt just read to count positions on; None if nothing."""
        return getattr(self.entry, "rope_deltas", None)

    def recall_positions(self, memory: Int[Tensor, "B 1"]) -> None:
        """Make the model count on from another prompt's `position_memory`."""
        self.entry.rope_deltas = memory

    # -- pixels --------------------------------------------------------------------------------------------------------

    def pixel_statistics(self) -> Statistics:
        """Mean and deviation by which pixels were normalised: as the model's folder records them, or the family's."""
        return recorded_statistics(self.entry.config._name_or_path) or self.usual_statistics()

    def usual_statistics(self) -> Statistics:
        """Mean and standard deviation that this family's processors commonly normalise with."""
        return CLIP_STATISTICS


@cache
def sliding(window: int) -> MaskRule:
    """Which keys a query of a layer with a sliding window may see."""

    def rule(query: Int[Tensor, "B Q 1"], key: Int[Tensor, "B 1 S"]) -> Bool[Tensor, "B Q S"]:
        return query - key < window

    return rule


CLIP_STATISTICS = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF_STATISTICS = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@cache
def adapter_classes() -> tuple[type[Adapter], ...]:
    """Every adapter of this package, found by file name, but families that the installed transformers lacks."""
    package = importlib.import_module("tessella.models")
    modules = []
    for info in pkgutil.iter_modules(package.__path__):
        try:
            modules.append(importlib.import_module(f"tessella.models.{info.name}"))
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("transformers.models."):
                raise
    found = [v for m in modules for v in vars(m).values() if isinstance(v, type) and issubclass(v, Adapter)]
    return tuple(c for c in dict.fromkeys(found) if hasattr(c, "model_types"))


def find_adapter(model: nn.Module) -> Adapter:
    """The adapter of a model, which may be wrapped (PEFT). Raises UnsupportedError naming the known families."""
    for cls in adapter_classes():
        entry = cls.entry_of(model)
        if entry is not None:
            return cls(entry)  # type: ignore[call-arg]
    known = ", ".join(sorted(t for c in adapter_classes() for t in c.model_types))
    kind = getattr(getattr(model, "config", None), "model_type", None) or type(model).__name__
    raise UnsupportedError(f"no adapter for model type {kind!r}; known: {known}.")


def recorded_statistics(folder: str) -> Statistics | None:
    """Mean and deviation from the processor files of a model's folder; None where there is no such folder or file."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        file = Path(folder) / name
        if folder and file.is_file():
            stated = json.loads(file.read_text(encoding="utf-8"))
            stated = stated.get("image_processor", stated)
            if "image_mean" in stated and "image_std" in stated:
                return tuple(stated["image_mean"]), tuple(stated["image_std"])
    return None


def placeholders(inputs: Mapping[str, Any], token_id: int, embed: nn.Module) -> Bool[Tensor, "B S"] | None:
    """True where a prompt has a placeholder, from its ids or, without ids, from its embeddings."""
    ids = inputs.get("input_ids")
    if ids is not None:
        return ids == token_id
    embeds = inputs.get("inputs_embeds")
    if embeds is None:
        return None
    token = torch.tensor(token_id, device=embeds.device)
    return (embeds == embed(token)).all(dim=-1)


def gather_patches(
    values: Float[Tensor, "N *rest"], patches: Int[Tensor, "T P"], shares: Float[Tensor, "T P"] | None
) -> Float[Tensor, "T *rest"]:
    """For each token the mean of its patches' values, weighted by `shares` where given."""
    if shares is None and patches.shape[1] == 1:
        return values[patches[:, 0]]
    picked = values[patches.clamp(min=0)]  # [T, P, *rest]
    if shares is None:
        return picked.mean(dim=1)
    weight = shares.to(picked.dtype).reshape(*shares.shape, *[1] * (picked.ndim - 2))
    return (picked * weight).sum(dim=1)
