"""What a user writes behind `--model_args`: read and checked before a model is loaded."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields
from typing import Any

from ..core.errors import InputError
from ..core.pipeline import Pipeline, as_pipeline

ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3")


@dataclass(frozen=True)
class ModelArgs:
    """One model, one pipeline, and how to run them.

    `pretrained`: 'mini', a folder or a hub id. `pipeline`: its text; quoted where it holds commas. `keep`, `scope`,
    `positions`, `text_tower`: as for `tessella.reduce`, the tower as a name for `tessella.load_text_tower`. `dtype`,
    `device`: as for `tessella.load`. `batch_size`: prompts answered together. `max_num_frames`: taken from each clip,
    evenly. `system_prompt`: in front of each conversation.
    """

    pretrained: str
    pipeline: str = "none"
    keep: int | float | str | None = None
    scope: Any = None
    positions: Any = None
    text_tower: str | None = None
    dtype: str | None = None
    device: str | None = None
    attn_implementation: str | None = None
    batch_size: int = 1
    max_num_frames: int = 8
    system_prompt: str | None = None

    def resolved(self) -> Pipeline:
        """The pipeline with its budget. Raises the errors of core for one that cannot be read."""
        return as_pipeline(self.pipeline).with_budget(self.keep, self.scope)


def read_model_args(given: dict[str, Any]) -> ModelArgs:
    """Check and complete what was given. Raises InputError naming the argument, and the errors of core."""
    allowed = [f.name for f in fields(ModelArgs)]
    values = {name: _unquoted(value) for name, value in given.items() if value is not None}
    if values.pop("max_batch_size", None) is not None:  # lmms-eval's --max_batch_size
        raise InputError("max_batch_size is for batch sizes that are searched for; give batch_size.")
    for name in values:
        if name not in allowed:
            raise _unknown(name, allowed, str(values.get("pipeline", "")))
    if "pretrained" not in values:
        raise InputError("model_args must say pretrained=...: 'mini', a folder, or a hub id 'owner/name'.")
    for name in ("batch_size", "max_num_frames"):
        if name in values:
            values[name] = _count(name, values[name])
    for name in ("pipeline", "pretrained"):
        if name in values and not isinstance(values[name], str):
            raise InputError(f"{name} must be a text; got {values[name]!r}.")
    attention = values.get("attn_implementation", "sdpa")
    if attention not in ATTENTION:
        raise InputError(f"attn_implementation must be one of {', '.join(ATTENTION)}; got {attention!r}.")
    args = ModelArgs(**values)
    args.resolved()
    return args


def _unknown(name: str, allowed: list[str], pipeline: str) -> InputError:
    if pipeline.count("(") > pipeline.count(")"):
        return InputError(f"pipeline={pipeline!r} was cut at a comma; quote it: pipeline='id(a=1, b=2):64'.")
    close = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    hint = f" Closest: {close[0]!r}." if close else ""
    return InputError(f"model_args has no {name!r}; allowed: {', '.join(allowed)}.{hint}")


def _count(name: str, value: Any) -> int:
    """A whole number from 1 on, given as one or as its text."""
    text = str(value)
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"{name} must be a whole number from 1 on; got {value!r}.")
    return int(text)


def _unquoted(value: Any) -> Any:
    """A text without the one pair of quotes around it, which lmms-eval leaves."""
    if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] in "'\"" and value[0] not in value[1:-1]:
        return value[1:-1]
    return value
