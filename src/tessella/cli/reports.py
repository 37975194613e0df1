"""Lay out results as text for a terminal."""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING, Any

from ..app import demo
from ..app.answering import Comparison
from ..app.families import Matrix
from ..app.page import format_bytes
from .output import print_table, printable

if TYPE_CHECKING:
    from ..app.reporting import Report
    from ..instruments.diagnosis import Diagnosis


def print_comparison(comparison: Comparison) -> None:
    print(comparison.question)
    heads = ("method", "answer", "same", "kept", "mean over layers", "score+select ms", "prefill ms", "cache")
    rows = []
    for row in comparison.rows:
        if row.answer is None:
            rows.append((row.method, f"cannot run here: {row.reason}", *[""] * 6))
            continue
        report = row.answer.report
        ms = report["ms"]
        same = "" if row.same_as_full is None or row.is_full else "yes" if row.same_as_full else "no"
        rows.append(
            (
                row.method,
                row.answer.answer,
                same,
                f"{report['tokens_kept']} of {report['tokens_in']}",
                f"{report['mean_keep_ratio']:.1%}",
                f"{ms.get('score', 0) + ms.get('select', 0):.1f}",
                f"{ms.get('prefill', 0):.1f}",
                format_bytes(report["cache_bytes"]),
            )
        )
    print_table(heads, rows, right=(3, 4, 5, 6, 7))
    for row in comparison.rows:
        for note in row.answer.report["notes"] if row.answer else ():
            print(f"note: {note}")


def print_methods(rows: list[dict[str, Any]], with_model: bool) -> None:
    heads = ["id", "title", "year", "stages", "contract", "needs", "kind"]
    if with_model:
        heads.insert(1, "works")
    cells = []
    for row in rows:
        kind = "baseline" if row["baseline"] else "training-free" if row["training_free"] else "trained"
        line = [row["id"], row["title"], str(row["year"] or ""), ", ".join(row["stages"]), row["contract"]]
        line += [", ".join(row["needs"]), kind]
        if with_model:
            nearest = f" Nearest: {row['nearest']}." if row["nearest"] else ""
            line.insert(1, "yes" if row["can_apply"] else f"no: {row['reason']}{nearest}")
        cells.append(line)
    print_table(heads, cells)
    print(f"{len(rows)} methods. One in full: tessella show ID")


def print_method(details: dict[str, Any]) -> None:
    card = details["card"]
    print(f"{details['id']} · {card['title']}")
    print(f"\n{details['documentation']}\n")
    facts = [
        ("paper", details["paper"] or "none"),
        ("year", str(card["year"] or "")),
        ("stages", ", ".join(card["stages"])),
        ("contract", details["contract"]),
        ("needs", ", ".join(card["needs"]) or "nothing"),
        ("trained", "no" if card["training_free"] else "yes"),
        ("takes a keep", "yes" if card["takes_keep"] else "no"),
        ("count", " ".join(filter(None, (card["count"], card["count_reason"])))),
        ("rounding", " ".join(filter(None, (card["rounding"], card["rounding_source"])))),
        ("cost", card["cost"]),
        ("looks at the question", "yes" if card["prompt_dependent"] else "no"),
        ("default scope", card["scope"]),
        ("positions", card["positions"]),
    ]
    print_table(("card", ""), [f for f in facts if f[1]])
    print()
    settings = [(s["name"], s["default"], s["note"]) for s in details["settings"]]
    if settings:
        print_table(("setting", "default", ""), settings)
    else:
        print("no settings")


def print_examination(report: dict[str, Any]) -> None:
    attention = ", ".join(k for k, v in report["attention"].items() if v)
    rows = [(name, str(report[name])) for name in ("tessella", "python", "system")]
    rows += [(name, version or "not installed") for name, version in report["packages"].items()]
    rows += [
        ("devices", ", ".join(report["devices"])),
        ("threads", f"{report['threads']} of {report['cores']} cores"),
        ("attention", attention),
        ("bfloat16", "works" if report["bfloat16_matmul"] else "does not work"),
        ("pictures read by", report["image_back_end"]),
        ("methods", str(report["methods"]["registered"])),
        *((f"method {name}", f"broken: {why}") for name, why in report["methods"]["broken"].items()),
    ]
    model = report.get("embedded_model")
    if model is not None and not model["ok"]:
        rows.append(("embedded model", f"does not work: {model['reason']}"))
    elif model is not None:
        all_tokens, ninth = model["tokens"]
        rows += [
            ("embedded model", f"loads in {model['load_seconds']} s on {model['device']} ({model['attention']})"),
            ("it was asked", f"{model['question']} (right: {model['expected']})"),
            (f"on {all_tokens} tokens", model["answer_full"]),
            (f"on {ninth} tokens", model["answer_ninth"]),
        ]
    print_table(("", ""), rows)


def print_matrix(matrix: Matrix) -> None:
    print()
    print_table(["method", *(f.replace("_", "_\n") for f in matrix.outcomes)], matrix.rows())
    for number, reason in enumerate(matrix.reasons, start=1):
        print(f"{number}: {printable(reason)}")
    for family, reason in matrix.missing.items():
        print(f"not tried: {family}: {printable(reason)}")


def print_diagnosis(diagnosis: Diagnosis) -> None:
    for finding in diagnosis.findings:
        print(printable(f"{finding.note.title}\n{finding.note.seen}\n"))
    for name, reason in diagnosis.left_out.items():
        print(printable(f"left out: {name}: {reason}"))


def print_boards(report: Report) -> None:
    from ..bench.report.columns import leaderboard

    for board in report.boards:
        for table in (leaderboard(board.lines, board.title), *board.times()):
            print(printable(table.title))
            print_table(table.heads, table.rows, right=table.right)
            print()
        for finding in board.findings:
            print(printable(str(finding)))
        print()
    for gallery in report.galleries:
        if gallery.left_out:
            print(printable(gallery.left_out))


@singledispatch
def print_demo_part(part: object) -> None:
    """Print one part of the demo as it is ready."""
    raise TypeError(f"the demo has no part {type(part).__name__}")


@print_demo_part.register
def _(part: demo.Introduction) -> None:
    print(
        f"A vision-language model of {part.num_weights / 1e6:.1f} million weights looks at {len(demo.bundled())}",
        end="",
    )
    print(" bundled pictures, with all of its visual tokens and with a fraction.\n", flush=True)


@print_demo_part.register
def _(part: demo.ExampleAnswers) -> None:
    counts = [a.report["tokens_kept"] for a in part.answers[0]]
    heads = ["question", "right answer", f"all {counts[0]}"]
    heads += [f"{demo.METHOD} {k} ({n})" for k, n in zip(demo.KEEPS, counts[1:], strict=True)]
    rows = []
    for example, answers in zip(part.examples, part.answers, strict=True):
        rows.append((example.question, example.answer, *(_marked(a.answer, example.answer) for a in answers)))
    print_table(heads, rows)
    print(flush=True)


@print_demo_part.register
def _(part: demo.RivalAnswers) -> None:
    if not part.answers:
        return
    kept = next(iter(part.answers.values()))[0].report["tokens_kept"]
    print(f"Other methods on the same questions, {demo.KEEPS[-1]} of the tokens ({kept}):")
    rows = []
    for name, answers in part.answers.items():
        marked = [_marked(a.answer, e.answer) for a, e in zip(answers, part.examples, strict=True)]
        rows.append((name, *marked, f"{sum(m.startswith('✓') for m in marked)} of {len(marked)}"))
    print_table(("method", *(e.kind for e in part.examples), "right"), rows)
    print(flush=True)


@print_demo_part.register
def _(part: demo.Scores) -> None:
    asked = part.scores[0].asked
    print(
        f"Share of right answers on {sum(asked.values())} freshly drawn questions, {min(asked.values())} of each kind:"
    )
    heads = ("kind", *(s.pipeline for s in part.scores))
    rows = [(kind, *(f"{s.right[kind] / n:.0%}" for s in part.scores)) for kind, n in asked.items()]
    rows.append(("all", *(f"{s.share:.0%}" for s in part.scores)))
    rows.append(("seconds", *(f"{s.seconds:.1f}" for s in part.scores)))
    print_table(heads, rows, right=range(1, len(heads)))
    print(flush=True)


def _marked(given: str, right: str) -> str:
    return f"{'✓' if given == right else '✗'} {given}"
