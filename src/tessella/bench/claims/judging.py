"""All verdicts, from a ledger's rows and from the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...core.errors import InputError
from ...models.adapter import find_adapter
from ..embedded import Embedded
from ..identity import describe_run, identify_model
from ..records import FULL, Record, Setting
from ..regions import thirds_table
from ..tables import Table, to_markdown
from . import page
from .claim import Claim
from .evidence import Evidence, gather
from .probing import probe, read_abilities
from .rule import RESAMPLES, Verdict, evaluate

Row = tuple[Setting, Record]


@dataclass(frozen=True)
class Judgement:
    """Verdicts with what goes beside them."""

    verdicts: tuple[Verdict, ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...]

    def to_markdown(self) -> str:
        return to_markdown(self.tables, self.notes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the machine and the versions."""
        tables = [{"title": t.title, "heads": t.heads, "rows": t.rows} for t in self.tables]
        verdicts = [v.to_dict() for v in self.verdicts]
        return {"run": describe_run(), "claims": verdicts, "tables": tables, "notes": self.notes}


def judge(
    stated: Sequence[Claim],
    rows: Sequence[Row],
    model: Any,
    processor: Any,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Judgement:
    """Verdicts on claims from rows, and from the model for what no row holds. `seed` is that of the resamples."""
    probed = probe(stated, model, processor)
    thirds, dominance = probed.values["thirds"], probed.values["dominance"]
    evidence = gather_for(stated, rows, model, processor, thirds=thirds, dominance=dominance)
    verdicts = tuple(evaluate(claim, evidence, seed, resamples) for claim in stated)
    tables = [page.methods_table(verdicts), page.verdict_table(verdicts)]
    if thirds:
        tables.append(thirds_table(thirds, seed, resamples))
    notes = [page.rule_note(seed, resamples), *page.notes_on(verdicts), *probed.problems]
    return Judgement(verdicts, tuple(tables), tuple(notes))


def gather_for(stated: Sequence[Claim], rows: Sequence[Row], model: Any, processor: Any, **measured: Any) -> Evidence:
    """Evidence on the pipelines of some claims, with what is known of the model. `measured`: see `gather`."""
    needed = {FULL, *(pipeline for claim in stated for pipeline in claim.pipelines)}
    num_layers = find_adapter(model).info.num_layers
    return gather(rows, needed, num_layers=num_layers, abilities=read_abilities(model, processor), **measured)


def rows_for(rows: Sequence[Row], model: Any, name: str) -> list[Row]:
    """A ledger's rows on the embedded world. Raises InputError if they are of other weights than the model's."""
    world = Embedded().facts()["task"]
    mine = [(setting, record) for setting, record in rows if setting.details.get("task") == world]
    weights = identify_model(model, name).get("weights")
    theirs = {setting.details.get("weights") for setting, _ in mine} - {None}
    if weights is not None and theirs - {weights}:
        raise InputError(f"the ledger's answers are of other weights than those of {name!r}; name its model.")
    return mine
