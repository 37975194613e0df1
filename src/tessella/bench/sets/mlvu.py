"""MLVU: multiple-choice questions on long videos, in seven tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..task import Answered, Task
from .clips import VideoSet


@dataclass(frozen=True)
class MLVU(VideoSet):
    """Questions on films, cartoons, games and recordings of 3 minutes to 2 hours: on a detail, on several, or on all.

    Set      Zhou et al., CVPR 2025, arXiv:2406.04264; the multiple-choice questions of the dev set, kinds are its tasks
    Prompt   the question with its options as the set has them and the opening of the answer, "Best option: (", as
             lmms-eval's task `mlvu_dev` has it
    Score    accuracy; the letter in front of the first ")" or the whole answer, by the rule of the authors' evaluation
    Metrics  M-Avg, the mean over tasks of the accuracy; accuracy over all questions, and over each task
    Differs  a full stop behind a lone letter is no mistake
    """

    title = "MLVU"
    repository = "sy1998/MLVU_dev"
    revision = "96207eb9aa7101e2a495dd147684a7e618c79e12"
    split = "test"
    columns = ("question", "answer", "task_type", "video_name")
    kind_column = "task_type"
    first_kinds = ("topic_reasoning", "anomaly_reco", "needle", "ego", "plotQA", "order", "count")
    video_column = "video_name"
    instruction = "Only give the best option.\nBest option: ("

    def score(self, answer: str, truth: str) -> float:
        before, bracket, _ = answer.partition(")")
        return float((before[-1:] if bracket else answer.strip(" .")) == truth)

    def metrics(self, answers: Sequence[Answered]) -> dict[str, float]:
        over_tasks = list(Task.metrics(self, answers).values())
        return {"M-Avg": over_tasks[0], **super().metrics(answers)} if over_tasks else {}
