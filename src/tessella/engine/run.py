"""A run: one use of a pipeline on one model. It owns hooks, decisions and the report; the model stays as it came."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import Cache

from ..core.cards import Positions
from ..core.errors import UnsupportedError
from ..core.layout import Block, Layout
from ..core.pipeline import Pipeline
from ..core.roles import BY_CARD, RolePolicy
from ..core.text_tower import TextTower
from ..models.adapter import find_adapter
from ..pictures import drawing
from ..pictures.saving import save_picture
from .companions import companions_of
from .decision import Prompt, Remainder
from .plan import Plan, make_plan, mean_keep_ratio
from .report import Report
from .restoring import restored, seen_at
from .signature import check_recipes
from .wiring import Wiring

_active: WeakKeyDictionary[nn.Module, list[Run]] = WeakKeyDictionary()
_numbers = itertools.count(1)


class Run:
    """One use of a pipeline on one model, as a context manager; made by `tessella.reduce` or `tessella.apply`.

    - `report`: tokens, cache and time, summed over all prompts so far.
    - `kept`: for the last prompt, per row and image, the indices of kept tokens in raster order of the image.
    - `merged`: likewise, for each token the index of the kept token that holds it (-1 if dropped).
    - `cuts`: both, behind each cut, with the decoder layer in front of which it was made.
    - `layout`: where the visual tokens of the last prompt were.
    - `expand(logits)`: logits of a shortened sequence at their places in the full one.
    - `show(path)`: the pictures with kept, merged and dropped patches.

    A run inside another on the same model replaces it until it ends.
    """

    def __init__(
        self,
        model: nn.Module,
        pipeline: Pipeline,
        positions: Positions | None = None,
        roles: RolePolicy = BY_CARD,
        processor: Any = None,
        text_tower: TextTower | None = None,
    ) -> None:
        self.model = model
        self.pipeline = pipeline
        self._adapter = find_adapter(model)
        check_one_process(model)
        check_recipes(pipeline, model, self._adapter)
        self._plan: Plan = make_plan(self._adapter, pipeline, positions, roles)
        companions = companions_of(model, processor, text_tower)
        for part in pipeline.parts:
            companions.check(part.method, self._adapter.info)
        self._number = next(_numbers)
        self._wiring = Wiring(model, self._adapter, self._plan, companions, self._number)

    # -- life --------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Run:
        stack = _active.setdefault(self._adapter.entry, [])
        if self in stack:
            raise UnsupportedError("this run is already active; make another with tessella.reduce.")
        if stack:
            stack[-1]._wiring.uninstall()
        stack.append(self)
        try:
            self._wiring.install()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        stack = _active.get(self._adapter.entry, [])
        if self not in stack:
            return
        was_innermost = stack[-1] is self
        stack.remove(self)
        self._wiring.uninstall()
        if stack and was_innermost:
            stack[-1]._wiring.install()
        if not stack:
            _active.pop(self._adapter.entry, None)

    # -- what a user asks --------------------------------------------------------------------------------------------

    @property
    def number(self) -> int:
        """What tells the caches of this run from those of others."""
        return self._number

    @property
    def report(self) -> Report:
        for prompt in self._wiring.unsummed:
            self._wiring.totals.add(prompt.record())
        self._wiring.unsummed.clear()
        totals = self._wiring.totals
        budgets = [str(p.budget) for p in self.pipeline.parts if p.budget]
        ratio = totals.tokens_kept / totals.tokens_in if totals.tokens_in else 1.0
        last = self._wiring.prompt
        used = {s.positions for s in last.segments[1:]} if last else set()
        if last and last.rewrite:
            used.add("compact")  # what follows a smaller picture moves up
        return Report(
            pipeline=str(self.pipeline),
            positions="/".join(sorted(used)) or "original",
            requested=" | ".join(budgets) or "everything the method decides",
            prompts=totals.prompts,
            tokens_in=totals.tokens_in,
            tokens_kept=totals.tokens_kept,
            keep_ratio=ratio,
            mean_keep_ratio=mean_keep_ratio(totals.layers, totals.tokens_in) if totals.tokens_in else 1.0,
            layers=tuple(totals.layers),
            cache_bytes=totals.cache_bytes,
            full_cache_bytes=totals.full_cache_bytes,
            decoded_tokens=totals.decoded_tokens,
            ms=self._wiring.stopwatch.milliseconds(),
            notes=self._plan.notes,
            last=totals.last,
            roles=dict(totals.roles),
        )

    @property
    def kept(self) -> list[list[Tensor]]:
        return self._last().kept()

    @property
    def merged(self) -> list[list[Tensor]]:
        return self._last().merged()

    @property
    def cuts(self) -> list[Remainder]:
        """For the last prompt what each cut has left, in order; the last one is `kept` and `merged`."""
        return self._last().remainders()

    @property
    def layout(self) -> Layout:
        return self._last().layout

    @property
    def num_cuts(self) -> int:
        """Cuts made in the last prompt; 0 before the first."""
        return len(self._wiring.prompt.decisions) if self._wiring.prompt else 0

    @property
    def num_rewrites(self) -> int:
        """Prompts that the pipeline's rewriting methods were shown so far, changed or not."""
        return self._wiring.num_rewrites

    @property
    def is_rewritten(self) -> bool:
        """True if the model read other pictures than the last prompt held."""
        return self._last().rewrite is not None

    @property
    def pictures(self) -> list[Image.Image]:
        """The last prompt's pictures, tiles and frames as the encoder got them, restored from pixels.

        One for each grid that has patches; what only pads the tiles of a mosaic is cut off.
        """
        return restored(self._adapter, self._last().pictures)

    @property
    def blocks(self) -> list[list[tuple[Block, ...]]]:
        """For the last prompt, per row and image, the grids through which `kept` and `merged` count."""
        rows = self._last().layout.blocks
        return [[tuple(b for b in row if b.image == i) for i in sorted({b.image for b in row})] for row in rows]

    def next_turn(self, inputs: Mapping[str, Any], cache: Cache | None = None) -> dict[str, Any]:
        """Arguments of `generate` or `forward` for the next turn of the last prompt's conversation.

        `inputs`: those of the whole conversation, as the processor makes them, with its pictures or without. `cache`:
        what the last turn returned. Where no method of the pipeline asks the question, its decision stands and the turn
        goes on from the cache. Otherwise the conversation is read anew and every method decides again, on the features
        of all visual tokens, which the run has kept: nothing is encoded twice.

        Raises UnsupportedError where the pictures were not encoded in this run's last prompt.
        """
        out = {k: v for k, v in inputs.items() if k not in {m.pixels for m in self._adapter.modalities.values()}}
        if cache is not None and not any(p.method.card.prompt_dependent for p in self.pipeline.parts):
            name = (
                "cache" if "cache" in inspect.signature(self._adapter.entry.forward).parameters else "past_key_values"
            )
            return {**out, name: cache}
        if not self._wiring.aside:
            raise UnsupportedError(
                "next_turn goes on from a prompt with pictures that this run has read; there is none yet."
            )
        return {**out, "mm_encoder_outputs": {n: copy.copy(o) for n, o in self._wiring.aside.items()}}

    def expand(self, logits: Tensor, fill: float = float("nan")) -> Tensor:
        """Logits `[B, R, C]` of the last prompt's shortened sequence as `[B, S, C]`; dropped places hold `fill`.

        So do the placeholders of a picture that was rewritten, which have no counterpart.
        """
        prompt = self._last()
        segment, length = prompt.segments[-1], prompt.full_length
        if logits.shape[:2] != segment.places.shape:
            raise UnsupportedError(
                f"expand takes the logits of the whole shortened prompt, [B, R] = {tuple(segment.places.shape)}; "
                f"got {tuple(logits.shape[:2])}."
            )
        out = torch.full((len(logits), length + 1, logits.shape[2]), fill, dtype=logits.dtype, device=logits.device)
        places = segment.places if prompt.rewrite is None else prompt.rewrite.places(segment.places)
        places = torch.where(places < 0, length, places)
        if segment.padded is not None:
            places = torch.where(segment.padded, length, places)
        index = places.to(logits.device)[:, :, None].expand_as(logits)
        return out.scatter(1, index, logits)[:, :length]

    def show(self, path: str | Path, images: Any = None, caption: str | None = None) -> Image.Image:
        """Save the last prompt's pictures with kept, merged and dropped patches; also returned.

        `images`: the original pictures of the batch in prompt order; by default they are restored from the pixels.
        Where methods rewrite pictures, those that the model saw are drawn, and there is nothing to give.
        """
        prompt = self._last()
        if images is not None and prompt.rewrite is not None:
            raise UnsupportedError("the model saw other pictures than the originals; leave images out to draw those.")
        blocks = [mine for row in self.blocks for mine in row]
        kept = [k for row in prompt.kept() for k in row]
        merged = [m for row in prompt.merged() for m in row]
        if images is None:
            left = iter(self.pictures)
            pictures: list[Any] = [[next(left) for b in mine if b.columns] for mine in blocks]
        else:
            pictures = list(images)
            if len(pictures) != len(blocks):
                raise UnsupportedError(f"show needs {len(blocks)} pictures for the last prompt; got {len(pictures)}.")
        text = f"{self.pipeline}: {sum(map(len, kept))} of {sum(prompt.full_layout.num_tokens)} visual tokens kept"
        if prompt.rewrite is not None:
            text += f"\n{seen_at([p for mine in pictures for p in mine])}"
        text = caption or text
        sheet = drawing.draw_prompt(pictures, blocks, kept, merged, text)
        save_picture(sheet, path)
        return sheet

    def _last(self) -> Prompt:
        if self._wiring.prompt is None:
            raise UnsupportedError("no prompt with pictures has been read under this run yet.")
        return self._wiring.prompt


def check_one_process(model: nn.Module) -> None:
    """Raise UnsupportedError for a model whose attention heads are spread over processes."""
    count = max((getattr(m, "_tp_size", None) or 1 for m in model.modules()), default=1)
    if count > 1:
        raise UnsupportedError(
            f"this model is tensor-parallel over {count} processes: each sees some of the attention heads and would "
            "choose other tokens. Load it in one process; device_map may spread it over devices."
        )


def active_run(model: nn.Module) -> Run | None:
    """The innermost run on a model."""
    stack = _active.get(find_adapter(model).entry)
    return stack[-1] if stack else None
