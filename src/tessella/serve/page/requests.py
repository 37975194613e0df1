"""What the page asks of its server."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..openai.requests import MAX_PIPELINE, Keep, Strict

MAX_METHODS = 4  # beside the full model


class PictureRequest(Strict):
    """A picture to look at beforehand, as a data URL."""

    picture: str


class CompareRequest(PictureRequest):
    """A question about a picture, for several methods. Those that take a keep and have none of their own get `keep`."""

    question: str
    methods: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=MAX_PIPELINE)]], Field(min_length=1, max_length=MAX_METHODS)
    ]
    keep: Keep


class ShareRequest(Strict):
    """The number of a result that was just given."""

    result: str
