"""Idefics3: tiles of a picture in its lines and columns, then the whole picture."""

from __future__ import annotations

from transformers.models.idefics3.modeling_idefics3 import Idefics3Model

from .idefics_like import IdeficsLike


class Idefics3Adapter(IdeficsLike):
    """`Idefics3ForConditionalGeneration`."""

    model_types = ("idefics3",)
    entry_types = (Idefics3Model,)
