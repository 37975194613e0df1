"""The interface between the engine and a model family."""

from __future__ import annotations

import importlib
import json
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..core.errors import UnsupportedError
from ..core.layout import Block, Layout
from ..core.model_info import ModelInfo

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
MaskRule = Callable[[Int[Tensor, "B Q 1"], Int[Tensor, "B 1 S"]], Bool[Tensor, "B Q S"]]


class Adapter(ABC):
    """Where the parts of one model are, which of its tokens are visual, and what it can give.

    A family fills the attributes and the abstract methods; the other methods have defaults that fit a model with one
    picture grid per image and one position axis.
    """

    model_types: ClassVar[tuple[str, ...]]
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

    @abstractmethod
    def layout(self, inputs: Mapping[str, Any]) -> Layout | None:
        """Layout of the visual tokens in a forward's arguments; None if there are none."""

    @abstractmethod
    def flatten_encoder(self, values: Float[Tensor, "items S *rest"]) -> Float[Tensor, "T *rest"]:
        """Per-position values of the encoder (class token included) as one row per visual token, in prompt order."""

    def flatten_features(self, features: Float[Tensor, "items N C"]) -> Float[Tensor, "T C"]:
        """The connector's input as one row per visual token, in prompt order."""
        return features.flatten(0, 1)

    def check_encoding(self, inputs: Mapping[str, Any]) -> None:  # noqa: B027  # most families have nothing to check
        """Raise UnsupportedError where arguments of the encoder contradict what `info` says of it."""

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
        """Features through the connector."""
        return self.connector(features)

    def rotary(self, hidden: Tensor, position_ids: Int[Tensor, "B S"], layer: int) -> tuple[Tensor, Tensor]:
        """cos and sin of positions for a decoder layer, by the model's own module."""
        return self.language_model.rotary_emb(hidden, position_ids)

    def mask_rule(self, layer: int) -> MaskRule | None:
        """Which keys a query may see beyond causality, by original position; None if all earlier ones."""
        return None

    def pixel_statistics(self) -> Statistics:
        """Mean and deviation by which pixels were normalised: as the model's folder records them, or the family's."""
        return recorded_statistics(self.entry.config._name_or_path) or self.usual_statistics()

    def usual_statistics(self) -> Statistics:
        """Mean and standard deviation that this family's processors commonly normalise with."""
        return (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@cache
def adapter_classes() -> tuple[type[Adapter], ...]:
    """Every adapter of this package, found by file name."""
    package = importlib.import_module("tessella.models")
    modules = [importlib.import_module(f"tessella.models.{m.name}") for m in pkgutil.iter_modules(package.__path__)]
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


def placeholders(inputs: Mapping[str, Any], image_token_id: int, embed: nn.Module) -> Bool[Tensor, "B S"] | None:
    """True where a prompt has an image placeholder, from its ids or, without ids, from its embeddings."""
    ids = inputs.get("input_ids")
    if ids is not None:
        return ids == image_token_id
    embeds = inputs.get("inputs_embeds")
    if embeds is None:
        return None
    token = torch.tensor(image_token_id, device=embeds.device)
    return (embeds == embed(token)).all(dim=-1)
