"""A loaded model with one pipeline: answers to prompts in batches, losses of given answers, and what was kept."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..app.prompting import read_prompts
from ..core.cards import Positions
from ..core.errors import InputError
from ..core.pipeline import Pipeline
from ..engine.apply import reduce
from ..engine.run import Run
from ..loading import load, load_text_tower
from .conversations import Prompt
from .decoding import Decoding, read_decoding
from .model_args import ModelArgs

Asked = tuple[Prompt, Decoding]


@dataclass(frozen=True)
class Reply:
    """One answer: its text, the tokens that it took, and those of the prompt that were left to the language model."""

    text: str
    num_written: int
    num_read: int


@dataclass
class Tally:
    """Sums over all prompts so far."""

    prompts: int = 0
    written: int = 0
    visual: int = 0
    kept: int = 0
    layers_kept: float = 0.0  # visual tokens on the mean over decoder layers
    seconds: float = 0.0

    def means(self) -> dict[str, float]:
        """Visual tokens of a prompt, on the mean."""
        count = max(self.prompts, 1)
        return {
            "visual_tokens": self.visual / count,
            "visual_tokens_kept": self.kept / count,
            "visual_tokens_kept_over_layers": self.layers_kept / count,
        }


class Answerer:
    """A loaded model under one pipeline. Raises what `tessella.reduce` raises, before any prompt is read."""

    def __init__(
        self, model: Any, processor: Any, pipeline: Pipeline, positions: Positions | None = None, text_tower: Any = None
    ) -> None:
        self.model, self.processor, self.pipeline = model, processor, pipeline
        self._positions, self._tower = positions, text_tower
        self.tally = Tally()
        self._run()

    def answer_all(self, asked: Iterable[Asked], batch_size: int) -> Iterator[tuple[int, Reply]]:
        """Replies to prompts with the number of each, in the order in which batches fill up."""
        for numbers, prompts, decoding in in_batches(asked, batch_size):
            yield from zip(numbers, self.answer(prompts, decoding), strict=True)

    def answer(self, prompts: Sequence[Prompt], decoding: Decoding) -> list[Reply]:
        """Answers to prompts with as many pictures and clips each, as one batch, padded on the left."""
        inputs = self._inputs(prompts, decoding.max_new_tokens)
        start = time.perf_counter()
        run = self._run()
        with run, torch.inference_mode():
            out = self.model.generate(**inputs, **decoding.options)
        self.tally.seconds += time.perf_counter() - start
        new = out[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.tokenizer.batch_decode(new, skip_special_tokens=True)
        written = self._count_written(new)
        self.tally.written += sum(written)
        left = self._count(run, inputs)
        return [Reply(decoding.cut(text), *counts) for text, *counts in zip(texts, written, left, strict=True)]

    def loss(self, prompt: Prompt, answer: str) -> tuple[float, bool]:
        """Mean negative log-likelihood of an answer's tokens, and whether greedy decoding would write it.

        The pipeline decides on the prompt alone, as it does when the model writes: the answer is written token by token
        instead of what the model prefers. Raises InputError for an answer without tokens.
        """
        ids = self._answer_ids(prompt.text, answer)
        inputs = self._inputs([prompt], len(ids))
        start = time.perf_counter()
        run = self._run()
        with run, torch.inference_mode():
            out = self.model.generate(
                **inputs,
                **read_decoding({"max_new_tokens": len(ids), "min_new_tokens": len(ids)}).options,
                logits_processor=[_Dictation(ids)],
                output_logits=True,
                return_dict_in_generate=True,
            )
        self.tally.seconds += time.perf_counter() - start
        self._count(run, inputs)
        logits = torch.cat(out.logits).float()
        loss = torch.nn.functional.cross_entropy(logits, ids)
        return float(loss), bool((logits.argmax(dim=-1) == ids).all())

    def _run(self) -> Run:
        return reduce(
            self.model, self.pipeline, positions=self._positions, processor=self.processor, text_tower=self._tower
        )

    def _inputs(self, prompts: Sequence[Prompt], max_new_tokens: int) -> Any:
        more: dict[str, Any] = {}
        clips = [clip for prompt in prompts for clip in prompt.clips]
        if clips:
            more["videos"] = [np.stack([np.asarray(picture) for picture in clip.pictures]) for clip in clips]
            more["video_metadata"] = [clip.facts for clip in clips]
            more["do_sample_frames"] = False
        pictures = [p.pictures for p in prompts]
        return read_prompts(self.model, self.processor, [p.text for p in prompts], pictures, max_new_tokens, **more)

    def _answer_ids(self, prompt: str, answer: str) -> torch.Tensor:
        """The tokens [A] that an answer adds to a prompt's."""
        tokenizer = self.processor.tokenizer
        before, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, prompt + answer))
        if len(after) <= len(before):
            raise InputError(f"the answer {answer!r} adds no tokens to its prompt, so it has no likelihood.")
        return torch.tensor(after[len(before) :], device=self.model.device)

    def _count_written(self, new: torch.Tensor) -> list[int]:
        """Tokens of each row up to its end, which is not counted."""
        ends = self.model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        rows = [row.tolist() for row in new]
        return [next((i for i, token in enumerate(row) if token in ends), len(row)) for row in rows]

    def _count(self, run: Run, inputs: Any) -> list[int]:
        """Add a run's prompts to the tally. Returns the tokens of each that were left after the last cut."""
        there = inputs["attention_mask"].sum(dim=1).tolist()
        self.tally.prompts += len(there)
        last = run.report.last
        if last is None:  # no pictures
            return [int(n) for n in there]
        beams = len(last.tokens_in) // len(there)  # each row is repeated for them
        visual, kept = ([sum(row) for row in rows[::beams]] for rows in (last.tokens_in, last.tokens_kept))
        ratios = last.mean_keep_ratios[::beams]
        self.tally.visual += sum(visual)
        self.tally.kept += sum(kept)
        self.tally.layers_kept += sum(n * ratio for n, ratio in zip(visual, ratios, strict=True))
        return [int(n - v + k) for n, v, k in zip(there, visual, kept, strict=True)]


class _Dictation:
    """A logits processor for one call of `generate`, which then writes the tokens `ids` [A]."""

    def __init__(self, ids: torch.Tensor) -> None:
        self._left = iter(ids)

    def __call__(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        dictated = torch.full_like(scores, -float("inf"))
        dictated[:, next(self._left)] = 0.0
        return dictated


def load_answerer(args: ModelArgs) -> Answerer:
    """Load what the arguments of a plug-in say. Raises what `tessella.load` and `tessella.reduce` raise."""
    model, processor = load(args.pretrained, args.dtype, args.device)
    name = args.attn_implementation
    if name is not None:
        try:
            model.set_attn_implementation(name)
        except (ImportError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"attn_implementation={name!r} cannot be used here: {reason}") from error
    tower = load_text_tower(args.text_tower, args.device) if args.text_tower else None
    return Answerer(model, processor, args.resolved(), args.positions, tower)


def in_batches(asked: Iterable[Asked], size: int) -> Iterator[tuple[list[int], list[Prompt], Decoding]]:
    """Numbers and prompts of at most `size` that can be answered together, taken from `asked` one by one.

    They are decoded alike and hold as many pictures, clips and frames; of each such sort one batch is filled at a time.
    """
    open_batches: dict[str, tuple[list[int], list[Prompt], Decoding]] = {}
    for number, (prompt, decoding) in enumerate(asked):
        sort = repr((decoding, len(prompt.pictures), [len(clip.pictures) for clip in prompt.clips]))
        numbers, prompts, _ = open_batches.setdefault(sort, ([], [], decoding))
        numbers.append(number)
        prompts.append(prompt)
        if len(numbers) == size:
            yield open_batches.pop(sort)
    yield from open_batches.values()
