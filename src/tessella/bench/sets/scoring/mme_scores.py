"""MME's scores: of each subtask, the accuracy over questions and the accuracy over pictures."""

from __future__ import annotations

from collections.abc import Iterable

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def mme_scores(answers: Iterable[tuple[str, str, float]]) -> dict[str, float]:
    """The total, the sums over both groups and the score of each subtask, from (subtask, picture, right or not).

    A picture has two questions. A subtask's score is the percentage of right questions plus the percentage of pictures
    with both right: at most 200, so that perception goes to 2,000 and cognition to 800. Pictures of which one question
    only was answered are left out.
    """
    pictures: dict[tuple[str, str], list[float]] = {}
    for subtask, picture, right in answers:
        pictures.setdefault((subtask, picture), []).append(right)
    pairs: dict[str, list[list[float]]] = {}
    for (subtask, _), both in pictures.items():
        if len(both) == 2:
            pairs.setdefault(subtask, []).append(both)
    scores = {subtask: 100 * sum(sum(p) / 2 + (sum(p) == 2) for p in of) / len(of) for subtask, of in pairs.items()}
    sums = {
        name: sum(scores[subtask] for subtask in group if subtask in scores)
        for name, group in (("perception", PERCEPTION), ("cognition", COGNITION))
    }
    return {"total": sum(sums.values()), **sums, **scores} if scores else {}
