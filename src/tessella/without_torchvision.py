"""The processor of a model that takes clips too, for text and pictures alone, where torchvision is missing.

Every video processor of transformers needs torchvision, and a processor is not made without its video part.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from transformers import AutoImageProcessor, AutoTokenizer, ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.utils import PushToHubMixin

from .core.errors import UnsupportedError


class NoClips(PushToHubMixin):
    """Takes the place of a video processor with these settings. Raises UnsupportedError when it is given a clip."""

    num_frames = fps = None  # read by `apply_chat_template`, for pictures too

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise UnsupportedError("preparing clips needs torchvision, which is not installed; pictures work without it.")

    def to_dict(self) -> dict[str, Any]:
        return self.settings


def lacks_video_part(config: Any) -> bool:
    """Whether the processor of a model with this config cannot be made here for want of torchvision."""
    if find_spec("torchvision") is not None:
        return False
    processor_class = _processor_class(config)
    return processor_class is not None and "video_processor" in processor_class.get_attributes()


def read_picture_processor(name: str, config: Any, **options: Any) -> Any:
    """The processor for text and pictures from a folder or hub id; `options` as for `from_pretrained`.

    Raises what reading its parts raises.
    """
    processor_class = _processor_class(config)
    settings, _ = ProcessorMixin.get_processor_dict(name, **options)
    parts = {
        "tokenizer": AutoTokenizer.from_pretrained(name, **options),
        "image_processor": AutoImageProcessor.from_pretrained(name, **options),
        "video_processor": NoClips(settings.get("video_processor", {})),
    }
    made = _accepting(processor_class)
    return made.from_args_and_dict([parts[p] for p in made.get_attributes()], settings)


def _processor_class(config: Any) -> Any:
    import transformers

    name = PROCESSOR_MAPPING_NAMES.get(config.model_type)
    name = name[-1] if isinstance(name, tuple) else name
    return getattr(transformers, name, None) if name else None


def _accepting(processor_class: Any) -> Any:
    """The processor class, under its own name, that takes a NoClips for a video processor."""

    def check(self: Any, name: str, part: Any) -> Any:
        if isinstance(part, NoClips):
            return NoClips
        return super(subclass, self).check_argument_for_proper_class(name, part)

    subclass: Any = type(processor_class.__name__, (processor_class,), {"check_argument_for_proper_class": check})
    return subclass
