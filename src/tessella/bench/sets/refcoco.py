"""RefCOCO: where is the object that a phrase describes?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..task import Answered, Asked
from .loading import HubSet
from .scoring.boxes import find_box, iou, to_shares


@dataclass(frozen=True)
class RefCOCO(HubSet):
    """Phrases by which players of a game told objects in COCO photographs apart; the answer is a box.

    Set      Kazemzadeh et al., EMNLP 2014, and Yu et al., ECCV 2016, arXiv:1608.00272; the validation split, one
             question a phrase
    Prompt   that of lmms-eval's task `refcoco_bbox_rec_val`: the form of the box, as shares of the picture's sides, and
             the phrase
    Score    1 where the intersection over union with the true box is at least 0.5
    Metrics  Acc@0.5, and the mean intersection over union
    Differs  the first [x1, y1, x2, y2] of the answer counts; one with a number above 1 is read as pixels of the picture
             or, with `thousandths`, as models write them that number places so. No commit of the repository is frozen:
             the digest of the rows in `facts` tells one from another
    """

    thousandths: bool = False  # numbers above 1 are thousandths of a side, not pixels

    title = "RefCOCO"
    metric = "Acc@0.5"
    max_new_tokens = 64
    repository = "lmms-lab-encoder/RefCOCO"
    revision = "main"
    split = "val"
    columns = ("answer", "bbox")
    instruction = (
        "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, bottom-right y)."
        " All values are floating point numbers bounded between 0 and 1. "
        "Please provide the bounding box coordinate of the region this sentence describes: "
    )

    def numbers(self, kind: str) -> range:
        return range(len(self._phrases))

    def draw(self, kind: str, numbers: Sequence[int]) -> list[Asked]:
        asked = []
        for number in numbers:
            index, phrase = self._phrases[number]
            row = self.rows[index]
            seen = self.look(row)
            if seen is not None:
                asked.append(Asked(kind, number, (*seen, self.instruction + phrase), _write_truth(row["bbox"], *seen)))
        return asked

    def score(self, answer: str, truth: str) -> float:
        return float(self._overlap(answer, truth) >= 0.5)

    def metrics(self, answers: Sequence[Answered]) -> dict[str, float]:
        if not answers:
            return {}
        overlaps = [self._overlap(a.answer, a.truth) for a in answers]
        return {**super().metrics(answers), "mean IoU": float(np.mean(overlaps))}

    def _overlap(self, answer: str, truth: str) -> float:
        """Intersection over union of an answer's box and the true one; 0 without a box."""
        box, true = find_box(answer), json.loads(truth)
        width, height = true["size"]
        return 0.0 if box is None else iou(to_shares(box, width, height, self.thousandths), true["box"])

    @cached_property
    def _phrases(self) -> list[tuple[int, str]]:
        """All phrases, each with the place of its row: a row holds what several players said of one object."""
        phrases = self.rows.select_columns(["answer"])["answer"]
        return [(index, phrase) for index, given in enumerate(phrases) for phrase in given]


def _write_truth(bbox: Sequence[float], picture: Any) -> str:
    """A box of the set (left, top, width, height in pixels) as shares of the picture's sides, and those in pixels."""
    x, y, width, height = bbox
    corners = (x, y, x + width, y + height)
    box = [value / side for value, side in zip(corners, picture.size * 2, strict=True)]
    return json.dumps({"box": box, "size": list(picture.size)})
