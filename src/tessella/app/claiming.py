"""What `tessella claims` does: list the claims, measure what is missing, judge, and make the page anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError
from ..pictures.saving import check_target, save_bytes
from .source import Source

if TYPE_CHECKING:
    from ..bench.claims.claim import Claim
    from ..bench.claims.judging import Judgement
    from ..bench.claims.missing import Missing
    from ..bench.pace import Progress

JOB = "claims"


@dataclass(frozen=True)
class Request:
    """Which claims (`only`: ids or methods with commas between), the ledger of answers, and the page or .json to write.

    `run`: first measure in the ledger what is missing.
    """

    ledger: str | None = None
    out: str | None = None
    run: bool = False
    only: str | None = None

    def check(self) -> None:
        """Raise the error of core that this request deserves, as far as it shows without a model."""
        from ..bench.claims.page import LIST, has_marks

        if self.run and self.ledger is None:
            raise InputError("--run measures into a ledger; name one with --ledger FILE.")
        if self.out is not None:
            target = check_target(self.out, (".md", ".json"))
            if self.only is not None and target.is_file() and has_marks(target.read_text(encoding="utf-8"), LIST):
                raise InputError(f"{self.out!r} is a page of all claims; leave out --only, or write another file.")


def list_claims(request: Request) -> tuple[Claim, ...]:
    """The claims that are asked for, written to the page where there is one."""
    from ..bench.claims.page import LIST, claim_list
    from ..bench.claims.stated import choose, stated

    request.check()
    claims = choose(stated(), request.only)
    if request.out is not None:
        _write(request.out, {LIST: claim_list(claims)}, [claim.to_dict() for claim in claims])
    return claims


def judge_claims(
    request: Request, source: Source, say: Callable[[str], None], tell: Callable[[Progress], None] | None = None
) -> Judgement:
    """Verdicts on the claims that are asked for, written to the page where there is one.

    `say` receives notes, `tell` the progress of what is measured. Nothing is measured before the request is known to be
    possible. Ctrl-C raises KeyboardInterrupt with a line on how to go on.
    """
    from ..bench.claims.judging import gather_for, judge, rows_for
    from ..bench.claims.missing import find_missing
    from ..bench.claims.page import LIST, VERDICTS, claim_list
    from ..bench.claims.stated import choose, stated
    from ..bench.ledger import read_ledger

    request.check()
    ledger = Path(request.ledger or "")
    choose(stated(), request.only)
    rows = [] if request.run and not ledger.exists() else read_ledger(ledger)
    model, processor = source.load()
    rows = rows_for(rows, model, source.name)
    claims = choose(stated(model), request.only)
    if request.run:
        missing = find_missing(claims, gather_for(claims, rows, model, processor), model)
        measure_missing(missing, model, processor, source.name, ledger, say, tell)
        rows = rows_for(read_ledger(ledger), model, source.name) if ledger.exists() else []
    judgement = judge(claims, rows, model, processor)
    if not request.run and any(v.missing for v in judgement.verdicts):
        say(f"to measure what is missing: tessella claims --ledger {ledger} --run")
    if request.out is not None:
        parts = {LIST: claim_list(choose(stated(), request.only)), VERDICTS: judgement.to_markdown()}
        _write(request.out, parts, judgement.to_dict())
    return judgement


def measure_missing(
    missing: Missing,
    model: Any,
    processor: Any,
    name: str,
    path: Path,
    say: Callable[[str], None],
    tell: Callable[[Progress], None] | None,
) -> None:
    """Answer into a ledger what claims lack; `name` is what the user calls the model."""
    from ..bench.ledger import Ledger
    from ..bench.runner import plan_work, run_work

    for note in missing.notes:
        say(note)
    work = [plan_work(model, processor, name, request) for request in missing.requests]
    if not work:
        return
    with Ledger(path, JOB) as ledger:
        try:
            for part in work:
                for note in run_work(part, ledger, tell):
                    say(note)
        except KeyboardInterrupt:
            kept = f"what was answered is kept in {str(path)!r}; the same command goes on from there"
            raise KeyboardInterrupt(kept) from None


def _write(path: str, parts: dict[str, str], plain: Any) -> None:
    """Write JSON, or Markdown: into a page with marks what stands between them, else a page of the parts alone."""
    from ..bench.claims.page import LIST, has_marks, put_between

    target = Path(path)
    if target.suffix.lower() == ".json":
        text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    else:
        text = target.read_text(encoding="utf-8") if target.is_file() else ""
        if has_marks(text, LIST):
            for name, content in parts.items():
                text = put_between(text, name, content)
        else:
            text = "\n\n".join(part.strip() for part in parts.values()) + "\n"
    save_bytes(text.encode("utf-8"), target)
