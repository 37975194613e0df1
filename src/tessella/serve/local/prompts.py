"""Questions as inputs of the model, and several of them as one batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from ...app.prompting import read_prompts
from ...core.contracts import Rewriter
from ...core.pipeline import Pipeline, parse
from ..contract import Question

_BY_TOKEN = {"input_ids": None, "attention_mask": 0, "token_type_ids": 0, "mm_token_type_ids": 0}


@dataclass(frozen=True, eq=False)
class Prepared:
    """Inputs of one question, its pipeline, and what tells its pictures from others.

    A picture's key holds whether it stands alone: some families cut one picture into tiles, and several not.
    """

    question: Question
    inputs: dict[str, Tensor]
    pipeline: Pipeline
    picture_keys: tuple[str, ...]

    @property
    def length(self) -> int:
        return self.inputs["input_ids"].shape[1]

    @cached_property
    def rewrites(self) -> bool:
        """Whether its pipeline changes pictures before they are encoded."""
        return any(isinstance(part.method, Rewriter) for part in self.pipeline.parts)

    @cached_property
    def asks_question(self) -> bool:
        """Whether what is kept depends on the words behind the pictures."""
        return any(part.method.card.prompt_dependent for part in self.pipeline.parts)

    @cached_property
    def shape(self) -> str:
        """Questions of one shape make a batch."""
        return repr(sorted((n, t.dtype, t.shape[1:] if n not in _BY_TOKEN else "") for n, t in self.inputs.items()))


def prepare(model: Any, processor: Any, question: Question) -> Prepared:
    """Raises InputError for pictures that the processor refuses and prompts that are too long."""
    most = question.sampling.max_tokens
    inputs = read_prompts(model, processor, [question.text], [question.pictures], most)
    pipeline = parse(question.pipeline if question.pictures else "none")
    pictures = question.pictures
    return Prepared(question, dict(inputs), pipeline, tuple(_key(p, len(pictures) == 1) for p in pictures))


def batch(prepared: Sequence[Prepared], pad_token: int) -> dict[str, Tensor]:
    """Inputs of several questions of one shape, padded on the left."""
    length = max(p.length for p in prepared)
    out = {}
    for name in prepared[0].inputs:
        tensors = [p.inputs[name] for p in prepared]
        if name in _BY_TOKEN:
            value = pad_token if name == "input_ids" else _BY_TOKEN[name]
            tensors = [pad(t, (length - t.shape[1], 0), value=value) for t in tensors]
        out[name] = torch.cat(tensors)
    return out


def _key(picture: Image.Image, is_alone: bool) -> str:
    digest = hashlib.blake2b(picture.tobytes(), digest_size=16)
    digest.update(repr((picture.mode, picture.size, is_alone)).encode())
    return digest.hexdigest()
