"""A batch of questions: drawn, encoded once for all settings that can share it, and answered under each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from ..app.prompting import prepare_parts
from ..core.errors import UnsupportedError
from ..engine.apply import reduce
from ..engine.encoder import encode_once
from ..engine.run import Run
from ..engine.timing import Stopwatch
from ..models.adapter import find_adapter
from ..models.placing import layout_of
from .entries import Entry
from .ledger_tables import PARTS
from .records import Record, Setting
from .task import Asked, Clip, Part, Task

MOST = 1.25  # pixels of the largest pictures in a batch, over those of its smallest


@dataclass
class Prepared:
    """A batch's inputs, and one pass of the encoder over its pictures for all entries that can share it."""

    asked: list[Asked]
    inputs: dict[str, Any]
    num_visual: tuple[int, ...]
    encoded: dict[str, Any] | None = None
    encode_ms: float = 0.0
    sharing: frozenset[str] = field(default_factory=frozenset)


def by_shape(asked: Sequence[Asked]) -> list[list[Asked]]:
    """Questions in groups whose pictures have about as many pixels: little of a batch is padding.

    Groups and their members depend on the questions alone.
    """
    pixels = {id(a): sum(p.width * p.height for p in _flat(a.parts) if not isinstance(p, str)) for a in asked}
    groups: list[list[Asked]] = []
    for one in sorted(asked, key=lambda a: pixels[id(a)]):
        if groups and pixels[id(one)] <= MOST * pixels[id(groups[-1][0])]:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def inputs_of(model: Any, processor: Any, task: Task, asked: Sequence[Asked]) -> dict[str, Any]:
    """The inputs of a batch. Frames of a clip are given as pictures."""
    return dict(prepare_parts(model, processor, [_flat(a.parts) for a in asked], task.max_new_tokens))


def prepare_batch(
    model: Any, processor: Any, task: Task, asked: Sequence[Asked], entries: Sequence[Entry], share: bool = True
) -> Prepared:
    """Make a batch's inputs, and encode its pictures once for the entries that do not rewrite them."""
    inputs = inputs_of(model, processor, task, asked)
    layout = layout_of(find_adapter(model), inputs)
    if layout is None:
        raise UnsupportedError(f"the questions of {task.id} have no picture, so there is nothing to measure.")
    prepared = Prepared(list(asked), inputs, layout.num_tokens)
    sharing = [entry for entry in entries if share and not entry.rewrites]
    if sharing:
        stopwatch = Stopwatch()
        with torch.inference_mode():
            prepared.encoded = encode_once(model, inputs, [e.pipeline for e in sharing], stopwatch)
        prepared.encode_ms = stopwatch.milliseconds()["encode"]
        prepared.sharing = frozenset(e.setting.key for e in sharing)
    return prepared


def answer_batch(model: Any, processor: Any, task: Task, prepared: Prepared, entry: Entry) -> list[Record]:
    """One record for each question of a batch under one setting."""
    given = dict(prepared.inputs)
    shares = entry.setting.key in prepared.sharing
    if shares:
        assert prepared.encoded is not None
        for modality in find_adapter(model).modalities.values():
            given.pop(modality.pixels, None)
        given["mm_encoder_outputs"] = dict(prepared.encoded)
    with reduce(model, entry.pipeline) as run, torch.inference_mode():
        out = model.generate(**given, max_new_tokens=task.max_new_tokens, do_sample=False, num_beams=1)
    new = out[:, prepared.inputs["input_ids"].shape[1] :]
    answers = processor.tokenizer.batch_decode(new, skip_special_tokens=True)
    encode_ms = prepared.encode_ms if shares else None
    return _records(prepared, entry.setting, task, [a.strip() for a in answers], run, encode_ms)


def _records(
    prepared: Prepared, setting: Setting, task: Task, answers: Sequence[str], run: Run, encode_ms: float | None
) -> list[Record]:
    report = run.report
    last, size = report.last, len(answers)
    if last is None:
        raise UnsupportedError(f"'{setting.pipeline}' read no prompt with pictures, so there is nothing to measure.")
    ms = {part: report.ms[part] / size for part in PARTS}
    if encode_ms is not None:
        ms["encode"] = encode_ms / size
    out = []
    for row, asked in enumerate(prepared.asked):
        there, read = prepared.num_visual[row], sum(last.tokens_in[row])  # a rewritten prompt may hold fewer
        out.append(
            Record(
                setting=setting.key,
                kind=asked.kind,
                number=asked.number,
                answer=answers[row],
                truth=asked.truth,
                score=task.score(answers[row], asked.truth),
                tokens_in=there,
                tokens_kept=sum(last.tokens_kept[row]),
                mean_keep_ratio=last.mean_keep_ratios[row] * read / there,
                cache_bytes=report.cache_bytes // size,
                ms=ms,
            )
        )
    return out


def _flat(parts: Sequence[Part]) -> list[str | Image.Image]:
    return [p for part in parts for p in (part.frames if isinstance(part, Clip) else (part,))]
