"""Write the generated pages of the docs: `python docs/generate.py`; with `--check` only say which are out of date.

A page is one function that returns its text, listed in PAGES under its path in this folder.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from results_page import composition_table, results

if TYPE_CHECKING:
    from tessella.app.family_facts import FamilyFacts

FOLDER = Path(__file__).parent
WIDTH = 100  # columns of captured help


def commands() -> str:
    """The help of every command, as the program prints it."""
    import typer.main

    from tessella.cli.application import PROGRAM, app

    group = typer.main.get_command(app)
    parts = [
        "# Commands",
        "What `--help` prints, captured by `python docs/generate.py`. Every command exits with 0 when done, with 2 and "
        "one line on standard error when the request cannot be met, and with 130 when interrupted.",
        f"<!-- captured with typer {version('typer')} -->",
        _captured(group, PROGRAM),
    ]
    parts += [_captured(group.commands[name], f"{PROGRAM} {name}") for name in group.commands]
    return "\n\n".join(parts) + "\n"


def _captured(command: object, path: str) -> str:
    context = command.make_context(path, [], resilient_parsing=True, terminal_width=WIDTH)  # type: ignore[attr-defined]
    text = "\n".join(line.rstrip() for line in context.get_help().strip().splitlines())
    return f"## {path}\n\n```text\n{text}\n```"


def methods() -> str:
    """A page on every method: its card, its settings and the documentation of its file."""
    from tessella.app.catalogue import method_details, method_rows

    parts = ["# Methods", "Made from the methods' own cards and files by `python docs/generate.py`.", methods_table("")]
    varying = [(row["id"], method_details(row["id"])["card"]) for row in method_rows() if row["count"] != "exact"]
    if varying:
        parts.append("Counts that are not exactly what was asked, and why:")
        parts.append("\n".join(f"- `{name}`: {card['count']}, {card['count_reason']}" for name, card in varying))
    for row in method_rows():
        detail = method_details(row["id"])
        card = detail["card"]
        facts = [f"scope `{card['scope']}`", f"positions `{card['positions']}`", f"count {card['count']}"]
        facts += [
            f"cost {card['cost']}",
            "looks at the question" if card["prompt_dependent"] else "ignores the question",
        ]
        settings = [f"| `{s['name']}` | `{s['default']}` | {s['note']} |" for s in detail["settings"]]
        table = ["| setting | default | |", "|---|---|---|", *settings]
        parts += [f"## {row['id']}", f"```text\n{detail['documentation']}\n```", "Defaults: " + ", ".join(facts) + "."]
        parts += ["\n".join(table)] if settings else []
    return "\n\n".join(parts) + "\n"


def methods_table(folder: str = "docs/") -> str:
    """The table of methods, linked to the page in `folder`."""
    from tessella.app.catalogue import documentation_of, method_rows
    from tessella.core.registry import load_class

    lines = ["| method | what it does | acts at | needs | paper |", "|---|---|---|---|---|"]
    for row in method_rows():
        first = documentation_of(load_class(row["id"])).splitlines()[0].partition(":")[2].strip().rstrip(".")
        paper = f"[{row['paper']}](https://arxiv.org/abs/{row['paper']})" if row["paper"] else "baseline"
        needs = ", ".join(n.replace("_", " ") for n in row["needs"]) or "nothing"
        name = f"[{row['id']}]({folder}methods.md#{row['id']})"
        lines.append(f"| {name} | {first} | {', '.join(row['stages'])} | {needs} | {paper} |")
    return "\n".join(lines)


def families() -> str:
    """A page on every family, and on which methods run on it."""
    from tessella.app.families import ask_beforehand, family_matrix
    from tessella.app.family_facts import family_facts

    facts = family_facts()
    matrix = family_matrix(ask_beforehand)
    names = [f"[{name}](#{name})" for name in matrix.outcomes]
    table = [_row(["method", *names]), _row(["---"] * (1 + len(names)))]
    table += [_row([f"[{method}](methods.md#{method})", *cells]) for method, *cells in matrix.rows()]
    parts = [
        "# Families",
        "Made from the adapters and from a tiny model of each family by `python docs/generate.py`. A tiny model is the "
        "real architecture with random weights and its real processor; numbers of layers and tokens are those of the "
        "tiny model, which is made so that what is special about the family shows.",
        _families_table(facts),
        "## Which method runs where",
        "What `tessella.can_apply` says; `tessella doctor --families` tries each of them.",
        "\n".join(table),
        "\n".join(f"{n}. The method {reason}" for n, reason in enumerate(matrix.reasons, start=1)),
        *(_family_section(f) for f in facts),
    ]
    return "\n\n".join(parts) + "\n"


def _families_table(facts: list[FamilyFacts]) -> str:
    heads = ["family", "model type", "takes", "patches a token", "class token", "positions", "sliding windows"]
    lines = [_row(heads), _row(["---"] * len(heads))]
    for f in facts:
        cells = [
            f"[{f.id}](#{f.id})",
            ", ".join(f"`{t}`" for t in f.model_types),
            "pictures, clips" if f.takes_clips else "pictures",
            str(f.patches_per_token),
            "yes" if f.has_class_token else "no",
            "one axis" if f.position_axes == 1 else f"{f.position_axes} axes",
            f"{f.sliding_layers[0]} of {f.sliding_layers[1]} layers" if f.sliding_layers[0] else "none",
        ]
        lines.append(_row(cells))
    return "\n".join(lines)


def _family_section(f: FamilyFacts) -> str:
    """What the adapter's file says, what the adapter declares, and what pictures become."""
    parts = [f"## {f.id}", f.about]
    if f.encoder_window:
        parts.append(f"Windows of the tiny model's encoder: {f.encoder_window} x {f.encoder_window} tokens.")
    if f.has_deepstack:
        parts.append("Deep-stack features are cut with the sequence.")
    lines = [_row(["the tiny model's", "becomes"]), _row(["---"] * 2), *(_row([*pair]) for pair in f.prepared.items())]
    return "\n\n".join([*parts, "\n".join(lines)])


def bench_tables(name: str = "bench_mini") -> str:
    """Accuracy by keep and, at a ninth, by type, from a committed record of the bench."""
    record = json.loads((FOLDER.parent / "benchmarks" / "records" / f"{name}.json").read_text(encoding="utf-8"))
    keeps, types = record["keeps"], record["types"]
    by_method: dict[str, dict[str, dict]] = {}
    for section in keeps:
        for entry in section["settings"]:
            by_method.setdefault(entry["method"], {})[section["keep"]] = entry
    heads = [_share(section["keep"]) for section in keeps]
    lines = [_row(["method", *heads, "layer mean at 1/9"]), _row(["---"] * (2 + len(heads)))]
    for method, entries in by_method.items():
        cells = [_overall(entries.get(section["keep"])) for section in keeps]
        lines.append(_row([method, *cells, f"{100 * entries['1/9']['mean_keep_ratio']:.1f} %"]))
    ninth = {m: e["1/9"] for m, e in by_method.items()}
    lines += ["", "By type, at 1/9:", "", _row(["method", *types]), _row(["---"] * (1 + len(types)))]
    lines += [_row([m, *(_interval(e["by_type"][t], 0) for t in types)]) for m, e in ninth.items()]
    return "\n".join(lines)


def speed_table(record: str = "latency") -> str:
    """Prefill against the full prompt and against the oracle, batch 1, from a committed record of the CPU."""
    path = next((FOLDER.parent / "benchmarks" / "records").glob(f"{record}_*-core_bfloat16.json"))
    batch = json.loads(path.read_text(encoding="utf-8"))["batches"][0]
    medians = {s["label"]: s["median_ms"] for s in batch["settings"]}
    compared = {c["label"]: c for c in batch["comparisons"]}
    keeps = sorted({int(label.rpartition(":")[2]) for label in compared if ":" in label}, reverse=True)
    heads = [*(f"{k}: ms" for k in keeps), *(f"{k}: oracle ratio" for k in keeps), f"choosing, {keeps[-1]}"]
    lines = [_row(["method", *heads]), _row(["---"] * (1 + len(heads)))]
    lines.append(_row(["full prompt", f"{medians['full']['language_model']:.0f}", *[""] * (2 * len(keeps))]))
    for method in dict.fromkeys(label.partition(":")[0] for label in compared if ":" in label):
        mine = [f"{method}:{k}" for k in keeps]
        if any(compared[m]["kind"] == "rewriter" for m in mine):
            continue  # timed with the encoder, so not beside these
        times = [f"{medians[m]['language_model']:.0f}" for m in mine]
        ratios = [f"{compared[m]['oracle_ratio']:.3f}" for m in mine]
        lines.append(_row([method, *times, *ratios, f"{100 * compared[mine[-1]]['selection_share']:.2f} %"]))
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _share(keep: str) -> str:
    return str(Fraction(keep).limit_denominator(1000))


def _overall(entry: dict | None) -> str:
    """Accuracy with its interval, and a mark where it differs from the down-sampled picture beyond the noise."""
    if entry is None:
        return ""
    against = entry["against"]["downsample"]
    mark = "" if against is None else " ▲" if against["low"] > 0 else " ▼" if against["high"] < 0 else ""
    return _interval(entry["accuracy"], 1) + mark


def _interval(estimate: dict[str, float], digits: int) -> str:
    value, low, high = (f"{100 * estimate[n]:.{digits}f}" for n in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def readme() -> str:
    """The README with its tables of methods and results made anew; the rest is written by hand."""
    return _with_tables("../README.md", {"bench": bench_tables, "speed": speed_table, "methods": methods_table})


def claims() -> str:
    """The page on claims with its list made anew; verdicts are written by `tessella claims`, the rest by hand."""
    from tessella.bench.claims.page import LIST, claim_list
    from tessella.bench.claims.stated import stated

    return _with_tables("claims.md", {LIST: lambda: claim_list(stated())})


def inside_the_model() -> str:
    """The page on methods inside the language model with its tables made anew; the rest is written by hand."""
    tables = {"bench": lambda: bench_tables("bench_inside"), "speed": lambda: speed_table("latency-inside")}
    return _with_tables("inside-the-model.md", tables)


def composition() -> str:
    """The page on compositions with its lists of parts and results made anew; the rest is written by hand."""
    return _with_tables("composition.md", {"parts": parts_list, "composition": composition_table})


def _with_tables(page: str, tables: dict[str, Callable[[], str]]) -> str:
    """A page with what stands between the marks of each table made anew."""
    text = (FOLDER / page).read_text(encoding="utf-8")
    for name, table in tables.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{table()}\n{end}{rest.partition(end)[2]}"
    return text


def parts_list() -> str:
    """The methods that each part of a composition takes."""
    from tessella.core.registry import methods as registered
    from tessella.reduction.compose import PARTS

    lines = []
    for part, (contracts, _) in PARTS.items():
        fitting = [i for i, c in registered(stage="connector").items() if issubclass(c, contracts)]
        lines.append(f"- `{part}`: " + ", ".join(f"[{i}](methods.md#{i})" for i in fitting))
    return "\n".join(lines)


PAGES: dict[str, Callable[[], str]] = {
    "commands.md": commands,
    "methods.md": methods,
    "families.md": families,
    "claims.md": claims,
    "composition.md": composition,
    "inside-the-model.md": inside_the_model,
    "results/around-the-connector.md": results,
    "../README.md": readme,
}


def is_current(name: str, written: str, fresh: str) -> bool:
    """Whether a page says what it should. Help captured with another typer may be laid out in another way: then the
    same options in the same order are enough."""
    captured = re.search(r"captured with typer (\S+)", written)
    if captured is None or captured[1] == version("typer"):
        return written == fresh
    options = [re.findall(r"^ +((?:-\w, )?--[\w-]+)|^(## .+)", text, flags=re.MULTILINE) for text in (written, fresh)]
    return options[0] == options[1]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the generated pages of the docs.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is out of date")
    check = parser.parse_args(arguments).check
    stale = []
    for name, page in PAGES.items():
        path, fresh = FOLDER / name, page()
        written = path.read_text(encoding="utf-8") if path.is_file() else ""
        if is_current(name, written, fresh):
            continue
        stale.append(name)
        if not check:
            path.write_text(fresh, encoding="utf-8")
            print(f"written: {path.resolve().relative_to(FOLDER.parent)}")
    if check and stale:
        print(f"out of date: {', '.join(stale)}; run: python docs/generate.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
