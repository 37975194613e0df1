"""COCO captions: describe a photograph in one sentence, without objects that are not there."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import InputError
from ..task import Answered
from .loading import HubSet, Row
from .scoring.chair import chair, named_objects
from .scoring.cider import cider_d
from .scoring.rouge_l import rouge_l


@dataclass(frozen=True)
class COCOCaptions(HubSet):
    """Photographs of everyday scenes, each with five or more captions by people.

    Set      Lin et al., ECCV 2014, arXiv:1405.0312, and Chen et al., arXiv:1504.00325; the 5,000 pictures of val2017
    Prompt   that of lmms-eval's task `coco2017_cap_val`
    Score    ROUGE-L, a value of one caption by itself; CIDEr-D is one of all captions together
    Metrics  CIDEr-D (10 at most; papers write 100 times of it), ROUGE-L and, with `instances`, CHAIR of sentences and
             of instances (Rohrbach et al., EMNLP 2018, arXiv:1809.02156), where less is better
    Differs  words are told apart without Stanford's tokenizer (`caption_words`), and objects are named by a list of our
             own (`coco_objects`). As in the authors' CHAIR a picture has what its annotations and its captions name;
             `instances` is COCO's file instances_val2017.json, without which there is no CHAIR
    """

    instances: str | Path | None = None  # COCO's annotations of objects

    title = "COCO captions"
    metric = "ROUGE-L"
    max_new_tokens = 64
    repository = "lmms-lab-encoder/COCO-Caption2017"
    revision = "3bdd5827e243cc3084ac69a1111e69c3ab9193ff"
    split = "val"
    columns = ("question_id", "answer")
    instruction = "Provide a one-sentence caption for the provided image."

    def prompt(self, row: Row) -> str:
        return self.instruction

    def truth(self, row: Row) -> str:
        captions = list(row["answer"])
        true: dict[str, Any] = {"captions": captions}
        if self.instances is not None:
            told = {name for caption in captions for name in named_objects(caption)}
            true["objects"] = sorted(told | self._objects[_picture_id(row["question_id"])])
        return json.dumps(true)

    def score(self, answer: str, truth: str) -> float:
        return rouge_l(answer, json.loads(truth)["captions"])

    def metrics(self, answers: Sequence[Answered]) -> dict[str, float]:
        if not answers:
            return {}
        captions, truths = [a.answer for a in answers], [json.loads(a.truth) for a in answers]
        cider = float(np.mean(cider_d(captions, [true["captions"] for true in truths])))
        out = {"CIDEr-D": cider, **super().metrics(answers)}
        if self.instances is not None:
            shares = chair(captions, [true["objects"] for true in truths])
            out |= {"CHAIR of sentences": shares.sentences, "CHAIR of instances": shares.instances}
        return out

    def facts(self) -> dict[str, Any]:
        """Those of every set; of the annotations a digest, or None."""
        digest = None if self.instances is None else hashlib.sha256(self._annotations).hexdigest()[:16]
        return {**super().facts(), "options": {"instances": digest}}

    @cached_property
    def _annotations(self) -> bytes:
        try:
            return Path(str(self.instances)).read_bytes()
        except OSError as error:
            raise InputError(
                f"{self.title}: instances cannot be read from {str(self.instances)!r}: {error.strerror}."
            ) from None

    @cached_property
    def _objects(self) -> defaultdict[int, set[str]]:
        """The classes that are annotated in each picture, by its number. Raises InputError for another kind of file."""
        content, found = self._annotations, defaultdict[int, set[str]](set)
        try:
            read = json.loads(content)
            names = {category["id"]: category["name"] for category in read["categories"]}
            for annotation in read["annotations"]:
                found[annotation["image_id"]].add(names[annotation["category_id"]])
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{self.title}: instances must be COCO's instances_val2017.json; got {str(self.instances)!r}."
            ) from None
        return found


def _picture_id(name: str) -> int:
    """The number in a file's name: 139 for "000000000139.jpg"."""
    return int(Path(name).stem.rpartition("_")[2])
