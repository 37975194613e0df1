"""What tells one model from another: its sizes, and the signs of some of its weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn

from ..core.errors import UnsupportedError
from ..core.pipeline import Pipeline
from ..core.recipe import ModelFacts
from ..models.adapter import Adapter
from ..models.on_host import on_host
from .companions import companions_of

NUM_SIGNS = 4096


def describe_model(model: nn.Module, adapter: Adapter) -> ModelFacts:
    """Facts of a model, alike in every dtype.

    The signature is a digest of the signs of weights of the input embedding, at a fixed stride. Raises
    UnsupportedError where these are not in memory.
    """
    weight = adapter.language_model.get_input_embeddings().weight.detach()
    if weight.is_meta:
        raise UnsupportedError("the input embeddings of this model are not in memory; load it without offloading them.")
    some = weight.flatten()[:: max(weight.numel() // NUM_SIGNS, 1)][:NUM_SIGNS]
    signs = on_host(torch.signbit(some)).numpy().tobytes()
    return ModelFacts(
        family=adapter.info.family,
        num_layers=adapter.info.num_layers,
        hidden_size=adapter.info.hidden_size,
        vocabulary=weight.shape[0],
        signature=hashlib.sha256(signs).hexdigest()[:12],
        name=companions_of(model).name or _configured_name(model),
    )


def check_recipes(pipeline: Pipeline, model: nn.Module, adapter: Adapter) -> None:
    """Raise UnsupportedError, naming both models, for a recipe that was fitted to another model."""
    for part in pipeline.parts:
        if part.recipe is None:
            continue
        this = describe_model(model, adapter)
        if this != part.recipe.model:
            raise UnsupportedError(
                f"the recipe {part.recipe.source or part.recipe.method!r} was fitted to {part.recipe.model}, this "
                f"model is {this}. Fit one to it: {part.recipe.made_by}"
            )


def _configured_name(model: nn.Module) -> str:
    """The hub id that a model was loaded by, or the last name of its folder; else its class."""
    name = str(getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__)
    return Path(name).name if Path(name).is_dir() else name
