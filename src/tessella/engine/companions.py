"""What goes with a model and is no part of it: its tokenizer, for words, a text tower, and what it is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from ..core.contracts import Method
from ..core.errors import InputError, UnsupportedError
from ..core.model_info import ModelInfo
from ..core.text_tower import TextTower


@dataclass(frozen=True)
class Companions:
    """A tokenizer, how to come by a text tower, which is loaded when a method first asks, and a name; all may miss."""

    tokenizer: Any = None
    load_tower: Callable[[], TextTower] | None = None
    name: str | None = None

    def tokenizer_for(self, method: str) -> Any:
        """The tokenizer. Raises UnsupportedError, naming the method that asks, where there is none."""
        if self.tokenizer is None:
            raise UnsupportedError(
                f"{method} reads words, and the run knows no tokenizer: pass processor=..., or load the model with "
                "tessella.load, which remembers it."
            )
        return self.tokenizer

    def check(self, method: Method, info: ModelInfo) -> None:
        """Raise UnsupportedError where a method needs a text tower and there is none."""
        if self.load_tower is None and "text_tower" in method.needs(info):
            raise UnsupportedError(
                f"{method.id} needs a text tower, which no part of this {info.family} model is: pass "
                "text_tower=tessella.load_text_tower(...) of the CLIP model that the vision encoder was taken from."
            )


_known: WeakKeyDictionary[nn.Module, Companions] = WeakKeyDictionary()


def remember(
    model: nn.Module,
    processor: Any = None,
    load_tower: Callable[[], TextTower] | None = None,
    name: str | None = None,
) -> None:
    """Let runs on a model, or on what wraps it, know its processor, where its text tower comes from, and its name."""
    _known[model] = Companions(tokenizer_of(processor), load_tower, name)


def companions_of(model: nn.Module, processor: Any = None, text_tower: TextTower | None = None) -> Companions:
    """What a run on a model was given, and for the rest what is remembered of the model."""
    found = next((_known[m] for m in model.modules() if m in _known), Companions())
    if processor is not None:
        found = replace(found, tokenizer=tokenizer_of(processor))
    return found if text_tower is None else replace(found, load_tower=lambda: text_tower)


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer of a processor, or a tokenizer itself. Raises InputError for anything else but None."""
    tokenizer = getattr(processor, "tokenizer", processor)
    if tokenizer is not None and not hasattr(tokenizer, "batch_decode"):
        raise InputError(f"processor must be a processor or a tokenizer; got {type(processor).__name__}.")
    return tokenizer
