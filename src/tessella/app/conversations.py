"""Turns of a conversation as the text that a model's processor reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.errors import InputError
from .prompting import write_parts

Turn = dict[str, Any]  # "role", and "content": a list of parts, each with its "type" and a text's "text"


def check_words(processor: Any, text: str) -> str:
    """A text of a conversation as it is. Raises InputError for one that is not UTF-8, or that holds a placeholder."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError("a prompt's text holds characters that are not UTF-8: half of a surrogate pair.") from None
    for name in ("image_token", "video_token"):
        marker = getattr(processor, name, None)
        if marker and marker in text:
            raise InputError(f"a prompt's text holds the placeholder {marker!r}, which stands for a picture or clip.")
    return text


def write_turns(processor: Any, turns: Sequence[Turn]) -> str:
    """The chat text after which the model is to answer, with a placeholder for each part that is no text.

    Raises InputError for what the processor's template cannot write.
    """
    if getattr(processor, "chat_template", None):
        return _by_template(processor, turns)
    content = turns[0]["content"]
    if len(turns) > 1 or any(part["type"] == "video" for part in content):
        raise InputError(
            "this model's processor has no chat template, so it reads one message of text and pictures; "
            f"got {len(turns)} messages of {', '.join(sorted({p['type'] for t in turns for p in t['content']}))}."
        )
    return write_parts(processor, [part.get("text") for part in content])


def _by_template(processor: Any, turns: Sequence[Turn]) -> str:
    from jinja2.exceptions import TemplateError

    try:
        return str(processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
    except TemplateError as error:  # a template's own refusal: of a role, or of an order of roles
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"the model's chat template refuses this conversation: {reason}.") from error
