"""Timed passes of one model over one batch: encoding, the language model's prefill with and without cuts, decoding."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from cases import Case
from torch import Tensor, nn
from transformers import DynamicCache, LlavaForConditionalGeneration

import tessella
from tessella.bench.oracle import cache_name, sliced

Times = dict[str, float]  # milliseconds by part


class Passes:
    """A model, a batch of prompts that differ in text alone, and what one pass over them costs.

    Pictures are encoded once by each method, inside a run of it, so that the times of the language model hold no
    encoder and every method finds what it reads of it. Every pass starts on an empty cache.
    """

    def __init__(self, model: LlavaForConditionalGeneration, inputs: dict[str, Tensor], num_new: int) -> None:
        self.model, self.num_new = model, num_new
        self.ids, self.mask, self.pixels = (inputs[n] for n in ("input_ids", "attention_mask", "pixel_values"))
        self.num_visual = int((self.ids[0] == model.config.image_token_id).sum())
        self.first = int((self.ids[0] == model.config.image_token_id).nonzero()[0])
        self._cache_name = cache_name(model)
        self._plain = self.encode(None)[1]
        self._encoded: dict[str, Any] = {}

    @property
    def num_text(self) -> int:
        return self.ids.shape[1] - self.num_visual

    def encode(self, case: Case | None) -> tuple[float, Any]:
        """Milliseconds of the encoder and connector under a case's run, or of the untouched ones; and their output."""
        with ExitStack() as stack:
            if case is not None:
                stack.enter_context(_run(self.model, case))
            begin = self._now()
            output = self.model.model.get_image_features(pixel_values=self.pixels, return_dict=True)
            return self._now() - begin, output

    def plain(self, lengths: Sequence[int] = (), decode: bool = False) -> Times:
        """The untouched model on the full prompt, or the oracle whose decoder layers hold `lengths` tokens.

        The oracle reads a prompt as short as its first layer's from the start, and slices the sequence bare in front
        of each layer where it gets shorter. Nothing is scored or selected, and nothing of tessella runs.
        """
        length = lengths[0] if lengths else self.ids.shape[1]
        kept = length - self.num_text
        last = self.first + self.num_visual
        ids = torch.cat([self.ids[:, : self.first + kept], self.ids[:, last:]], dim=1)
        encoded = type(self._plain)(**self._plain)
        encoded.pooler_output = [features[:kept] for features in self._plain.pooler_output]
        with sliced(self.model.model.language_model.layers, lengths or [length]):
            ms, cache, token = self._prefill(ids, self.mask[:, :length], mm_encoder_outputs={"image": encoded})
            times = {"language_model": ms, "prefill": ms}
            if decode:
                times["decode"] = self._decode(cache, token)
        return times

    def reduced(self, case: Case, decode: bool = False) -> tuple[Times, tuple[int, ...]]:
        """The model under a case's run, and the tokens that each decoder layer's cache holds after the prefill.

        `language_model` is the whole prefill; `score`, `select` and `prefill` are its parts.
        """
        if case.method not in self._encoded:
            self._encoded[case.method] = self.encode(case)[1]
        with _run(self.model, case) as run:
            given = {"mm_encoder_outputs": {"image": self._encoded[case.method]}}
            ms, cache, token = self._prefill(self.ids, self.mask, **given)
            parts = run.report.ms
            times = {"language_model": ms, "score": parts["score"], "select": parts["select"]}
            times["prefill"] = ms - parts["score"] - parts["select"]
            lengths = run.report.last.cache_lengths
            if decode:
                times["decode"] = self._decode(cache, token)
        return times, lengths

    def whole(self, case: Case | None, decode: bool = False) -> Times:
        """From pixels to the first token: what a method that changes the encoder's input is compared by."""
        with ExitStack() as stack:
            if case is not None:
                stack.enter_context(_run(self.model, case))
            ms, cache, token = self._prefill(self.ids, self.mask, pixel_values=self.pixels)
            times = {"whole": ms}
            if decode:
                times["decode"] = self._decode(cache, token)
        return times

    def _prefill(self, ids: Tensor, mask: Tensor, **pictures: Any) -> tuple[float, DynamicCache, Tensor]:
        cache = DynamicCache(config=self.model.model.language_model.config)
        given = {"input_ids": ids, "attention_mask": mask, self._cache_name: cache, **pictures}
        begin = self._now()
        out = self.model(**given, use_cache=True, logits_to_keep=1)
        return self._now() - begin, cache, out.logits[:, -1:].argmax(dim=-1)

    def _decode(self, cache: DynamicCache, token: Tensor) -> float:
        """Milliseconds of `num_new` tokens on a cache, whatever they are."""
        begin = self._now()
        for _ in range(self.num_new):
            out = self.model(input_ids=token, **{self._cache_name: cache}, use_cache=True, logits_to_keep=1)
            token = out.logits[:, -1:].argmax(dim=-1)
        return self._now() - begin

    def _now(self) -> float:
        """Milliseconds, once the device has done what it was given."""
        if self.ids.device.type == "cuda":
            torch.cuda.synchronize(self.ids.device)
        return time.perf_counter() * 1000


def _run(model: nn.Module, case: Case) -> Any:
    return tessella.reduce(model, case.pipeline, keep=case.keep)
