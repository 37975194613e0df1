"""The text form of one method: `id(settings)@layer`, where a setting may be a method in its turn."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from .contracts import Method
from .errors import MethodError
from .model_info import PaperLayer
from .registry import make


def format_method(method: Method) -> str:
    """A method's text form: id, settings that differ from the defaults, and its layer."""
    settings = method.settings()
    layer = settings.pop("at_layer", None)
    inner = ", ".join(f"{n}={format_value(v)}" for n, v in settings.items())
    return method.id + (f"({inner})" if inner else "") + (f"@{layer}" if layer is not None else "")


def split_outside(text: str, separator: str) -> list[str]:
    """Split at separators that stand outside brackets and quotes.

    >>> split_outside("a(x=1, y=(2, 3)), b", ",")
    ['a(x=1, y=(2, 3))', ' b']
    """
    out, start, depth = [], 0, 0
    for i, ch, depth in _unquoted(text):
        if ch == separator and depth == 0:
            out.append(text[start:i])
            start = i + 1
    if depth:
        raise MethodError(f"unbalanced brackets or quotes in {text!r}.")
    return [*out, text[start:]]


def _unquoted(text: str) -> Iterator[tuple[int, str, int]]:
    """Characters outside quotes, each with its place and the brackets that are open after it."""
    depth, quote = 0, ""
    for i, ch in enumerate(text):
        if quote:
            quote = "" if ch == quote else quote
        elif ch in "'\"":
            quote = ch
        else:
            depth += (ch in "([{") - (ch in ")]}")
            yield i, ch, depth
    if quote:
        raise MethodError(f"unbalanced brackets or quotes in {text!r}.")


_HEAD = re.compile(r"\s*([A-Za-z_]\w*)\s*")
_LAYER = re.compile(r"\s*@\s*(\d+)\s*")


def parse_method(text: str) -> tuple[Method, str]:
    """The method at the beginning of a text, and what follows it."""
    head = _HEAD.match(text)
    if head is None:
        raise MethodError(f"a method id was expected; got {text!r}.")
    rest = text[head.end() :]
    settings: dict[str, Any] = {}
    if rest.startswith("("):
        end = _closing(rest, text)
        for item in split_outside(rest[1:end], ","):
            if item.strip():
                name, equals, value = item.partition("=")
                if not equals:
                    raise MethodError(f"setting {item.strip()!r} in {text!r} needs a name: 'name=value'.")
                settings[name.strip()] = _parse_value(value.strip())
        rest = rest[end + 1 :]
    layer = _LAYER.match(rest)
    if layer:
        if "at_layer" in settings:
            raise MethodError(f"{text!r} names its layer twice; use '@{layer[1]}' alone.")
        settings["at_layer"] = int(layer[1])
        rest = rest[layer.end() :]
    return make(head[1], **settings), rest


def _closing(rest: str, text: str) -> int:
    for i, _, depth in _unquoted(rest):
        if depth == 0:
            return i
    raise MethodError(f"unbalanced brackets in {text!r}.")


def read_method(text: str) -> Method:
    """The method that a text names, with nothing behind it."""
    method, rest = parse_method(text)
    if rest.strip():
        raise MethodError(f"cannot read {rest.strip()!r} in {text!r}: neither a value nor a method.")
    return method


def _parse_value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if text.endswith(".json"):
            raise MethodError(f"the recipe {text!r} stands inside a method; it can be a step of its own.") from None
        return read_method(text)


def format_value(value: Any) -> str:
    """A setting's text form."""
    if isinstance(value, Method):
        return format_method(value)
    return repr(int(value) if isinstance(value, PaperLayer) else value)
