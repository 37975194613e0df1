"""What is wrong with a request that does not fit its schema, in one sentence that names the field."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from ..refusals import Refusal
from .requests import ChatRequest, NotHonoured

_SHOWN = 60  # characters of a value


def refusal_of_mistakes(errors: Sequence[Mapping[str, Any]], body: Any) -> Refusal:
    """A refusal from pydantic's errors about a body, or a path, as FastAPI hands them on.

    Where several kinds of value would fit, the one is told about that what was given comes closest to.
    """
    if errors[0]["type"] == "json_invalid":
        return Refusal(400, f"the body is not JSON: {errors[0]['ctx']['error']}.", "invalid_json")
    places = [_place(error["loc"], body) for error in errors]
    first = max(range(len(errors)), key=lambda i: (len(places[i][0]), -i))
    path, given = places[first]
    if not path:
        told = "must be a JSON object, sent with 'Content-Type: application/json'."
        if errors[first]["type"] == "string_unicode":
            told = "has a field whose name is not UTF-8 text."
        return Refusal(400, f"the body {told}", "invalid_json")
    name = _write(path)
    if path[0] in NotHonoured.model_fields:
        return Refusal(
            400, f"the parameter {path[0]!r} is not supported by this server; leave it out.", "unsupported_parameter",
            str(path[0]),
        )  # fmt: skip
    alike = [error for error, place in zip(errors, places, strict=True) if place[0] == path]
    return Refusal(400, _sentence(name, alike, given), "invalid_parameter", name)


def _sentence(name: str, errors: Sequence[Mapping[str, Any]], given: Any) -> str:
    kind = errors[0]["type"]
    if kind == "extra_forbidden":
        inner = name.rpartition(".")[2]
        known = difflib.get_close_matches(inner, ChatRequest.model_fields, n=1) if inner == name else []
        return f"there is no parameter {name!r:.80}.{''.join(f' Closest: {close!r}.' for close in known)}"
    if kind in ("missing", "union_tag_not_found"):
        tag = errors[0].get("ctx", {}).get("discriminator", "").strip("'")
        return f"{name}{'.' + tag if tag else ''} is missing."
    if kind == "union_tag_invalid":
        context = errors[0]["ctx"]
        tag = context["discriminator"].strip("'")
        return f"{name}.{tag} must be one of {context['expected_tags']}; got {_shorten(context['tag'])}."
    reasons = (error["msg"].partition(" should ")[2].replace(" after validation", "") for error in errors)
    return f"{name} must {', or '.join(dict.fromkeys(reasons))}; got {_shorten(given)}."


def _place(loc: Sequence[str | int], body: Any) -> tuple[tuple[str | int, ...], Any]:
    """The path of an error through the body itself, without pydantic's names of alternatives, and what is there."""
    path: list[str | int] = []
    here = body
    for number, step in enumerate(loc[1:], start=1):
        is_there = step in here if isinstance(here, dict) else isinstance(here, list) and isinstance(step, int)
        if is_there:
            here = here[step]
        elif not (isinstance(here, dict) and number == len(loc) - 1):  # which is missing
            continue
        path.append(step)
    return tuple(path), here


def _write(path: Sequence[str | int]) -> str:
    """As in a program: messages[0].content."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text[1:] if text.startswith(".") else text


def _shorten(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text):,} characters)"
