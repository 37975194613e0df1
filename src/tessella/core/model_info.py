"""What a method may know of the model it runs on, and layers that follow the model's depth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .errors import UnsupportedError

Part = Literal["encoder", "decoder"]


@dataclass(frozen=True)
class ModelInfo:
    """Sizes of a model. `feature_layer` is the 0-based encoder layer whose output the connector reads.

    `packs_pictures`: the encoder reads pictures of any size in one sequence. `global_layers`: its layers that attend to
    whole pictures, where others attend within windows; None where all do.
    """

    family: str
    num_layers: int
    num_encoder_layers: int
    feature_layer: int
    has_class_token: bool
    hidden_size: int
    num_heads: int
    merge: int = 1
    multi_axis_positions: bool = False
    packs_pictures: bool = False
    global_layers: tuple[int, ...] | None = None

    def depth(self, part: Part) -> int:
        return self.num_layers if part == "decoder" else self.num_encoder_layers


class PaperLayer(int):
    """A default layer index of a method, valid for its paper's depth; fitted to each model by `fit_layers`.

    >>> PaperLayer(8, depth=24, part="encoder") == 8
    True
    """

    depth: int
    part: Part

    def __new__(cls, layer: int, depth: int, part: Part = "decoder") -> PaperLayer:
        self = super().__new__(cls, layer)
        self.depth, self.part = depth, part
        return self

    def __getnewargs__(self) -> tuple[int, int, Part]:  # type: ignore[override]  # for copy and pickle
        return int(self), self.depth, self.part


def fit_layers(layers: Mapping[str, int], part: Mapping[str, Part], info: ModelInfo) -> dict[str, int]:
    """Layers by field name, fitted to the model.

    Paper layers that all lie inside the model stand; otherwise all of that part scale to
    `max(1, round(layer * L / P))`, made strictly increasing. A layer that the user named must lie inside.
    Raises UnsupportedError if one does not.
    """
    out = {name: int(layer) for name, layer in layers.items()}
    for which in ("encoder", "decoder"):
        depth = info.depth(which)
        paper = {n: v for n, v in layers.items() if part[n] == which and isinstance(v, PaperLayer)}
        if any(v >= depth for v in paper.values()):
            last = 0
            for name, layer in sorted(paper.items(), key=lambda item: item[1]):
                last = max(last + 1, round(layer * depth / layer.depth))
                out[name] = last
        for name, value in out.items():
            if part[name] == which and not 0 <= value < depth:
                raise UnsupportedError(
                    f"{name}={value} is not a layer of this {which}; it has {depth} layers: 0 to {depth - 1}."
                )
    return out
