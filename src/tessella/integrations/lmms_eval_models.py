"""The model `tessella` of lmms-eval: as a chat model, and as a simple one for tasks that compare likelihoods."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from tqdm import tqdm

from ..core.errors import UnsupportedError
from .answerer import Tally, load_answerer
from .conversations import Message, Prompt, Writer
from .decoding import read_decoding
from .model_args import read_model_args

PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tiff", ".webp")  # other files are clips
MARKER = "<image>"  # of lmms-eval: where in a simple task's text a picture goes


class _Tessella(lmms):
    """What both have in common: loading, batches, and what is left in lmms-eval's records."""

    def __init__(self, **given: Any) -> None:
        super().__init__()
        args = read_model_args({"device": _own_device(), **given})
        self._answerer = load_answerer(args)
        self._writer = Writer(self._answerer.processor, args.max_num_frames, args.system_prompt)
        self.batch_size = args.batch_size
        self.device = self._answerer.model.device

    def asked(self, request: Instance) -> tuple[list[Message], dict[str, Any]]:
        """A generation request's conversation and its `generation_kwargs`."""
        raise NotImplementedError

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answers with the tokens written, and the tokens of the prompt that the pipeline left."""
        results: dict[int, GenerationResult] = {}
        conversations = (self.asked(request) for request in requests)
        asked = ((self._writer.write(messages), read_decoding(settings)) for messages, settings in conversations)
        with tqdm(total=len(requests), disable=self.rank != 0, desc="Tessella") as bar:
            for number, reply in self._answerer.answer_all(asked, self.batch_size):
                counts = TokenCounts(input_tokens=reply.num_read, output_tokens=reply.num_written)
                results[number] = GenerationResult(reply.text, counts)
                bar.update()
        self._record()
        return [results[number] for number in range(len(requests))]

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        raise UnsupportedError(
            "lmms-eval sends tasks that compare likelihoods to simple models only: add --force_simple."
        )

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise UnsupportedError("tasks of several rounds are not supported by the model 'tessella' of lmms-eval.")

    def clean(self) -> None:
        del self._answerer
        super().clean()

    def _doc(self, doc_id: Any, task: str, split: str) -> Any:
        return self.task_dict[task][split][doc_id]

    def _record(self) -> None:
        """Hand over times and counts since the last call, and begin anew."""
        tally = self._answerer.tally
        log_metrics(
            total_elapsed_time=tally.seconds,
            total_gen_tokens=tally.written,
            avg_speed=tally.written / tally.seconds if tally.seconds else 0.0,
            additional_metrics={"pipeline": str(self._answerer.pipeline), **tally.means()},
        )
        self._answerer.tally = Tally()


class TessellaChat(_Tessella):
    """Reads conversations with pictures and clips where the task puts them."""

    is_simple = False

    def asked(self, request: Instance) -> tuple[list[Message], dict[str, Any]]:
        _, to_messages, settings, *place = request.args
        return to_messages(self._doc(*place)), settings


class TessellaSimple(_Tessella):
    """Reads a text and a list of pictures and clips; compares likelihoods too."""

    is_simple = True

    def asked(self, request: Instance) -> tuple[list[Message], dict[str, Any]]:
        context, settings, to_visual, *place = request.args
        return _conversation(context, to_visual(self._doc(*place))), settings

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """The mean loss of each answer, of which lmms-eval takes the smallest, and whether it is the greedy one.

        As a result's text: lmms-eval 0.7 turns a bare pair into the text of a pair, and cannot read it.
        """
        results = []
        for request in tqdm(requests, disable=self.rank != 0, desc="Tessella"):
            context, answer, to_visual, *place = request.args
            doc = self._doc(*place)
            prompt: Prompt = self._writer.write(_conversation(context, to_visual(doc)))
            pair = self._answerer.loss(prompt, answer if isinstance(answer, str) else answer(doc))
            results.append(GenerationResult(pair))
        self._record()
        return results


def _conversation(context: str, visuals: list[Any] | None) -> list[Message]:
    """One message: what is seen stands at the markers of the text where there are as many, else in front of it."""
    seen = [_part(visual) for visual in visuals or ()]
    texts = [{"type": "text", "text": text} for text in context.split(MARKER)]
    if not seen or len(texts) != len(seen) + 1:
        return [{"role": "user", "content": [*seen, {"type": "text", "text": context}]}]
    between = [part for pair in zip(texts, seen, strict=False) for part in pair]
    return [{"role": "user", "content": [part for part in [*between, texts[-1]] if part.get("text") != ""]}]


def _part(visual: Any) -> dict[str, Any]:
    is_clip = isinstance(visual, str) and Path(visual).suffix.lower() not in PICTURES
    return {"type": "video" if is_clip else "image", "url": visual}


def _own_device() -> str | None:
    """The GPU of this process where several were started, one a GPU."""
    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if rank is not None and torch.cuda.is_available() else None
