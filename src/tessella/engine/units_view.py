"""What every view of a running model has: the units of one cut, their tokens, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.budget import on_device
from ..core.errors import MethodError
from ..core.layout import Units
from ..core.reduction import VisualTokens
from ..core.view import View
from ..models.adapter import Adapter
from ..ops import draws
from .finite import Finite
from .memory import Memory
from .sequence import Segment
from .sources import Origin, Sources, origins_of
from .timing import Stopwatch


class UnitsView(View):
    """A view of the units of one cut, in front of decoder layer `layer`, whose mask `next_mask` gives."""

    def __init__(
        self,
        *,
        method_id: str,
        adapter: Adapter,
        sources: Sources,
        segment: Segment,
        history: list[Segment],
        units: Units,
        hidden: Float[Tensor, "B S C"],
        layer: int,
        layer_inputs: Mapping[int, Tensor],
        rotary: Callable[[int], tuple[Tensor, Tensor]],
        memory: Memory,
        next_mask: Callable[[], Tensor | None] | None,
        stopwatch: Stopwatch,
        finite: Finite,
    ) -> None:
        self.info = adapter.info
        self.at_layer = layer
        self._method_id = method_id
        self._adapter, self._sources, self._segment, self._history = adapter, sources, segment, history
        self._units, self._hidden, self._rotary, self._stopwatch = units, hidden, rotary, stopwatch
        self._layer_inputs, self._finite, self._next_mask = layer_inputs, finite, next_mask
        self._rows = on_device(units.source_row, hidden.device)
        self._index = units.index.to(hidden.device, non_blocking=True)
        mask = self._index >= 0
        self._places = segment.visual[self._rows[:, None], self._index.clamp(min=0)].clamp(min=0)
        where = f"the output of decoder layer {layer - 1}" if layer else "the connector's output"
        embeddings = self._checked(where, hidden[self._rows[:, None], self._places])
        self.tokens = VisualTokens(embeddings, units.layout, mask, mask.to(torch.float32))
        origin = segment.origin[self._rows[:, None], self._index.clamp(min=0)]
        self._memory, self._origin = memory, torch.where(mask, origin, -1)
        self.state = memory.recall(self._rows, self._origin)

    def remember(self) -> None:
        """Keep what the method has left in `state` for its next cut."""
        self._memory.store(self.state, self._rows, self._origin)

    def uniforms(self, seed: int) -> Float[Tensor, "B V"]:
        out = torch.zeros(self._index.shape, dtype=torch.float64)
        places, layout = self._places_of_blocks(), self._units.layout
        for u, (row, count) in enumerate(zip(self._units.source_row, self._units.num_tokens, strict=True)):
            first = layout.blocks[u][0]
            sample = self._sources.sample_ids[places[(row, *first.key)].part]
            group = int(layout.tile[u, 0]) * 1_000_003 + int(layout.frame[u, 0])
            image = int(layout.image[u, 0])
            out[u, :count] = torch.as_tensor(draws.philox_uniforms(seed, sample, image, group, count))
        return out.to(self.device, non_blocking=True)

    @contextmanager
    def clock(self, part: str) -> Iterator[None]:
        with self._stopwatch.clock(part, self.device):
            yield

    def _checked(self, where: str, values: Tensor) -> Tensor:
        """Values that a method is about to read; see `Finite.check`."""
        return self._finite.check(f"{self._method_id}: {where}", values)

    def _places_of_blocks(self) -> dict[tuple[int, ...], Origin]:
        return origins_of(self._history[0].layout.blocks, self._sources.pictures)

    def _undeclared(self, what: str) -> MethodError:
        return MethodError(f"{self._method_id} asks for {what}, which its captures() does not declare.")
