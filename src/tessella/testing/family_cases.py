"""What the family contract runs on: tiny models made once, prompts that show what is special, tokens and logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ..core.budget import Counts
from ..core.cards import Card
from ..core.contracts import Method, Scorer
from ..core.reduction import Reduction
from ..core.view import View
from ..models.adapter import Adapter, adapter_classes, find_adapter
from .families import TinyFamily, tiny_families

Inputs = dict[str, Tensor]

PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")

CLIP_FRAMES = 4
ONE_KIND = frozenset({"glm4v", "smolvlm"})  # a call to such a model holds pictures or clips, not both
ANY_FRAMES = frozenset({"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v"})  # clips of a call may differ in frames
NO_TEXT_ALONE = frozenset({"paligemma"})  # the processor asks for a picture in every row
WRITTEN = {"paligemma": 1}  # token_type_ids of tokens behind the prompt, where 0 is not what says "text, causal"


@dataclass(frozen=True)
class Row:
    """What one row of a batch holds: sizes of its pictures, and of its clips."""

    pictures: tuple[tuple[int, int], ...] = ()
    clips: tuple[tuple[int, tuple[int, int]], ...] = ()


def supported_families() -> dict[str, TinyFamily]:
    """The tiny families that have an adapter, by id."""
    known = {kind for adapter in adapter_classes() for kind in adapter.model_types}
    return {name: family for name, family in tiny_families().items() if name in known}


@cache
def tiny_model(family: TinyFamily, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> Any:
    """The family's model, made once; every check leaves it as it came."""
    return family.model(dtype=dtype, attention=attention)


def adapter_of(family: TinyFamily) -> Adapter:
    """The adapter of the family's model."""
    return find_adapter(tiny_model(family))


def prompts(family: TinyFamily) -> dict[str, Row]:
    """Prompts of one row, by what is in them."""
    first, last = family.sizes[0], family.sizes[-1]
    found = {"one": Row((first,)), "two": Row((first, last))}
    if family.takes_video:
        found["clip"] = Row((), ((CLIP_FRAMES, first),))
        if family.id not in ONE_KIND:
            found["mixed"] = Row((last,), ((CLIP_FRAMES, first),))
    return found


def batches(family: TinyFamily) -> dict[str, tuple[Row, ...]]:
    """Batches whose rows hold different numbers of pictures or clips, of several sizes."""
    sizes = family.sizes
    pictures = (Row((sizes[-1], sizes[0])), Row((sizes[len(sizes) // 2],)))
    found = {"pictures": pictures if family.id in NO_TEXT_ALONE else (*pictures, Row())}
    if family.takes_video:
        shorter = CLIP_FRAMES // 2 if family.id in ANY_FRAMES else CLIP_FRAMES
        found["clips"] = (Row((), ((CLIP_FRAMES, sizes[0]), (shorter, sizes[-1]))), Row((), ((shorter, sizes[0]),)))
    return found


def everything(family: TinyFamily) -> dict[str, tuple[Row, ...]]:
    """All prompts and batches."""
    return {**{name: (row,) for name, row in prompts(family).items()}, **batches(family)}


def text_inputs(family: TinyFamily) -> Inputs:
    """A prompt of one row without pictures."""
    inputs = inputs_of(family, Row(family.sizes[:1]))
    words = range(len(inputs["input_ids"][0]) - 6, len(inputs["input_ids"][0]))
    return {name: value[:, words] for name, value in inputs.items() if name in PER_TOKEN}


@cache
def _inputs(
    family: TinyFamily, rows: tuple[Row, ...], first_row: int, padding: str, text_length: int, dtype: torch.dtype
) -> Inputs:
    return family.inputs(
        [row.pictures for row in rows],
        videos=[row.clips for row in rows] if any(row.clips for row in rows) else (),
        first_row=first_row,
        padding=padding,  # type: ignore[arg-type]
        text_length=text_length,
        dtype=dtype,
    )


def inputs_of(
    family: TinyFamily,
    *rows: Row,
    first_row: int = 0,
    padding: str = "left",
    text_length: int = 6,
    dtype: torch.dtype = torch.float32,
) -> Inputs:
    """Model inputs of these rows, made once; nobody writes to them."""
    return dict(_inputs(family, rows, first_row, padding, text_length, dtype))


def decode(model: Any, inputs: Inputs, steps: int = 8, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """New tokens `[B, steps]` and the logits `[B, steps, vocabulary]` behind each, greedily unless told otherwise."""
    kwargs = {"do_sample": False, **kwargs}
    out = model.generate(**inputs, max_new_tokens=steps, return_dict_in_generate=True, output_logits=True, **kwargs)
    return out.sequences[:, inputs["input_ids"].shape[1] :], torch.stack(out.logits, dim=1)


def tokens_of(model: Any, inputs: Inputs, steps: int = 8, **kwargs: Any) -> list[list[int]]:
    """New tokens of each row."""
    return decode(model, inputs, steps, **kwargs)[0].tolist()


def longer(model: Any, inputs: Inputs, tokens: Tensor) -> Inputs:
    """Inputs with written tokens `[B, N]` behind the prompt."""
    ends = (tokens, 1, WRITTEN.get(model.config.model_type, 0), 0)
    out = dict(inputs)
    for name, end in zip(PER_TOKEN, ends, strict=True):
        if name in out:
            new = torch.as_tensor(end, dtype=out[name].dtype).expand(tokens.shape)
            out[name] = torch.cat([out[name], new], dim=1)
    return out


def traces_of(model: nn.Module) -> dict[str, Any]:
    """All that a run could leave on a model: hooks, instance attributes, attention implementations."""
    out: dict[str, Any] = {}
    for name, module in model.named_modules():
        hooks = [len(getattr(module, kind)) for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")]
        config = getattr(module, "config", None)
        out[name] = (hooks, sorted(vars(module)), getattr(config, "_attn_implementation", None))
    return out


def indices_of(run: Any) -> list[list[list[int]]]:
    """Kept tokens of the last prompt, per row and image."""
    return [[kept.tolist() for kept in row] for row in run.kept]


@dataclass(frozen=True)
class Told(Method):
    """Keeps the tokens that it was told: for each row, numbers among its visual tokens in the order of the prompt."""

    at_layer: int = 0
    rows: tuple[tuple[int, ...], ...] = ()
    id = "told"
    card = Card(
        title="Told",
        stages=("connector", "prefill"),
        count="adaptive",
        count_reason="told",
        min_keep=0,
        scope="prompt",
        unit="prompt",
        newlines="compete",
    )

    def reduce(self, view: View, counts: Counts) -> Reduction:
        keep = torch.zeros_like(view.mask)
        for row, numbers in enumerate(self.rows):
            keep[row, list(numbers)] = True
        return Reduction(keep=keep)


@dataclass(frozen=True)
class Above(Method):
    """Keeps the vectors that are longer than the mean of their grid: another number for every grid."""

    at_layer: int = 0
    id = "above"
    card = Card(title="Above", stages=("connector", "prefill"), count="adaptive", count_reason="a threshold")

    def reduce(self, view: View, counts: Counts) -> Reduction:
        norm = view.tokens.embeddings.float().norm(dim=-1) * view.mask
        mean = norm.sum(dim=1, keepdim=True) / view.mask.sum(dim=1, keepdim=True)
        return Reduction(keep=(norm > mean) & view.mask)


@dataclass(frozen=True)
class Raises(Scorer):
    """Fails while it scores."""

    at_layer: int = 0
    id = "raises"
    card = Card(title="Raises", stages=("connector", "prefill"))

    def score(self, view: View) -> Tensor:
        raise ArithmeticError("this method fails")


def some_of(count: int) -> tuple[int, ...]:
    """Numbers of about a third of `count` tokens, unevenly spread."""
    return tuple(i for i in range(count) if i * 7 % 16 < 5)


def num_visual(model: Any, inputs: Inputs) -> Sequence[int]:
    """Placeholders of each row, counted in its tokens."""
    names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
    tokens = [t for t in (getattr(model.config, name, None) for name in names) if t is not None]
    return torch.isin(inputs["input_ids"], torch.tensor(tokens)).sum(dim=1).tolist()
