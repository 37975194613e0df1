"""Inputs rewritten by the first methods of a pipeline, and the way back from the rewritten prompt to the user's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from ..core.budget import Counts, on_device, resolve_counts
from ..core.cards import Card
from ..core.contracts import Method, Step
from ..core.errors import MethodError, UnsupportedError
from ..core.layout import Layout
from ..core.pipeline import Part
from ..core.reduction import Reduction
from ..core.view import Captures, View
from ..models.adapter import Adapter
from ..models.placing import layout_of
from .cache import Ledger
from .companions import Companions
from .draft import EngineDraft
from .draft_sequence import length_of, visual_places
from .encoder import Encoding
from .plan import Plan, scope_of, units_of

_OF_ENCODER = {
    "features",
    "class_token",
    "class_features",
    "attention_received",
    "encoder_keys",
    "pixels",
    "text_tower",
}


@dataclass(frozen=True)
class Rewrite:
    """How a rewritten prompt came from the user's, which had `length` tokens and the visual tokens of `layout`.

    - `origin [B, R]`: place in the user's prompt of each token of the rewritten one; -1 for padding that was added. A
      new picture's tokens stand at placeholders of the old one.
    - `visual [B, R]`: True for visual tokens.
    - `removed [B]`: tokens that each row lost.
    - `moved`: True where positions were given by the user, who counts without padding.
    - `kept [B, V]`, on the host: visual tokens of the rewritten prompt that stay, by the word of `author`, the method
      that has made them; None for all.
    """

    layout: Layout
    length: int
    origin: Int[Tensor, "B R"]
    visual: Bool[Tensor, "B R"]
    removed: Int[Tensor, " B"]
    moved: bool
    kept: Bool[Tensor, "B V"] | None
    author: Method

    def repeat(self, batch: int) -> Rewrite:
        """The same for a batch in which each row stands several times: beams, samples."""
        times = batch // len(self.origin)
        if times == 1:
            return self
        rows = torch.arange(len(self.origin)).repeat_interleave(times)
        layout = self.layout.gather(_all_tokens(self.layout)[rows], rows.tolist())
        origin, visual, removed = (t[rows.to(t.device)] for t in (self.origin, self.visual, self.removed))
        kept = None if self.kept is None else self.kept[rows]
        return Rewrite(layout, self.length, origin, visual, removed, self.moved, kept, self.author)

    def places(self, places: Int[Tensor, "B S"]) -> Int[Tensor, "B S"]:
        """Places in the rewritten prompt, or behind it, as places of the user's; -1 for visual tokens and padding."""
        mapped = self._of_user(places, torch.where(self.visual, -1, self.origin))
        return torch.where(mapped < 0, -1, mapped)

    def first_cut(self, plan: Plan, layout: Layout) -> list[Step]:
        """The cut that leaves, of grids that a method has made, what it wants to stay; none where that is all."""
        if self.kept is None:
            return []
        told, kept = _Told(self.author), self.repeat(len(layout.slot)).kept
        assert kept is not None

        def reduce(view: View, counts: Counts) -> Reduction:
            units = units_of(step, layout, plan.roles)
            rows = torch.tensor(units.source_row)[:, None]
            mine = kept[rows, units.index.clamp(min=0)] & (units.index >= 0)
            num_kept = tuple(mine.sum(dim=1).tolist())
            return Reduction(keep=mine.to(view.device, non_blocking=True), num_kept=num_kept)

        step = Step(told, "connector", 0, None, reduce, Captures(), part=-1)  # of no part of the pipeline
        return [step]

    def hand_over(self, ledger: Ledger, moved: bool) -> None:
        """Make a ledger speak of the user's prompt, whose placeholders that are gone it then counts as dropped.

        `moved`: True where positions were counted without padding, as `generate` does.
        """
        wide = self.length - self.origin.shape[1]
        for stored in ledger.segments:
            whole = self.repeat(len(stored.places))
            stored.places = whole._of_user(stored.places, whole.origin.clamp(min=0))
            if ledger.position_memory is not None:
                continue  # the model counts on from there, on each of its axes
            lost = whole.removed if moved else torch.full_like(whole.removed, wide)
            stored.shift = lost if stored.shift is None else stored.shift + lost
        if ledger.position_memory is not None:
            removed = self.repeat(len(ledger.position_memory)).removed
            ledger.position_memory = ledger.position_memory - removed[:, None]
        ledger.full_length += wide

    def cut_labels(self, labels: Tensor, ignore_index: int = -100) -> Tensor:
        """Labels of the rewritten prompt's tokens; padding that was added is ignored, and predicts nothing."""
        whole = self.repeat(len(labels))
        origin = whole.origin.to(labels.device)
        added = origin < 0
        behind = nn.functional.pad(added[:, :-1], (1, 0))
        return labels.gather(1, origin.clamp(min=0)).masked_fill(added | behind, ignore_index)

    def _of_user(self, places: Tensor, origin: Tensor) -> Tensor:
        length = origin.shape[1]
        inside = origin.gather(1, places.clamp(max=length - 1))
        return torch.where(places < length, inside, places + self.length - length)


class _Told(Method):
    """The method of a cut that a rewriter has decided already; it stands under the rewriter's name."""

    card: ClassVar[Card] = Card(
        "Told",
        stages=("connector",),
        count="adaptive",
        count_reason="a rewriter has said what stays",
        min_keep=0,
        takes_keep=False,
        scope="prompt",
        unit="prompt",
        newlines="compete",
    )

    def __init__(self, author: Method) -> None:
        self.id = author.id  # type: ignore[misc]

    def reduce(self, view: View, counts: Counts) -> Reduction:
        raise AssertionError("its step brings a function of its own")


@dataclass(frozen=True)
class Rewritten:
    """Arguments as the rewriting methods want them; `rewrite` says how they came about, None if they stayed.

    `encoding` tells of visual tokens that a method has made, in `arguments["mm_encoder_outputs"]`.
    """

    arguments: dict[str, Any]
    rewrite: Rewrite | None = None
    encoding: Encoding | None = None


def rewrite(adapter: Adapter, plan: Plan, companions: Companions, arguments: dict[str, Any]) -> Rewritten:
    """What the rewriting methods of a plan make of a prompt's arguments.

    Raises UnsupportedError for pictures that are encoded already, for clips, which would stay as they are, for a prompt
    that becomes longer than the model reads, and for methods behind a rewriter that want more than it leaves them.
    """
    first = plan.rewriters[0].method.id
    encoded = arguments.get("mm_encoder_outputs") or {}
    for name, modality in adapter.modalities.items():
        if name != "image" and (arguments.get(modality.pixels) is not None or encoded.get(name) is not None):
            raise UnsupportedError(f"{first} changes pictures, but the prompts hold a {name}.")
    if arguments.get("pixel_values") is None:
        if encoded.get("image") is not None:
            raise UnsupportedError(
                f"{first} changes pictures before they are encoded, but the call was given "
                "mm_encoder_outputs. Give pixel_values instead."
            )
        return Rewritten(arguments)
    layout = layout_of(adapter, arguments)
    if layout is None or not sum(layout.num_tokens):
        return Rewritten(arguments)
    author = plan.rewriters[0].method
    draft = EngineDraft(adapter, arguments, layout, adapter.pictures(arguments), companions, author.id)
    for part in plan.rewriters:
        if draft.is_made:
            raise UnsupportedError(
                f"{part.method.id} changes pictures, but {author.id} in front of it has made visual tokens of them; "
                f"name {author.id} last."
            )
        author = part.method
        draft = draft.for_method(author.id)
        changed = author.rewrite(draft, _counts_of(part, draft.layout))  # type: ignore[attr-defined]
        if not isinstance(changed, EngineDraft):
            raise MethodError(f"{author.id}: rewrite() must return a draft; got {type(changed).__name__}.")
        draft = changed
    if draft.origin is None:
        return Rewritten(arguments)
    if draft.is_made:
        _check_readers(adapter, plan, author)
    kept = draft.kept()
    _check_length(adapter, author, arguments, draft, kept)
    origin, moved = draft.origin, arguments.get("position_ids") is not None
    lost = [b - a for b, a in zip(layout.num_tokens, draft.layout.num_tokens, strict=True)]
    visual = visual_places(draft.layout, origin.shape[1]).to(origin.device)
    removed = on_device(lost, origin.device)
    how = Rewrite(layout, length_of(arguments), origin, visual, removed, moved, kept, author)
    final, encoding = draft.finish()
    return Rewritten(final, how, encoding)


def _check_readers(adapter: Adapter, plan: Plan, author: Method) -> None:
    """Raise UnsupportedError where a method behind reads the encoder, which has not seen tokens that were made."""
    for part in plan.parts:
        if _OF_ENCODER & set(part.method.needs(adapter.info)):
            raise UnsupportedError(
                f"{part.method.id} reads the vision encoder, but {author.id} in front of it gives the model visual "
                "tokens of its own making. Name a method that reads tokens alone, such as divprune."
            )


def _check_length(
    adapter: Adapter, author: Method, arguments: Mapping[str, Any], draft: EngineDraft, kept: Tensor | None
) -> None:
    """Raise UnsupportedError where a prompt has become longer than the model reads."""
    most = getattr(adapter.language_model.config, "max_position_embeddings", None)
    length = length_of(draft.arguments)
    if kept is not None:
        length -= int((draft.layout.mask & ~kept).sum(dim=1).min())
    if most is not None and most < length > length_of(arguments):
        raise UnsupportedError(
            f"{author.id} makes a prompt of {length} tokens of one of {length_of(arguments)}; this "
            f"{adapter.info.family} model reads at most {most}. Give smaller pictures, or a smaller keep."
        )


def _counts_of(part: Part, layout: Layout) -> Counts:
    """What each picture may keep; pictures of a wider scope share its budget by largest remainder."""
    units = layout.split("image")
    if part.budget is None:
        return Counts(units.num_tokens, units.num_tokens, asked=False)
    card = part.method.card
    scope = scope_of(part.method, part.budget)
    return resolve_counts(part.budget, layout, units, scope=scope, rounding=card.rounding, min_keep=card.min_keep)


def _all_tokens(layout: Layout) -> Int[Tensor, "B V"]:
    here = torch.arange(layout.slot.shape[1]).expand_as(layout.slot)
    return torch.where(layout.mask, here, -1)
