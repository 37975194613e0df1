"""GQA: questions made from scene graphs, on relations and on attributes of objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from ..task import Answered, Part
from .loading import HubSet, Row
from .local import open_picture, read_rows
from .scoring.exact_match import exact_match

OPEN = "query"  # the structural type whose answers are open; of the others two are offered in the question


class GQA(HubSet):
    """Balanced questions on Visual Genome pictures, with one answer each.

    Set      Hudson and Manning, CVPR 2019, arXiv:1902.09506; 12,578 questions of the balanced test-dev split, kinds are
             the structural types. The hub keeps pictures in a configuration of their own; a copy in one file has them
             in a column `image` beside the questions
    Prompt   the question and LLaVA-1.5's short-answer instruction, as lmms-eval's task `gqa` has it
    Score    exact match but for case and punctuation; metrics: its mean over questions, and, as in the authors'
             evaluation, over the binary and the open ones
    Differs  the authors' consistency, validity, plausibility and distribution need scene graphs and are left out
    """

    title = "GQA"
    repository = "lmms-lab-encoder/GQA"
    revision = "78e9ec37481de666feb0180c7b5a773741cb47ca"
    config = "testdev_balanced_instructions"
    split = "testdev"
    columns = ("imageId", "question", "answer", "types")
    pictures = ()
    first_kinds = ("verify", "logical", "compare", "choose", OPEN)

    def kind(self, row: Row) -> str:
        return str(row["types"]["structural"])

    def look(self, row: Row) -> tuple[Part, ...] | None:
        cell = row["image"] if "image" in row else self._find(row["imageId"])
        picture = open_picture(cell, self.folder)
        return None if picture is None else (picture,)

    def score(self, answer: str, truth: str) -> float:
        return exact_match(answer, truth)

    def metrics(self, answers: Sequence[Answered]) -> dict[str, float]:
        groups = {"binary": [a for a in answers if a.kind != OPEN], "open": [a for a in answers if a.kind == OPEN]}
        means = {f"accuracy, {name}": super(GQA, self).metrics(group).get("accuracy") for name, group in groups.items()}
        return super().metrics(answers) | {name: mean for name, mean in means.items() if mean is not None}

    def _find(self, image: str) -> Any:
        """The cell of a picture in the configuration that holds them; None if it is not there."""
        rows, places = self._images
        return rows[places[image]]["image"] if image in places else None

    @cached_property
    def _images(self) -> tuple[Any, dict[str, int]]:
        source = replace(self.source, config="testdev_balanced_images")
        rows = read_rows(self.title, source, self.data, ("id", "image"))
        return rows, {name: place for place, name in enumerate(rows["id"])}
