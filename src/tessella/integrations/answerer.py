"""A loaded model with one pipeline: answers to prompts in batches, losses of given answers, and what was kept."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from ..app.prompting import read_prompts
from ..core.errors import InputError
from ..engine.apply import reduce
from ..engine.run import Run
from ..loading import load, load_text_tower
from .conversations import Prompt
from .decoding import Decoding
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
    """A model, its processor and a pipeline, as the arguments of a plug-in say.

    Raises what `tessella.load` and `tessella.reduce` raise, before any prompt is read.
    """

    def __init__(self, args: ModelArgs) -> None:
        self.model, self.processor = load(args.pretrained, args.dtype, args.device)
        if args.attn_implementation is not None:
            self._attend_by(args.attn_implementation)
        self.pipeline = args.resolved()
        self._tower = load_text_tower(args.text_tower, args.device) if args.text_tower else None
        self._positions = args.positions
        reads = inspect.signature(self.model.forward).parameters
        self._cache_name = "cache" if "cache" in reads else "past_key_values"  # until transformers 5.24
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

        The pipeline decides on the prompt alone, as it does when the model writes; the answer is read after that, on
        the cache. Raises InputError for an answer without tokens.
        """
        ids = self._answer_ids(prompt.text, answer)
        inputs = self._inputs([prompt], ids.shape[1])
        run = self._run()
        start = time.perf_counter()
        cache = {self._cache_name: DynamicCache(config=self.model.config.get_text_config(decoder=True))}
        with run, torch.inference_mode():
            logits = [self.model(**inputs, **cache, use_cache=True).logits[:, -1:]]
            if ids.shape[1] > 1:
                mask = torch.cat([inputs["attention_mask"], torch.ones_like(ids[:, 1:])], dim=1)
                logits.append(self.model(input_ids=ids[:, :-1], attention_mask=mask, **cache).logits)
        self.tally.seconds += time.perf_counter() - start
        self._count(run, inputs)
        scores = torch.cat(logits, dim=1).float()
        loss = torch.nn.functional.cross_entropy(scores[0], ids[0])
        return float(loss), bool((scores.argmax(dim=-1) == ids).all())

    def _run(self) -> Run:
        return reduce(
            self.model, self.pipeline, positions=self._positions, processor=self.processor, text_tower=self._tower
        )

    def _inputs(self, prompts: Sequence[Prompt], max_new_tokens: int) -> Any:
        more: dict[str, Any] = {}
        if any(p.clips for p in prompts):
            more["videos"] = [[list(c.pictures) for c in p.clips] for p in prompts]
            more["video_metadata"] = [[c.facts for c in p.clips] for p in prompts]
            more["do_sample_frames"] = False
        pictures = [p.pictures for p in prompts]
        return read_prompts(self.model, self.processor, [p.text for p in prompts], pictures, max_new_tokens, **more)

    def _answer_ids(self, prompt: str, answer: str) -> torch.Tensor:
        """The tokens [1, A] that an answer adds to a prompt's, [1, N]."""
        tokenizer = self.processor.tokenizer
        before, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, prompt + answer))
        if len(after) <= len(before):
            raise InputError(f"the answer {answer!r} adds no tokens to its prompt, so it has no likelihood.")
        return torch.tensor([after[len(before) :]], device=self.model.device)

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
        visual, kept = ([sum(row) for row in rows] for rows in (last.tokens_in, last.tokens_kept))
        self.tally.visual += sum(visual)
        self.tally.kept += sum(kept)
        self.tally.layers_kept += sum(n * ratio for n, ratio in zip(visual, last.mean_keep_ratios, strict=True))
        return [int(n - v + k) for n, v, k in zip(there, visual, kept, strict=True)]

    def _attend_by(self, name: str) -> None:
        try:
            self.model.set_attn_implementation(name)
        except (ImportError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"attn_implementation={name!r} cannot be used here: {reason}") from error


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
