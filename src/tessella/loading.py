"""Load a vision-language model and its processor, or a text tower, or say in one line why that cannot be done."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .core.errors import InputError

if TYPE_CHECKING:
    from .models.clip_tower import ClipTower

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
HUB_SECONDS = 3.0  # to wait for the hub's first answer
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load(
    name_or_path: str | Path, dtype: str | torch.dtype | None = None, device: str | torch.device | None = None
) -> tuple[Any, Any]:
    """The model, ready to answer, and its processor, which runs on the model know of from then on.

    `name_or_path` is 'mini' (the embedded model), a folder, or a hub id such as 'llava-hf/llava-1.5-7b-hf'. A folder is
    read without touching the network. `dtype` None is float32 on a CPU and the dtype of the saved weights elsewhere;
    `device` None is the first CUDA device, or the CPU. Code that comes with a checkpoint is never run.

    Raises InputError for a missing folder, missing or damaged weights, a model that takes no pictures, a missing
    processor, and for a dtype or device that is not there.
    """
    from .engine.companions import remember

    where = resolve_device(device)
    kind = resolve_dtype(dtype, where)
    name, is_folder = resolve_name(name_or_path)
    with _quiet():
        source = _Source(name, is_folder, offline=is_folder or not _hub_answers())
        config = _read_config(source)
        _check_takes_pictures(name, config)
        processor = _read_processor(source, config)
        model = _read_model(source, config, kind)
    if getattr(model, "hf_quantizer", None) is None:  # quantised weights are on their device and may not be moved
        model = _move(name, model, where)
    own_tower = functools.cache(functools.partial(load_text_tower, "mini", device=where))
    is_mini = name_or_path == "mini"
    called = str(name_or_path) if is_mini or not is_folder else Path(name).absolute().name
    remember(model, processor, own_tower if is_mini else None, called)
    return model.eval(), processor


def load_text_tower(name_or_path: str | Path, device: str | torch.device | None = None) -> ClipTower:
    """The text encoder of a CLIP model, with the projections into the space that it shares with the vision encoder.

    `name_or_path` is 'mini' (the tower of the embedded model, whose runs find it by themselves), a folder, or a hub id:
    that of the CLIP model from which the encoder of a vision-language model was taken, such as
    'openai/clip-vit-large-patch14-336' for LLaVA-1.5. Give it to `tessella.reduce` as `text_tower`. It is in float32.

    Raises InputError as `load` does, and for a model that is not CLIP.
    """
    from . import mini
    from .models.clip_tower import read_tower

    where = resolve_device(device)
    name, is_folder = resolve_name(mini.text_tower_path() if name_or_path == "mini" else name_or_path)
    with _quiet():
        source = _Source(name, is_folder, offline=is_folder or not _hub_answers())
        config = _read_config(source)
        if config.model_type != "clip":
            raise InputError(f"{name!r} is a {config.model_type!r} model; a text tower is read from a 'clip' one.")
        with _one_line(source, "text tower"):
            tower = read_tower(name, source.options)
    return _move(name, tower, where).eval()


def _move(name: str, model: Any, device: torch.device) -> Any:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"{name!r} does not fit on device {str(device)!r}: {_first_line(error)}.") from error


def resolve_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype | str:
    """A dtype for `from_pretrained`. Raises InputError naming those allowed."""
    if dtype is None:
        return torch.float32 if device.type == "cpu" else "auto"
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    if isinstance(dtype, str) and (dtype == "auto" or dtype in DTYPES):
        return DTYPES.get(dtype, "auto")
    raise InputError(f"dtype must be one of {', '.join(DTYPES)} or auto; got {str(dtype)!r}.")


def resolve_device(device: str | torch.device | None) -> torch.device:
    """A device that exists here. Raises InputError otherwise."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {str(device)!r} cannot be used here: {_first_line(error)}.") from error
    return found


def resolve_name(name_or_path: str | Path) -> tuple[str, bool]:
    """What to hand to `from_pretrained`, and whether it is a folder. Raises InputError if neither folder nor hub id."""
    if name_or_path == "mini":
        from . import mini

        return _check_folder(mini.path()), True
    place = Path(name_or_path).expanduser()
    if place.exists():
        return _check_folder(place), True
    looks_like_path = isinstance(name_or_path, Path) or place.is_absolute() or str(name_or_path)[:1] in (".", "~")
    if looks_like_path or not _HUB_ID.fullmatch(str(name_or_path)):
        raise InputError(
            f"there is no model folder {str(name_or_path)!r}; give 'mini', a folder, or a hub id 'owner/name'."
        )
    return str(name_or_path), False


def _check_folder(place: Path) -> str:
    if not place.is_dir():
        what = "is a file" if place.exists() else "is missing"
        raise InputError(f"the model folder {str(place)!r} {what}.")
    if not (place / "config.json").is_file():
        raise InputError(f"{str(place)!r} holds no config.json, so it is not a model folder.")
    return str(place)


@dataclass(frozen=True)
class _Source:
    """A folder or a hub id; `offline`: nothing is fetched for it."""

    name: str
    is_folder: bool
    offline: bool

    @property
    def options(self) -> dict[str, Any]:
        """For every `from_pretrained`."""
        return {"local_files_only": self.offline, "trust_remote_code": False}


def _hub_answers() -> bool:
    """Whether the hub can be reached. Asked once: without a network every file would be tried for half a minute."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except Exception:  # each version's client has its own errors, and the reason does not matter
        return False
    return True


def _read_config(source: _Source) -> Any:
    from transformers import AutoConfig

    if source.is_folder:
        try:
            json.loads((Path(source.name) / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"config.json of {source.name!r} cannot be read: {_first_line(error)}.") from error
    with _one_line(source, "configuration"):
        return AutoConfig.from_pretrained(source.name, **source.options)


def _check_takes_pictures(name: str, config: Any) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as known

    has_vision = any(hasattr(config, part) for part in ("vision_config", "vision_tower_config", "vq_config"))
    if config.model_type not in known or not has_vision:
        raise InputError(
            f"{name!r} is a {config.model_type!r} model, which takes no pictures; a vision-language model is needed."
        )


def _read_processor(source: _Source, config: Any) -> Any:
    from transformers import AutoProcessor

    from .without_torchvision import lacks_video_part, read_picture_processor

    with _one_line(source, "processor"):
        if lacks_video_part(config):
            processor = read_picture_processor(source.name, config, **source.options)
        else:
            processor = AutoProcessor.from_pretrained(source.name, **source.options)
    for part in ("image_processor", "tokenizer"):
        if getattr(processor, part, None) is None:
            what = part.replace("_", " ")
            raise InputError(f"{source.name!r} has no {what} beside its weights; copy its processor files.")
    return processor


def _read_model(source: _Source, config: Any, dtype: Any) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText

    with _one_line(source, "weights"):
        try:
            model, info = AutoModelForImageTextToText.from_pretrained(
                source.name,
                config=config,
                dtype=dtype,
                **source.options,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except SafetensorError as error:
            raise InputError(
                f"the weights of {source.name!r} are damaged or cut short ({_first_line(error)}); copy them again."
            ) from error
    for key, what in (("missing_keys", "are missing"), ("mismatched_keys", "have another shape than config.json says")):
        wrong = sorted(str(k[0]) if isinstance(k, tuple) else str(k) for k in info[key])
        if wrong:  # transformers would fill them with random numbers
            raise InputError(f"{len(wrong)} tensors of {source.name!r} {what}, e.g. {wrong[0]}.")
    return model


@contextlib.contextmanager
def _one_line(source: _Source, what: str) -> Iterator[None]:
    """Turn the many errors of loading into one InputError that names the folder and the part."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # readers of configs, tokenizers and tensors raise many kinds
        part = f"the {what} of {source.name!r}"
        if source.is_folder:
            raise InputError(f"{part} cannot be loaded: {_first_line(error)}.") from error
        if source.offline:
            raise InputError(f"{part} is not in the local cache, and the hub cannot be reached.") from error
        raise InputError(f"{part} is not in the local cache and cannot be fetched: {_first_line(error)}.") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice while loading; the user's settings come back afterwards."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    """The gist of an error: its first sentence, without line breaks."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.split(r"(?<=[^.\s]{3})\. |(?<=\w)\.?$", text)[0][:200]
