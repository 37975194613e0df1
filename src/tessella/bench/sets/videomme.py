"""Video-MME: multiple-choice questions on videos from seconds to an hour."""

from __future__ import annotations

from dataclasses import dataclass

from .clips import VideoSet
from .loading import Row
from .scoring.first_letter import first_letter


@dataclass(frozen=True)
class VideoMME(VideoSet):
    """Questions with four options on 900 videos, three a video.

    Set      Fu et al., CVPR 2025, arXiv:2405.21075; 2,700 questions, kinds are the three lengths of videos
    Prompt   the authors' own for frames without subtitles: their instruction, the question, the options with their
             letters, and "The best answer is:"
    Score    accuracy; an answer is read by the rule of the authors' evaluation (`first_letter`)
    Metrics  accuracy over all questions, and over each length
    Differs  nothing known but what `first_letter` says
    """

    title = "Video-MME"
    repository = "lmms-lab/Video-MME"
    revision = "ead1408f75b618502df9a1d8e0950166bf0a2a0b"
    config = "videomme"
    split = "test"
    columns = ("question", "options", "answer", "duration", "videoID")
    kind_column = "duration"
    first_kinds = ("short", "medium", "long")
    video_column = "videoID"
    instruction = (
        "Select the best answer to the following multiple-choice question based on the video. Respond with only the "
        "letter (A, B, C, or D) of the correct option."
    )

    def prompt(self, row: Row) -> str:
        return "\n".join([self.instruction, row["question"], *row["options"], "The best answer is:"])

    def score(self, answer: str, truth: str) -> float:
        return float(first_letter(answer, "ABCD") == truth)
