"""Prompts read in batches: under each pipeline its own, on features that all of them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...app.showing import shown_of
from ...core.errors import TessellaError
from ...engine.apply import reduce
from ...engine.encoded import Encoded, put_together
from ...engine.joining import Held, Writer, hold, join, shorten, take
from ...engine.run import Run
from ...engine.timing import Stopwatch
from ...models.adapter import find_adapter
from ..contract import Reading
from ..settings import WorkerSettings
from .bounded import Bounded
from .features import Features
from .prompts import Prepared, batch

_PARTS = ("encode", "score", "select", "prefill")


@dataclass(frozen=True, eq=False)
class Read:
    """Prompts that were read together: a row of `held` and of `logits` for each, which are those behind the prompt."""

    prepared: tuple[Prepared, ...]
    readings: tuple[Reading, ...]
    held: Held
    logits: Float[Tensor, "B C"]


@dataclass(frozen=True, eq=False)
class _Picture:
    """The cache of a prompt up to its last picture, under a pipeline that does not read what follows."""

    held: Held
    reading: Reading


class Reader:
    """Reads prompts. `writer` goes on with those whose pictures were read before."""

    def __init__(self, model: Any, processor: Any, writer: Writer, settings: WorkerSettings) -> None:
        self._model, self._processor, self._writer = model, processor, writer
        self._pad = model.generation_config.pad_token_id or 0
        self._marker = getattr(model.config, "image_token_id", None)
        self._features = Features(model, settings.feature_cache_bytes, self._pad)
        self._pictures: Bounded[Any, _Picture] = Bounded(settings.prompt_cache_bytes)
        adapter = find_adapter(model)
        self._encodes_pictures = "image" in adapter.modalities
        self._pixels = {m.pixels for m in adapter.modalities.values()}
        self._forgets = any(adapter.mask_rule(n) is not None for n in range(len(adapter.decoder_layers)))

    def read(self, prepared: Sequence[Prepared]) -> list[tuple[Prepared, Read | TessellaError]]:
        """Each question with what it was read in, or with the reason why it cannot be.

        A batch that fails is read question by question, so that only those fail that have to.
        """
        out: list[tuple[Prepared, Read | TessellaError]] = []
        for shape in _grouped(prepared, lambda p: p.shape):
            features = self._encode(shape)
            for group in _grouped(shape, self._route):
                out += self._read_group(group, features)
        return out

    def _read_group(
        self, group: Sequence[Prepared], features: tuple[dict[str, Encoded], set[str], float]
    ) -> list[tuple[Prepared, Read | TessellaError]]:
        size = 1 if self._forgets else len(group)
        out: list[tuple[Prepared, Read | TessellaError]] = []
        for first in range(0, len(group), size):
            some = group[first : first + size]
            try:
                is_known = all(self._known(one) for one in some)  # a group read before may have driven some out
                read = self._go_on(some) if is_known else self._read_whole(some, *features)
            except TessellaError as error:
                if len(some) > 1:
                    return out + [pair for one in group for pair in self._read_group([one], features)]
                out.append((some[0], error))
            else:
                out += [(one, read) for one in some]
        return out

    def _encode(self, prepared: Sequence[Prepared]) -> tuple[dict[str, Encoded], set[str], float]:
        """Features of all pictures that can be shared; on an error none, and each prompt meets it by itself."""
        sharing = [p for p in prepared if p.picture_keys and not p.rewrites and self._known(p) is None]
        if not sharing or not self._encodes_pictures:
            return {}, set(), 0.0
        try:
            return self._features.of(sharing)
        except TessellaError:
            return {}, set(), 0.0

    def _read_whole(
        self, group: Sequence[Prepared], features: dict[str, Encoded], known: set[str], encode_ms: float
    ) -> Read:
        """Read the prompts of one pipeline as a batch."""
        first = group[0]
        inputs: dict[str, Any] = batch(group, self._pad)
        mask = inputs["attention_mask"]
        keys = [key for one in group for key in one.picture_keys]
        shares = bool(keys) and not first.rewrites and all(key in features for key in keys)
        if shares:
            inputs = {name: value for name, value in inputs.items() if name not in self._pixels}
            inputs["mm_encoder_outputs"] = {"image": put_together([features[key] for key in keys])}
        run = reduce(self._model, first.pipeline, positions=first.question.positions, processor=self._processor)
        with run:
            out = self._model.generate(
                **inputs,
                max_new_tokens=1,
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
                return_dict_in_generate=True,
                output_logits=True,
            )
        held = hold(getattr(out, "cache", None) or out.past_key_values, mask)
        ms = run.report.ms
        readings = []
        for row, one in enumerate(group):
            cached = shares and all(key in known for key in one.picture_keys)
            parts = {name: ms[name] for name in _PARTS} | ({"encode": 0.0 if cached else encode_ms} if shares else {})
            readings.append(self._reading(run, one, row, parts, "features" if cached else None))
        self._remember(group, held, readings)
        return Read(tuple(group), tuple(readings), held, out.logits[0].float())

    def _reading(self, run: Run, one: Prepared, row: int, ms: dict[str, float], cached: Any) -> Reading:
        report = run.report
        last, length = report.last, one.length
        if last is None:
            return Reading(length, 0, 0, 1.0, ms)
        shown = shown_of(run, self._processor, one.question.pictures, row) if one.question.show else None
        there, kept = sum(last.tokens_in[row]), sum(last.tokens_kept[row])
        return Reading(length, there, kept, last.mean_keep_ratios[row], ms, cached, report.notes, shown)

    # -- pictures that were read before --------------------------------------------------------------------------------

    def _route(self, one: Prepared) -> tuple[Any, ...]:
        return str(one.pipeline), one.question.positions, self._known(one) is not None

    def _known(self, one: Prepared) -> _Picture | None:
        return None if one.question.show or not self._is_reusable(one) else self._pictures.get(self._picture_key(one))

    def _is_reusable(self, one: Prepared) -> bool:
        """Whether what stands in front of the words is read alike whatever they are."""
        if not one.picture_keys or self._marker is None or self._pictures.limit == 0:
            return False
        sees_on = "token_type_ids" in one.inputs  # by which such families let pictures see what follows
        return not (self._forgets or sees_on or one.rewrites or one.asks_question) and self._num_words(one) > 0

    def _num_words(self, one: Prepared) -> int:
        """Tokens behind the last picture."""
        ids: list[int] = one.inputs["input_ids"][0].tolist()
        return ids[::-1].index(self._marker) if self._marker in ids else 0

    def _picture_key(self, one: Prepared) -> Any:
        begin = one.inputs["input_ids"][0, : one.length - self._num_words(one)]
        return str(one.pipeline), one.question.positions, one.picture_keys, begin.cpu().numpy().tobytes()

    def _remember(self, group: Sequence[Prepared], held: Held, readings: Sequence[Reading]) -> None:
        if not held.is_joinable:
            return
        for row, (one, reading) in enumerate(zip(group, readings, strict=True)):
            if self._is_reusable(one) and self._known(one) is None:
                picture = shorten(take(held, [row]), self._num_words(one))
                self._pictures.put(self._picture_key(one), _Picture(picture, reading), picture.num_bytes)

    def _go_on(self, group: Sequence[Prepared]) -> Read:
        """Read the words behind pictures that were read before."""
        pictures = [self._known(one) for one in group]
        held = join([p.held for p in pictures if p is not None])
        words = [one.inputs["input_ids"][0, one.length - self._num_words(one) :] for one in group]
        longest = max(map(len, words))
        tokens = torch.stack([torch.nn.functional.pad(w, (longest - len(w), 0), value=self._pad) for w in words])
        real = torch.stack([torch.arange(longest, device=w.device) >= longest - len(w) for w in words])
        stopwatch = Stopwatch()
        with stopwatch.clock("prefill", tokens.device):
            logits = self._writer.write(held, tokens, real)
        readings = []
        for one, picture in zip(group, pictures, strict=True):
            assert picture is not None
            before = picture.reading
            ms = dict.fromkeys(_PARTS, 0.0) | {"prefill": stopwatch.milliseconds()["prefill"]}
            counts = before.visual_tokens, before.visual_tokens_kept, before.mean_keep_ratio
            readings.append(Reading(one.length, *counts, ms, "prompt", before.notes))
        return Read(tuple(group), tuple(readings), held, logits.float())


def _grouped(prepared: Sequence[Prepared], key: Callable[[Prepared], Any]) -> list[list[Prepared]]:
    """Those with the same key together, in the order in which they came."""
    groups: dict[Any, list[Prepared]] = {}
    for one in prepared:
        groups.setdefault(key(one), []).append(one)
    return list(groups.values())
