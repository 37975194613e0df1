"""Processors of families that take clips where torchvision, which all video processors need, is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoImageProcessor, AutoTokenizer, BatchFeature, ProcessorMixin
from transformers.utils import PushToHubMixin

Clip = np.ndarray  # [frames, height, width, 3] uint8


class ClipProcessor(PushToHubMixin):
    """Takes the place of the video processor `name`, which reads the same `settings` where torchvision is installed.

    This one prepares each frame as a picture, with the image processor `pictures`: clips of one call must have the same
    number of frames. Families that do otherwise override `prepare`. Settings are attributes too: processors read them.
    """

    _auto_class = None  # read when a processor is saved
    num_frames = fps = None  # read by `apply_chat_template`, unless settings say them

    def __init__(self, name: str, settings: Mapping[str, Any], pictures: Any = None) -> None:
        self.__dict__.update(settings)
        self.name, self.settings, self.pictures = name, dict(settings), pictures

    def prepare(self, clips: Sequence[Clip]) -> dict[str, Any]:
        """What the model reads, and what the family's processor needs to write the placeholders."""
        frames = [self.pictures(list(clip), return_tensors="pt")["pixel_values"] for clip in clips]
        return {"pixel_values_videos": torch.stack(frames)}

    def __call__(self, videos: Any, **kwargs: Any) -> BatchFeature:
        """`prepare` for one clip, a list of clips, or one such list a row."""
        return BatchFeature(self.prepare(_flat(videos)))

    def to_dict(self) -> dict[str, Any]:
        return {**self.settings, "video_processor_type": self.name}


def with_clips(processor_class: Any) -> Any:
    """The processor class, under its own name, that takes a ClipProcessor for a video processor."""

    def check(self: Any, name: str, part: Any) -> Any:
        if isinstance(part, ClipProcessor):
            return type(part)
        return super(subclass, self).check_argument_for_proper_class(name, part)

    subclass = type(processor_class.__name__, (processor_class,), {"check_argument_for_proper_class": check})
    return subclass


def read_processor(folder: str | Path) -> Any:
    """The processor of a saved model that takes clips, for text and pictures: AutoProcessor asks for torchvision.

    Raises what reading its parts raises, and KeyError where the folder describes no video processor.
    """
    import transformers

    settings, _ = ProcessorMixin.get_processor_dict(folder)
    video = dict(settings["video_processor"])
    parts = {
        "tokenizer": AutoTokenizer.from_pretrained(folder),
        "image_processor": AutoImageProcessor.from_pretrained(folder),
        "video_processor": ClipProcessor(video.pop("video_processor_type"), video),
    }
    processor_class = with_clips(getattr(transformers, settings["processor_class"]))
    return processor_class.from_args_and_dict([parts[p] for p in processor_class.get_attributes()], settings)


def _flat(videos: Any) -> list[Clip]:
    if isinstance(videos, np.ndarray):
        return [videos]
    return [clip for part in videos for clip in _flat(part)]
