"""Reading a prompt under a run: deciding at each cut, and giving every later layer what fits the shorter sequence."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from ..core.budget import Counts, on_device
from ..core.cards import Positions
from ..core.contracts import Method, Step
from ..core.errors import MethodError, UnsupportedError
from ..core.layout import Layout, Units
from ..core.reduction import Reduction
from ..core.roles import RolePolicy
from ..core.view import Point
from ..models.adapter import Adapter
from .bystanders import Bystanders
from .cache import Ledger, cache_in, check_cache, full_bytes, reduced, stored_bytes, stored_lengths
from .capture import PREFIX
from .decision import Decision, Prompt
from .masks import as_implementation, gather_mask
from .memory import Memory
from .plan import counts_of, units_of
from .sequence import Cut, Segment, make_cut, positions_after, whole_prompt
from .sources import Sources
from .timing import Stopwatch
from .view import EngineView

Kwargs = dict[str, Any]


class Reading:
    """Prefill: decide at each cut, shorten the hidden states, and give every later layer what fits them.

    With `replay` the decisions of an earlier reading of the same prompt are used again (steps without a cache).
    """

    def __init__(
        self,
        adapter: Adapter,
        steps: list[Step],
        layout: Layout,
        sources: Sources,
        positions: Positions | None,
        roles: RolePolicy,
        stopwatch: Stopwatch,
        replay: Prompt | None = None,
    ) -> None:
        self.sources = sources
        ids = replay.input_ids if replay else sources.inputs.get("input_ids")  # as they were for the decision
        self.prompt = Prompt(ids, sources.pictures, len(adapter.decoder_layers))
        self.is_replay = replay is not None
        self.fired = 0
        self.cache: Cache | None = None
        self._finished = False
        self._adapter, self._layout, self._positions, self._stopwatch = adapter, layout, positions, stopwatch
        self._roles = roles
        self._steps = list(steps)
        self._replay = list(replay.decisions) if replay else None
        self._memories: dict[int, Memory] = {}  # by part of the pipeline
        self._observing = {s.method: s for s in reversed(steps) if s.observes}
        self._asking = False  # a method looks at the model, and may make a layer answer that has not run
        self._position_ids: list[Tensor] = []
        self._masks: dict[tuple[int, int], Tensor | None] = {}
        self._rotary: dict[tuple[int, str | None, bool], tuple[Tensor, Tensor]] = {}
        self._first: dict[int, Layout] = {}  # by part of the pipeline, in front of its first cut
        self._looked_back = frozenset(n for s in steps for n in s.captures.decoder_inputs)
        self._layer_inputs: dict[int, Tensor] = {}  # of layers that ran since the last cut

    @property
    def segment(self) -> Segment:
        return self.prompt.segments[-1]

    def before_layer(self, layer: int, hidden: Tensor, kwargs: Kwargs) -> tuple[Tensor, Kwargs]:
        """Cut in front of a layer if a step says so, then hand the layer inputs of its segment."""
        self.fired += 1
        given = cache_in(kwargs)
        self.cache = self.cache if given is None else given
        if layer == 0:
            self._begin(hidden, kwargs)
        if self._replay is not None:
            while self._replay and self._replay[0].at_layer == layer:
                hidden = self._apply(self._replay.pop(0), hidden)
        else:
            while self._steps and self._steps[0].at_layer == layer:
                hidden = self._apply(self._decide(self._steps.pop(0), hidden, layer, kwargs), hidden)
        if layer in self._looked_back:
            self._layer_inputs[layer] = hidden
        if len(self.prompt.segments) == 1:
            return hidden, kwargs
        return hidden, self._fit(layer, hidden, kwargs)

    def add_to_visual(self, original: Callable[..., Tensor], hidden: Tensor, mask: Tensor, features: Tensor) -> Tensor:
        """Hidden states with `features [T, C]`, a row for each visual token of the batch, added to those left."""
        if len(self.prompt.segments) == 1:
            return original(hidden, mask, features)
        segment, counts = self.segment, self.prompt.layout.num_tokens
        starts = on_device([0, *itertools.accumulate(counts)][:-1], hidden.device)
        index = torch.where(segment.origin >= 0, starts[:, None] + segment.origin, 0)
        rows = features.to(hidden.device, hidden.dtype)[index]
        added = hidden.new_zeros(len(hidden), segment.length + 1, hidden.shape[2])  # one place for padded entries
        place = torch.where(segment.visual >= 0, segment.visual, segment.length)
        added.scatter_(1, place[:, :, None].expand_as(rows), rows)
        return hidden + added[:, : segment.length]

    def finish(self, owner: int) -> None:
        """Attach the decision to the cache, if there is one."""
        self._finished = True
        self.sources.inputs.clear()
        self._layer_inputs.clear()
        if self.cache is None:
            return
        check_cache(self.cache)
        full_length = self.prompt.segments[0].length
        self.prompt.cache_lengths = tuple(stored_lengths(self.cache))
        self.prompt.cache_bytes = stored_bytes(self.cache)
        self.prompt.full_cache_bytes = full_bytes(self.cache, self.prompt.full_length)
        memory = self._adapter.position_memory()
        if memory is not None:
            memory = memory.repeat_interleave(len(self.segment.places) // len(memory), dim=0)
        visual = self.prompt.visual_per_layer()
        reduced(self.cache, Ledger.open(owner, full_length, self.prompt.segments, visual, memory))

    def close(self, owner: int) -> None:
        """Mark the cache of a forward that did not come to its end."""
        if not self._finished and self.cache is not None:
            reduced(self.cache, Ledger(owner, self.prompt.segments[0].length, [], [], broken=True))

    def cut_labels(self, labels: Tensor, ignore_index: int = -100) -> Tensor:
        """Labels of the last segment's tokens; engine padding is ignored, and predicts nothing."""
        out = labels.gather(1, self.segment.places.to(labels.device))
        if self.segment.padded is not None:
            padded = self.segment.padded.to(labels.device)
            first = nn.functional.pad(padded[:, :-1], (1, 0))  # a row's first token has no predecessor
            out = out.masked_fill(padded | first, ignore_index)
        return out

    def check_logits_to_keep(self, wanted: int | Tensor) -> None:
        """Raise UnsupportedError where places of the full prompt are asked of the shorter one."""
        whole, last = self.prompt.segments[0], self.segment
        if sum(last.num_visual) == sum(whole.num_visual) and self.prompt.rewrite is None:
            return
        if isinstance(wanted, int) and (wanted <= 1 or wanted < whole.length - int(whole.layout.slot.max())):
            return
        asked = wanted if isinstance(wanted, int) else f"Tensor{list(wanted.shape)}"
        raise UnsupportedError(
            f"logits_to_keep={asked} names places of the full prompt, of which visual tokens were removed. Leave it "
            "out and take the places from run.expand(logits); an int up to the number of tokens after the last picture "
            "is fine."
        )

    def _begin(self, hidden: Tensor, kwargs: Kwargs) -> None:
        mask = self.sources.inputs.get("attention_mask")
        if mask is not None and mask.ndim == 4:
            closed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
            mask = closed.any(dim=2).any(dim=1)
        if mask is not None:  # as transformers does, so that no mask is built where none is needed
            known = self.sources.is_unpadded
            mask = None if (bool(mask.all()) if known is None else known) else mask
        batch, length = hidden.shape[:2]
        self.prompt.segments.append(whole_prompt(self._layout, batch, length, hidden.device, mask))
        self.sources.embeddings = hidden
        positions = kwargs.get("position_ids")
        if positions is None:
            positions = torch.arange(length, device=hidden.device)[None]
        if "flash" in self._implementation and batch == 1 and bool((positions[..., 1:] < positions[..., :-1]).any()):
            raise UnsupportedError(
                "packed prompts under flash attention: their positions say where each begins, which a reduction cannot "
                "keep up. Give them as rows of a batch, or load the model with attn_implementation='sdpa'."
            )
        self._position_ids = [positions]

    def _decide(self, step: Step, hidden: Tensor, layer: int, kwargs: Kwargs) -> Decision:
        segment = self.segment
        units = units_of(step, segment.layout, self._roles)
        self._first.setdefault(step.part, segment.layout)
        counts = counts_of(step, segment.layout, units, self._roles, self._first.get(step.part))
        positions = self._positions or ("original" if self._adapter.info.multi_axis_positions else None)
        positions = positions or step.positions or step.method.card.positions
        everything = counts.is_everything and (counts.asked or not counts.num_tokens)  # none may be left to decide on
        bystanders = Bystanders.of(segment.layout, self._roles.fates(step.method.card), everything)
        if everything:
            keep = units.index.to(hidden.device, non_blocking=True) >= 0
            return Decision(
                layer, units, Reduction(keep, counts.num_keep), counts.num_keep, positions, None, bystanders
            )
        view = self._view(step, units, hidden, layer, kwargs, lambda: self._mask_of(hidden, kwargs))
        with self._unobserved():
            reduction = step.reduce(view, counts)
        view.remember()
        num_kept = check_reduction(step, reduction, counts, view.mask)
        vectors = reduction.embeddings
        if vectors is not None and reduction.space == "encoder":
            vectors = view.connector(vectors.to(view.features().dtype))
        return Decision(layer, units, reduction, num_kept, positions, vectors, bystanders)

    def observe(self, method: Method, point: Point, inputs: Tensor, outputs: Tensor) -> None:
        """Let a method fold what went into a module and what came out into its state."""
        if self._replay is not None or self._asking:
            return
        step = self._observing[method]
        units = units_of(step, self.segment.layout, self._roles)
        has_run = point.layer + (not point.module)
        view = self._view(step, units, outputs, has_run, {})
        rows = on_device(units.source_row, outputs.device)
        with self._unobserved():
            method.observe(view, point, inputs[rows], outputs[rows])
        view.remember()

    @contextmanager
    def _unobserved(self) -> Iterator[None]:
        """Modules that answer while a method looks at the model are not observed: they have not run."""
        self._asking = True
        try:
            yield
        finally:
            self._asking = False

    def _view(
        self,
        step: Step,
        units: Units,
        hidden: Tensor,
        layer: int,
        kwargs: Kwargs,
        next_mask: Callable[[], Tensor | None] | None = None,
    ) -> EngineView:
        return EngineView(
            method_id=step.method.id,
            adapter=self._adapter,
            sources=self.sources,
            segment=self.segment,
            history=self.prompt.segments,
            units=units,
            hidden=hidden,
            layer=layer,
            layer_inputs=self._layer_inputs,
            rotary=self._rotary_for(layer, hidden, kwargs),
            memory=self._memories.setdefault(step.part, self._new_memory()),
            next_mask=next_mask,
            stopwatch=self._stopwatch,
            finite=self.prompt.finite,
        )

    def _apply(self, decision: Decision, hidden: Tensor) -> Tensor:
        cut: Cut = make_cut(
            self.segment,
            decision.units,
            decision.reduction,
            decision.num_kept,
            decision.at_layer,
            decision.positions,
            decision.vectors,
            decision.bystanders,
        )
        self._layer_inputs.clear()
        positions = positions_after(cut.segment, self._position_ids[-1], self.segment.num_padding)
        self._position_ids.append(positions)
        self.prompt.segments.append(cut.segment)
        self.prompt.decisions.append(decision)
        return cut.apply(hidden)

    def _fit(self, layer: int, hidden: Tensor, kwargs: Kwargs) -> Kwargs:
        out = dict(kwargs)
        out["attention_mask"] = self._mask_of(hidden, kwargs)
        if kwargs.get("position_ids") is not None:
            # flash attention takes positions with gaps for packed prompts, and needs none: cos and sin are given
            out["position_ids"] = None if "flash" in self._implementation else self._position_ids[-1]
        if kwargs.get("position_embeddings") is not None:
            out["position_embeddings"] = self._rotary_for(layer, hidden, kwargs)(layer)
        return out

    def _mask_of(self, hidden: Tensor, kwargs: Kwargs) -> Tensor | None:
        """The mask that a layer was given, for the tokens of the current segment."""
        segment, number = self.segment, len(self.prompt.segments)
        received = kwargs.get("attention_mask")
        if number == 1:
            return received
        key = (number, id(received))
        if key not in self._masks:
            unpadded = None if segment.padded is None else ~segment.padded
            mask = gather_mask(received, segment.places, unpadded)
            self._masks[key] = as_implementation(mask, self._implementation, hidden.dtype)
        return self._masks[key]

    def _new_memory(self) -> Memory:
        whole = self.prompt.segments[0]
        return Memory(*whole.visual.shape)

    def _rotary_for(self, layer: int, hidden: Tensor, kwargs: Kwargs) -> Callable[[int], tuple[Tensor, Tensor]]:
        """cos and sin for any layer, from what `layer` was given: layers of another kind have other tables."""
        received, number = kwargs.get("position_embeddings"), len(self.prompt.segments)
        here = None if received is None else self._adapter.rotary_kind(layer)  # behind the last layer there is none

        def rotary(which: int) -> tuple[Tensor, Tensor]:
            kind = self._adapter.rotary_kind(which)
            key = (number, kind, received is None)
            if key not in self._rotary:
                self._rotary[key] = self._make_rotary(which, hidden, received if kind == here else None)
            return self._rotary[key]

        return rotary

    def _make_rotary(self, layer: int, hidden: Tensor, received: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        segments = self.prompt.segments
        if received is None or any(s.positions == "compact" for s in segments):
            return self._adapter.rotary(hidden, self._position_ids[-1], layer)
        cos, sin = received
        if len(segments) == 1:
            return cos, sin
        return gather_rotary(cos, self.segment.places), gather_rotary(sin, self.segment.places)

    @property
    def _implementation(self) -> str:
        name = self._adapter.language_model.config._attn_implementation or "eager"
        return name.removeprefix(PREFIX)


def gather_rotary(table: Tensor, places: Tensor) -> Tensor:
    """Rows of cos or sin `[..., B or 1, S, D]` at `places [B, S']`."""
    batch, size = places.shape
    full = table.expand(*table.shape[:-3], batch, *table.shape[-2:])
    index = places[..., None].expand(*table.shape[:-3], batch, size, table.shape[-1])
    return full.gather(-2, index)


def check_reduction(step: Step, reduction: Reduction, counts: Counts, mask: Tensor) -> tuple[int, ...]:
    """Kept counts on the host. Raises MethodError where a method's answer breaks its card."""
    method, card = step.method.id, step.method.card
    if reduction.keep.shape != mask.shape:
        raise MethodError(f"{method}: keep must be {tuple(mask.shape)}; got {tuple(reduction.keep.shape)}.")
    if reduction.num_kept is None:
        num_kept = tuple((reduction.keep & mask).sum(dim=1).tolist())  # the method's count is known to the device only
    else:
        num_kept = tuple(reduction.num_kept)
    if card.takes_keep and step.budget is not None:
        asked, promised = counts.num_keep, step.promised_count
        wrong = [k for k, n in zip(num_kept, asked, strict=True) if k > n or (promised == "exact" and k != n)]
        if wrong and promised != "adaptive":
            raise MethodError(f"{method} kept {wrong[0]} tokens where {asked} were asked; its card says {promised}.")
    least = [min(card.min_keep, n, asked) for n, asked in zip(counts.num_tokens, counts.num_keep, strict=True)]
    few = [k for k, n in zip(num_kept, least, strict=True) if k < n]  # of a small keep, some of its parts get none
    if few:
        raise MethodError(f"{method} kept {few[0]} tokens of an item; its card says at least {card.min_keep}.")
    return num_kept
