"""Encoded pictures one by one: taken out of one pass of the encoder, and put together for another prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ..core.pipeline import Pipeline
from ..models.adapter import find_adapter
from .encoder import Encoding, Mark
from .plan import make_plan


@dataclass(frozen=True, eq=False)
class Encoded:
    """One picture behind the connector; `mark` leads to all that was captured while it was encoded.

    `deepstack` are features for early decoder layers, where a family has them; `kind` is the type of the output.
    """

    features: Float[Tensor, "T C"]
    deepstack: tuple[Float[Tensor, "T C"], ...]
    mark: Mark
    kind: type[Any]

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
    lengths = [p.numel() // p.shape[-1] for p in pooled]
    layers = [layer.split(lengths) for layer in getattr(output, "deepstack_features", None) or ()]
    return [
        Encoded(features, tuple(layer[number] for layer in layers), mark, type(output))
        for number, (features, mark) in enumerate(zip(pooled, marks, strict=True))
    ]


def put_together(pictures: Sequence[Encoded]) -> Any:
    """The encoder's output for a prompt with these pictures, in this order."""
    import torch

    entries = [p.features.view_as(p.features) for p in pictures]  # views, since each carries its own mark
    for entry, picture in zip(entries, pictures, strict=True):
        entry.tessella_mark = picture.mark  # type: ignore[attr-defined]
    output = pictures[0].kind(pooler_output=entries)
    if pictures[0].deepstack:
        output.deepstack_features = [torch.cat(layer) for layer in zip(*(p.deepstack for p in pictures), strict=True)]
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
