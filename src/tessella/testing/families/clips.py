"""Video processors where torchvision is missing, which all of those in transformers need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature
from transformers.utils import PushToHubMixin

Clip = np.ndarray  # [frames, height, width, 3] uint8


class ClipProcessor(PushToHubMixin):
    """Takes the place of the video processor `name`, which reads the same `settings` where torchvision is installed.

    This one prepares each frame as a picture, with `pictures`, an image processor. Families that do otherwise override
    `prepare`. Clips of one call have the same number of frames.
    """

    _auto_class = None  # read by `save_pretrained` of processors

    def __init__(self, name: str, settings: Mapping[str, Any], pictures: Any = None) -> None:
        self.name, self.settings, self.pictures = name, dict(settings), pictures

    def prepare(self, clips: Sequence[Clip]) -> dict[str, Any]:
        """What the model reads, and what the processor needs to write the placeholders."""
        frames = [self.pictures(list(clip), return_tensors="pt")["pixel_values"] for clip in clips]
        return {"pixel_values_videos": torch.stack(frames)}

    def __call__(self, videos: Any, **kwargs: Any) -> BatchFeature:
        """`prepare` of one clip, of a list of clips or of a list of them a row."""
        return BatchFeature(self.prepare(_flat(videos)))

    def to_dict(self) -> dict[str, Any]:
        return {**self.settings, "video_processor_type": self.name}


def with_clips(processor_class: type) -> type:
    """The processor class, of the same name, that takes a ClipProcessor for its video processor."""

    def check(self: Any, name: str, part: Any) -> Any:
        return (
            type(part)
            if isinstance(part, ClipProcessor)
            else processor_class.check_argument_for_proper_class(self, name, part)
        )

    return type(processor_class.__name__, (processor_class,), {"check_argument_for_proper_class": check})


def _flat(videos: Any) -> list[Clip]:
    if isinstance(videos, np.ndarray):
        return [videos]
    return [clip for part in videos for clip in _flat(part)]
