"""Judge the stated claims on a ledger: what `python -m tessella.bench.claims` does."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import InputError, TessellaError
from ..models.adapter import find_adapter
from . import claims
from .claims import RESAMPLES, Claim, Verdict
from .identity import describe_run
from .records import FULL, Record, Setting
from .regions import Thirds, measure_thirds, thirds_table
from .statistics import Question
from .tables import Table

Regions = dict[str, dict[Question, Thirds]]


@dataclass(frozen=True)
class Judgement:
    """Verdicts with what goes beside them."""

    verdicts: tuple[Verdict, ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...]

    def to_markdown(self) -> str:
        return claims.render(self.verdicts, self.tables, self.notes)

    def to_json(self) -> str:
        tables = [{"title": t.title, "heads": t.heads, "rows": t.rows} for t in self.tables]
        verdicts = [v.to_dict() for v in self.verdicts]
        value = {"run": describe_run(), "claims": verdicts, "tables": tables, "notes": self.notes}
        return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tessella.bench.claims", description="Judge the stated claims.")
    parser.add_argument("--ledger", required=True, help="ledger of tessella bench")
    parser.add_argument("--out", type=Path, help="file ending in .md or .json; by default Markdown is printed")
    parser.add_argument("--model", default="mini", help="the model of the ledger, for its kept regions; default mini")
    parser.add_argument("--resamples", type=int, default=RESAMPLES)
    parser.add_argument("--seed", type=int, default=0, help="of the resamples")
    return parser.parse_args(arguments)


def judge_ledger(options: argparse.Namespace) -> Judgement:
    """Read the ledger, measure regions on the model, judge, and print or write the result."""
    from ..loading import load
    from .ledger import read_ledger
    from .stated_claims import stated

    if options.out is not None and options.out.suffix not in (".md", ".json"):
        raise InputError(f"--out must end in .md or .json; got {str(options.out)!r}.")
    rows = read_ledger(options.ledger)
    model, processor = load(options.model)
    check_same_weights(rows, model, options.model)
    judgement = judge(stated(model), rows, model, processor, options.seed, options.resamples, options.ledger)
    if options.out is None:
        print(judgement.to_markdown(), end="")
    else:
        text = judgement.to_json() if options.out.suffix == ".json" else judgement.to_markdown()
        options.out.write_text(text, encoding="utf-8")
    return judgement


def judge(
    stated: Sequence[Claim],
    rows: Sequence[tuple[Setting, Record]],
    model: Any,
    processor: Any,
    seed: int = 0,
    resamples: int = RESAMPLES,
    ledger: str = "bench.db",
) -> Judgement:
    """Verdicts on claims from rows, and from the model for what no row holds: the regions of kept tokens."""
    regions, problems = measure_regions(stated, model, processor)
    needed = {FULL, *(pipeline for claim in stated for pipeline in claim.pipelines)}
    evidence = claims.gather(rows, regions, find_adapter(model).info.num_layers, needed)
    verdicts = tuple(claims.evaluate(claim, evidence, seed, resamples) for claim in stated)
    tables = (thirds_table(regions, seed, resamples),) if regions else ()
    notes = [*claims.notes_on(verdicts, seed, resamples, ledger), *problems]
    return Judgement(verdicts, tables, tuple(notes))


def measure_regions(stated: Sequence[Claim], model: Any, processor: Any) -> tuple[Regions, list[str]]:
    """Thirds of the kept tokens for the claims that need them; a note for each pipeline that cannot run."""
    regions: Regions = {}
    problems: dict[str, None] = {}
    for claim in stated:
        if claim.metric.needs != "thirds":
            continue
        for pipeline in claim.pipelines:
            if set(claim.questions) <= set(regions.get(pipeline, {})):
                continue
            try:
                measured = measure_thirds(model, processor, pipeline, claim.questions)
            except TessellaError as error:
                problems[f"{claim.id}: {pipeline} cannot run: {error}"] = None
            else:
                regions.setdefault(pipeline, {}).update(measured)
    return regions, list(problems)


def check_same_weights(rows: Sequence[tuple[Setting, Record]], model: Any, name: str) -> None:
    """Raise InputError if the ledger was written with other weights than the model's."""
    from .identity import identify_model

    mine = identify_model(model, name).get("weights")
    theirs = {setting.details.get("weights") for setting, _ in rows} - {None}
    if mine is not None and theirs - {mine}:
        raise InputError(f"the ledger's answers are of other weights than those of {name!r}; name its model.")
