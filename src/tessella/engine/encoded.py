"""Encoded pictures one by one: taken out of one pass of the encoder, and put together for another prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..core.pipeline import Pipeline
from ..models.adapter import find_adapter
from .encoder import EncoderWatch, Encoding, Mark
from .plan import make_plan


@dataclass(frozen=True, eq=False)
class Encoded:
    """One picture behind the connector; `mark` leads to all that was captured while it was encoded.

    `deepstack` are features for early decoder layers, where a family has them; `kind` is the type of the output, and
    `is_stacked` says whether its entries are one tensor.
    """

    features: Float[Tensor, "T C"]
    deepstack: tuple[Float[Tensor, "T C"], ...]
    mark: Mark
    kind: type[Any]
    is_stacked: bool

    @property
    def encoding(self) -> Encoding:
        return self.mark[0]

    def serves(self, model: nn.Module, pipeline: Pipeline) -> bool:
        """Whether all that a pipeline reads of the encoder was captured."""
        return self.encoding.shows(make_plan(find_adapter(model), pipeline, None).captures)


def split(output: Any, num_pictures: int) -> list[Encoded] | None:
    """The pictures of an encoder's output, as `encode_once` gives it; None where it has other entries than pictures."""
    pooled = output.pooler_output
    marks = getattr(pooled, "tessella_marks", None) or [getattr(p, "tessella_mark", None) for p in pooled]
    if len(pooled) != num_pictures or None in marks:
        return None
    layers = getattr(output, "deepstack_features", None) or ()
    return [
        Encoded(pooled[n], tuple(layer[n] for layer in layers), marks[n], type(output), isinstance(pooled, Tensor))
        for n in range(num_pictures)
    ]


def put_together(pictures: Sequence[Encoded]) -> Any:
    """The encoder's output for a prompt with these pictures, in this order."""
    first, marks = pictures[0], [p.mark for p in pictures]
    # entries of a list are views, since each carries a mark of its own
    entries: Any = [p.features.view_as(p.features) for p in pictures]
    if first.is_stacked:
        entries = torch.stack(entries)
    EncoderWatch.mark(entries, marks)
    output = first.kind(pooler_output=entries)
    if first.deepstack:
        output.deepstack_features = [list(layer) for layer in zip(*(p.deepstack for p in pictures), strict=True)]
    return output


def num_bytes(encoding: Encoding, pictures: Sequence[Encoded]) -> int:
    """Bytes that an encoding and the features of its pictures hold."""
    found = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors(encoding)}
    for picture in pictures:
        for tensor in (picture.features, *picture.deepstack):
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(found.values())


def _tensors(encoding: Encoding) -> Iterator[Tensor]:
    recorders = encoding.attention.values()
    groups: list[Any] = [
        encoding.arguments.values(),
        (encoding.features, encoding.class_features),
        encoding.hidden.values(),
        *(tensors for r in recorders for tensors in (r.queries, r.keys, r.masks)),
        *(encoding.shown or ()),
    ]
    return (t for group in groups for t in group if isinstance(t, Tensor))
