"""What every tiny family has: a model made from a config, a processor made offline, and prompts with pictures."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ...engine.companions import remember
from ..random_tower import RandomTower
from .text import WORDS

Size = tuple[int, int]  # width, height in pixels, as Pillow has it
ClipSize = tuple[int, Size]  # number of frames, size of each


@dataclass(frozen=True)
class TinyFamily:
    """One family. A subclass fills the class variables and `config` and `processor`; the rest follows from them.

    `id` is the name of the adapter's file, `architecture` the model class of transformers (a family is listed where
    transformers has it), and `sizes` are picture sizes that show what is special about the family, the usual first.
    """

    id: ClassVar[str]
    architecture: ClassVar[str]
    sizes: ClassVar[tuple[Size, ...]] = ((56, 56),)
    takes_video: ClassVar[bool] = False
    image_text: ClassVar[str] = "<image>"  # stands for a picture in the text that the processor reads
    video_text: ClassVar[str] = "<video>"

    def config(self, num_layers: int = 4) -> Any:
        """The config of a model with `num_layers` decoder layers."""
        raise NotImplementedError

    def processor(self) -> Any:
        """The family's real processor: tokenizer, image processor, chat template, all made offline."""
        raise NotImplementedError

    def model(
        self,
        *,
        attention: str | dict[str, str] = "sdpa",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        num_layers: int = 4,
    ) -> Any:
        """The generating model in eval mode, with random weights large enough that a wrong mask or position shows.

        `attention` is an implementation's name, or one for each part of the config: {"text_config": "eager", ...}.
        """
        import transformers

        config = self.config(num_layers)
        config._attn_implementation = attention
        state = torch.random.get_rng_state()
        torch.manual_seed(seed)
        model = getattr(transformers, self.architecture)(config)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                self.draw(model.get_submodule(name.rpartition(".")[0]), name, weight)
        torch.random.set_rng_state(state)
        model.generation_config.pad_token_id = 0
        model.generation_config.eos_token_id = None  # random models should not stop early,
        model.generation_config.suppress_tokens = self.processor().tokenizer.all_special_ids  # nor write placeholders
        vision = config.vision_config
        is_clip = vision.model_type == "clip_vision_model"
        remember(model, self.processor(), (lambda: RandomTower(vision.hidden_size)) if is_clip else None)
        return model.to(dtype).eval()

    def draw(self, owner: nn.Module, name: str, weight: nn.Parameter) -> None:
        """Fill one weight of a module anew: attention becomes far from uniform, and no part is left at zero.

        Embeddings have a standard deviation of 0.5, matrices one of 1.4 / sqrt(inputs); norms and biases stay.
        """
        if isinstance(owner, nn.Embedding) or name.endswith(("embedding", "embed", "embeddings", "token", "newline")):
            nn.init.normal_(weight, std=0.5)
        elif weight.ndim >= 2:
            nn.init.normal_(weight, std=1.4 / weight[0].numel() ** 0.5)

    def inputs(
        self,
        images: Sequence[Sequence[Size]] | None = None,
        *,
        videos: Sequence[Sequence[ClipSize]] = (),
        text_length: int = 6,
        padding: Literal["left", "right"] = "left",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        first_row: int = 0,
    ) -> dict[str, Tensor]:
        """Model inputs for rows that hold pictures of these sizes, then clips, each after two random words.

        By default one row with one picture of the usual size, or none if there are `videos`. A row ends with
        `text_length` words and one more for each row above it. Pixels are random too. A row depends on its number and
        what it holds alone: with `first_row=1` the second row of a batch is made by itself.

        Raises ValueError for `videos` of a family that takes none.
        """
        if videos and not self.takes_video:
            raise ValueError(f"{self.id} takes no clips; got videos={videos}.")
        images = ((() if videos else (self.sizes[0],)),) if images is None else images
        text, pictures, clips = [], [], []
        for n, (sizes, lengths) in enumerate(zip_longest(images, videos, fillvalue=()), start=first_row):
            rng = np.random.default_rng([seed, n])
            pictures.append([_noise(rng, size) for size in sizes])
            clips.append([_noise(rng, size, frames) for frames, size in lengths])
            media = [self.image_text] * len(sizes) + [self.video_text] * len(lengths)
            text.append(" ".join([f"{_words(rng, 2)} {m}" for m in media] + [_words(rng, text_length + n)]))
        return self.encode(text, pictures, clips, padding=padding, dtype=dtype)

    def encode(
        self,
        text: Sequence[str],
        pictures: Sequence[Sequence[np.ndarray]],
        clips: Sequence[Sequence[np.ndarray]] = (),
        *,
        padding: Literal["left", "right"] = "left",
        dtype: torch.dtype = torch.float32,
    ) -> dict[str, Tensor]:
        """Model inputs of these rows, from the processor: pictures are [h, w, 3], clips [frames, h, w, 3], uint8."""
        media: dict[str, Any] = {}
        if any(pictures):
            media["images"] = [[Image.fromarray(p) for p in row] for row in pictures]
        if any(clips):
            media["videos"] = [list(row) for row in clips]
        encoded = self.processor()(text=list(text), **media, padding=True, padding_side=padding, return_tensors="pt")
        return {name: value.to(dtype) if value.is_floating_point() else value for name, value in encoded.items()}

    def save(self, folder: str | Path, **kwargs: Any) -> Path:
        """Write `model(**kwargs)` and the processor as transformers does. Returns the folder."""
        self.model(**kwargs).save_pretrained(folder)
        self.processor().save_pretrained(folder)
        return Path(folder)


def tiny_families() -> dict[str, TinyFamily]:
    """Every tiny family that the installed transformers has, by id."""
    import transformers

    return {f.id: f for f in _all_families() if hasattr(transformers, f.architecture)}


def lacking_families() -> dict[str, str]:
    """The architecture of every tiny family that the installed transformers lacks, by id."""
    import transformers

    return {f.id: f.architecture for f in _all_families() if not hasattr(transformers, f.architecture)}


def tiny_family(family_id: str) -> TinyFamily:
    """One tiny family. Raises KeyError naming those there are."""
    families = tiny_families()
    if family_id not in families:
        raise KeyError(f"no tiny family {family_id!r}; there are: {', '.join(families)}.")
    return families[family_id]


def _all_families() -> Iterator[TinyFamily]:
    """An instance of each subclass in the files of this folder."""
    package = importlib.import_module(__package__ or "")
    for file in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{file.name}")
        here = [k for k in vars(module).values() if isinstance(k, type) and k.__module__ == module.__name__]
        yield from (kind() for kind in here if issubclass(kind, TinyFamily) and kind is not TinyFamily)


def _noise(rng: np.random.Generator, size: Size, *frames: int) -> np.ndarray:
    """A random picture [h, w, 3], or a clip of so many [frames, h, w, 3]."""
    return rng.integers(0, 256, (*frames, size[1], size[0], 3), dtype=np.uint8)


def _words(rng: np.random.Generator, count: int) -> str:
    return " ".join(rng.choice(WORDS, count))
