"""The result of a search: tables, what they say in words, and the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..bench.tables import NOTHING, Table, number, percent, points
from ..core.recipe import DataFacts, LaterStep, ModelFacts, Recipe
from .goal import Goal, Trial
from .judging import Row, best_rival
from .search import Search


@dataclass(frozen=True)
class Result:
    """What was found; `recipe` is None where nothing keeps to the limit.

    `chosen` are the search's own numbers, `rows` those of the held-out questions.
    """

    goal: Goal
    chosen: Trial
    rows: tuple[Row, ...]
    search: Search
    num_searched: int
    num_held_out: int
    recipe: Recipe | None

    @property
    def row(self) -> Row:
        """The chosen pipeline on the held-out questions."""
        return next(row for row in self.rows if row.pipeline == str(self.chosen.pipeline))

    def tables(self) -> list[Table]:
        """What was found, and published methods alone at the same cost, best first."""
        found = [row for row in self.rows if row.role != "alone"]
        alone = sorted((r for r in self.rows if r.is_rival), key=lambda r: (-r.accuracy.value, r.pipeline))
        out = [_table(f"Found, on {self.num_held_out} questions that the search has not seen", found)]
        return [*out, _table("Published methods alone at the same cost", alone)] if alone else out

    def words(self) -> list[str]:
        """What the numbers mean, in sentences."""
        out = [self._limit_in_words(), f"held out: {self._lost_in_words()}", *self._rivals_in_words()]
        out += self._time_in_words()
        if self.search.stopped:
            out.append(f"the search was stopped after {len(self.search.trials)} of {self.search.wanted} trials.")
        elif len(self.search.trials) < self.search.wanted:
            out.append(f"only {len(self.search.trials)} different pipelines were found to try.")
        return out

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "goal": str(self.goal),
            "chosen": str(self.chosen.pipeline),
            "kept_to_the_limit": self.goal.allows(self.chosen),
            "searched": {"questions": self.num_searched, "cost": self.chosen.cost, "lost": self.chosen.loss},
            "held_out": {"questions": self.num_held_out, "rows": [row.to_dict() for row in self.rows]},
            "trials": [
                {"pipeline": str(t.pipeline), "cost": t.cost, "lost": t.loss, "questions": len(t.right)}
                for t in self.search.trials
            ],
            "words": self.words(),
        }

    def _limit_in_words(self) -> str:
        chosen, goal = self.chosen, self.goal
        what = f"{chosen.pipeline} ({100 * chosen.cost:.1f} % of the visual tokens on the mean over layers)"
        loses = f"{100 * chosen.loss:.1f} points on the {self.num_searched} questions of the search"
        if goal.allows(chosen):
            return f"{goal}: {what}; it loses {loses}."
        if goal.keep is not None:
            return f"nothing keeps as few tokens as asked; the nearest is {what}."
        return f"nothing loses at most {100 * (goal.lose or 0):g} points; the nearest is {what}, which loses {loses}."

    def _lost_in_words(self) -> str:
        lost = self.row.lost
        if lost is None:
            return "it is the full model."
        said = f"it loses {_interval(lost.value, lost.low, lost.high)} points there"
        limit = self.goal.lose
        if limit is None:
            return f"{said}."
        if lost.value > limit:
            return f"{said}, which is more than the limit."
        return f"{said}{', and more than the limit is not ruled out' if lost.high > limit else ''}."

    def _rivals_in_words(self) -> list[str]:
        others = [row for row in self.rows if row.is_rival and row.chosen_over is not None]
        if self.row.is_rival:
            first = ["it is a published method alone."]
        elif not others:
            return ["no published method alone keeps as few tokens."]
        else:
            best = best_rival(others)[0]
            over = best.chosen_over
            assert over is not None
            first = [
                f"the best published method alone at this cost is {best.pipeline}; the chosen one differs from it by "
                f"{_interval(over.value, over.low, over.high)} points: {_SIDES[over.side()]}."
            ]
        better = [row for row in others if row.chosen_over and row.chosen_over.side() == "better"]
        return [*first, f"it is better than {len(better)} of {len(others)} published methods, with the whole interval."]

    def _time_in_words(self) -> list[str]:
        full = next(row for row in self.rows if row.role == "full").latency
        mine = self.row.latency
        if full is None or mine is None:
            return []
        faster = "" if mine.high < full.low else ", which is not clearly faster"
        return [f"its first token takes {mine.median:.1f} ms, the full model's {full.median:.1f} ms{faster}."]


_SIDES = {"better": "better, with the whole interval", "worse": "worse", "=": "no difference shows"}


def make_recipe(
    result: Result, model: ModelFacts, data: DataFacts, seed: int, version: str, options: dict[str, Any]
) -> Recipe:
    """The chosen pipeline as a recipe, with what is known of it."""
    row = result.row
    first, *rest = result.chosen.pipeline.parts
    evidence = {
        "pipeline": str(result.chosen.pipeline),
        "mean_keep_ratio": row.cost,
        "trials": len(result.search.trials),
        "trials_wanted": result.search.wanted,
        "questions": {"search": result.num_searched, "held_out": result.num_held_out},
        "lost_on_search": result.chosen.loss,
        "lost_held_out": row.lost and row.lost.to_dict(),
        "first_token_ms": row.latency and row.latency.to_dict(),
    }
    return Recipe(
        method=first.method.id,
        settings=first.method.settings(),
        model=model,
        data=data,
        seed=seed,
        tessella=version,
        budget=first.budget,
        options={"goal": str(result.goal), **options},
        evidence=evidence,
        then=tuple(LaterStep(part.method.id, part.method.settings(), part.budget) for part in rest),
    )


def _table(title: str, rows: Sequence[Row]) -> Table:
    heads = ("pipeline", "tokens %", "accuracy %", "lost", "chosen above it", "first token ms")
    lines = [
        (
            ("* " if row.role == "chosen" else "") + row.pipeline,
            number(100 * row.cost),
            percent(row.accuracy),
            NOTHING if row.lost is None else _interval(row.lost.value, row.lost.low, row.lost.high),
            points(row.chosen_over),
            NOTHING if row.latency is None else number(row.latency.median),
        )
        for row in rows
    ]
    return Table(title, heads, tuple(lines), (1, 5))


def _interval(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
