"""Where transformers itself puts each patch of the vision encoder among the visual tokens, for families with tiles.

The library's own packing runs on one-hot values in place of hidden states, and so tells of how much of which patch each
token is made. Nothing of the adapters is used.
"""

from __future__ import annotations

import inspect
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

from tessella.core.layout import NEWLINE, PATCH, THUMBNAIL

ENCODE = {"image": "get_image_features", "video": "get_video_features"}
PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}
TOKEN = {"image": "image_token_id", "video": "video_token_id"}
Place = tuple[int, int, int, int, int]  # tile, frame, row, column, role


@dataclass(frozen=True)
class Entry:
    """An entry of the library's encoded output: `weights [T, items, side, side]` tell the patches of its tokens.

    `slots` are its places in the prompt; `is_newline [T]`; `ordered [T, P]` are the patches that stand side by side in
    the connector's input of a token, where there are several.
    """

    modality: str
    number: int
    slots: list[int]
    weights: Tensor
    is_newline: Tensor
    ordered: Tensor

    @property
    def first_item(self) -> int:
        return int(self.weights[0].sum(dim=(1, 2)).argmax())

    def mix(self, values: Tensor) -> Tensor:
        """Values `[items, patches, ...]` as the tokens have them `[T, ...]`, zero for newlines."""
        return torch.tensordot(self.weights.flatten(1), values.flatten(0, 1).to(self.weights.dtype), dims=1)


class Given(nn.Module):
    """In the place of a vision encoder: whatever the pixels, its hidden states are `values [items, positions, D]`."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = values

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        assert len(pixel_values) == len(self.values)
        return BaseModelOutputWithPooling(last_hidden_state=self.values, hidden_states=(self.values,) * 2)


def arguments_of(model: Any, modality: str, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """Arguments of the method that encodes a modality."""
    names = inspect.signature(getattr(model.model, ENCODE[modality])).parameters
    return {n: v for n, v in inputs.items() if n in names}


def tower_pixels(model: Any, modality: str, inputs: dict[str, Tensor]) -> Tensor:
    """The batch `[items, c, h, w]` that the vision encoder is given."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: Any, kwargs: Any) -> None:
        seen.append(args[0] if args else kwargs["pixel_values"])

    hook = model.model.vision_tower.register_forward_pre_hook(keep, with_kwargs=True)
    with torch.no_grad():
        getattr(model.model, ENCODE[modality])(**arguments_of(model, modality, inputs))
    hook.remove()
    return seen[0]


def entries_of(model: Any, inputs: dict[str, Tensor], class_token: bool) -> list[list[Entry]]:
    """For each prompt its entries, in the order in which they stand in it."""
    vision, out = model.config.vision_config, [[] for _ in inputs["input_ids"]]
    side = _first(vision.image_size) // _first(vision.patch_size)
    for modality in [m for m in ENCODE if PIXELS[m] in inputs]:
        items = len(tower_pixels(model, modality, inputs))
        one_hot = torch.eye(items * side**2).view(items, side**2, -1)
        if class_token:  # not a number, so that one that is not left out shows
            one_hot = nn.functional.pad(one_hot, (0, 0, 1, 0), value=torch.nan)
        made = list(enumerate(_packed(model, modality, inputs, one_hot)))
        for row, ids in enumerate(inputs["input_ids"]):
            slots = (ids == getattr(model.config, TOKEN[modality])).nonzero().reshape(-1).tolist()
            while slots:
                number, values = made.pop(0)
                mine, slots = slots[: len(values)], slots[len(values) :]
                out[row].append(_entry(modality, number, mine, values, (items, side, side)))
        assert not made
    return [sorted(entries, key=lambda e: e.slots[0]) for entries in out]


def places_of(model: Any, inputs: dict[str, Tensor], entry: Entry) -> list[Place]:
    """Where each token of an entry stands, counted in the grid of its tile or frame."""
    first, side = entry.first_item, entry.weights.shape[-1]
    line = torch.arange(side, dtype=torch.float)
    items = entry.weights.sum(dim=(2, 3)).argmax(dim=1) - first
    is_mosaic = entry.modality == "image" and int(items.max()) > 0
    across = 1
    if is_mosaic:
        size, config = inputs["image_sizes"][entry.number], model.config
        across = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, config.vision_config.image_size)[1]
    centres = []  # tile, frame and how far down and to the right in the mosaic or the frame
    for weight, item in zip(entry.weights, items.tolist(), strict=True):
        of_items, down, right = (weight.sum(dim=d) for d in ((1, 2), (0, 2), (0, 1)))
        y, x = float(down @ line), float(right @ line)
        if not is_mosaic or item == 0:
            centres.append((0, item * (entry.modality == "video"), y, x))
            continue
        tiles = torch.arange(len(of_items)).float() - first - 1
        y, x = y + side * float(of_items @ (tiles // across)), x + side * float(of_items @ (tiles % across))
        centres.append((1 + int(y + 0.5) // side * across + int(x + 0.5) // side, 0, y, x))
    out: list[Place] = []
    for index, (tile, frame, y, x) in enumerate(centres):
        if entry.is_newline[index]:
            ends_line = is_mosaic
            tile, frame, row, column, _ = out[-1]
            out.append((tile, frame, row, column + 1, NEWLINE) if ends_line else (tile, frame, 0, 0, NEWLINE))
            continue
        real = [c for c, n in zip(centres, entry.is_newline, strict=True) if c[:2] == (tile, frame) and not n]
        row, column = (sorted({round(c[axis], 3) for c in real}).index(round(v, 3)) for axis, v in ((2, y), (3, x)))
        out.append((tile, frame, row, column, THUMBNAIL if is_mosaic and tile == 0 else PATCH))
    return out


def _packed(model: Any, modality: str, inputs: dict[str, Tensor], values: Tensor) -> list[Tensor]:
    """What the library makes of hidden states `values`, had it no connector: for each entry `[T, D]`, newlines -1."""
    entry = deepcopy(model.model)
    entry.vision_tower, entry.multi_modal_projector = Given(values), nn.Identity()
    entry.image_newline = nn.Parameter(torch.full(values.shape[2:], -1.0))
    with torch.no_grad():
        output = getattr(entry, ENCODE[modality])(**arguments_of(model, modality, inputs), return_dict=True)
    # transformers 5.18 gives clips of LLaVA-NeXT-Video as [frames, n, D]
    return [e.flatten(0, -2) for e in output.pooler_output]


def _entry(modality: str, number: int, slots: list[int], values: Tensor, shape: tuple[int, int, int]) -> Entry:
    is_newline = (values < 0).all(dim=1)
    parts = values.clamp(min=0).unflatten(1, (-1, shape[0] * shape[1] * shape[2]))  # [T, patches side by side, N]
    weights = parts.mean(dim=1)
    return Entry(modality, number, slots, weights.unflatten(1, shape), is_newline, parts.argmax(dim=2))


def _first(value: Any) -> int:
    return value if isinstance(value, int) else value[0]
