"""The page on methods around the connector: which of them beat a smaller picture, on which questions, from the record.

Every number comes from `benchmarks/records/bench_connector.json`; the page says in words what the intervals say.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).parent.parent / "benchmarks" / "records"
REFERENCES = ("none", "blind", "downsample")
COMMAND = "tessella bench --model mini --methods all --stage connector,input --keep 1/3,1/9,1/16 --limit 200"


def results() -> str:
    """The whole page."""
    record = json.loads((RECORDS / "bench_connector.json").read_text(encoding="utf-8"))
    elsewhere = json.loads((RECORDS / "tiles_and_clips.json").read_text(encoding="utf-8"))
    sections = [s for s in record["keeps"] if s["keep"] is not None]
    types = record["types"]
    parts = [
        "# Around the connector: what beats a smaller picture?",
        "Made from the bench's record by `python docs/generate.py`.",
        _how(record),
        "## All question types together",
        _plainly(sections),
        "Accuracy in percent, the mean over types, with its interval; ▲ and ▼ mark what lies above and below the "
        "down-sampled picture of about as many tokens. VisionDrop's keep is a mean over layers, of which its last cut "
        "leaves less.",
        _overall(sections),
        "## By question type",
        _reading(sections, types),
    ]
    for section in sections:
        parts += [f"### keep {_share(section['keep'])}", _words(section, types), _differences(section, types)]
    parts += ["## Methods with a count of their own", _own_counts(record)]
    parts += ["## Methods that need tiles or clips", _elsewhere(elsewhere)]
    return "\n\n".join(parts) + "\n"


COMPOSITIONS = {  # beside their parts
    "compose(score=vtc_cls, select=zoo_prune)": ("vtc_cls", "zoo_prune"),
    "compose(score=fastervlm, allocate=holov)": ("fastervlm", "holov"),
    "compose(score=fastervlm, merge=visionzip)": ("fastervlm", "visionzip"),
}


def composition_table() -> str:
    """Compositions at a ninth of the tokens, beside their parts."""
    record = json.loads((RECORDS / "bench_connector.json").read_text(encoding="utf-8"))
    section = next(s for s in record["keeps"] if s["keep"] == "1/9")
    entries = {e["pipeline_name"]: e for e in _entries(section)}
    lines = [_row(["", "accuracy", *record["types"]]), _row(["---"] * (2 + len(record["types"])))]
    for mixed, parts in COMPOSITIONS.items():
        for name in (mixed, *parts):
            entry = entries[name]
            by_type = [f"{100 * entry['by_type'][kind]['value']:.0f}" for kind in record["types"]]
            shown = f"**{name}**" if name == mixed else name
            lines.append(_row([shown, _accuracy(entry), *by_type]))
    return "\n".join(lines)


def _how(record: dict[str, Any]) -> str:
    run = record["runs"][0]
    commits = ", ".join(dict.fromkeys(str(r["commit"])[:7] for r in record["runs"]))
    machine = f"{run['cores']} cores, {run['threads']} thread(s), torch {run['versions']['torch']}"
    return (
        f"The embedded model on freshly drawn questions, 200 of each type, "
        f"{run['started_at'][:10]}, {machine}; {len(record['runs'])} sittings on one ledger (commits {commits}), which "
        f"together are\n\n    {COMMAND}\n\nand the compositions. Times in the record were taken beside other jobs.\n\n"
        "The weights are those of commit ab95817, before the model was taught several pictures. "
        "The model has three million weights and reads pictures of 112 x 112 pixels, 196 visual tokens; it was trained "
        "on smaller ones too. What holds here need not hold for a large model on photographs; what fails here has "
        "failed on a model that answers nearly every question when it sees all tokens."
    )


def _overall(sections: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(e["pipeline_name"] for s in sections for e in _entries(s)))
    lines = [_row(["method", *(f"keep {_share(s['keep'])}" for s in sections)]), _row(["---"] * (1 + len(sections)))]
    for name in names:
        cells = []
        for section in sections:
            entry = next((e for e in _entries(section) if e["pipeline_name"] == name), None)
            cells.append("" if entry is None else _accuracy(entry))
        lines.append(_row([name, *cells]))
    return "\n".join(lines)


def _plainly(sections: list[dict[str, Any]]) -> str:
    """Which methods lie above and below a smaller picture, one line a keep."""
    lines = []
    for section in sections:
        signs = {e["pipeline_name"]: _sign(e["against"]["downsample"]) for e in _methods(section)}
        above, same, below = ([n for n, s in signs.items() if s == wanted] for wanted in (1, 0, -1))
        told = [f"{len(above)} of {len(signs)} are better than the smaller picture"]
        told += [f"no better and no worse: {', '.join(same)}"] if same else []
        told += [f"worse: {', '.join(below)}"] if below else []
        lines.append(f"- keep {_share(section['keep'])}: {'; '.join(told)}.")
    return "\n".join(lines)


def _own_counts(record: dict[str, Any]) -> str:
    """Methods that take no keep, beside the full model."""
    section = next(s for s in record["keeps"] if s["keep"] is None)
    lines = [_row(["method", "tokens", "accuracy"]), _row(["---", "---:", "---"])]
    lines += [_row([e["pipeline_name"], f"{e['tokens_kept']:.0f}", _accuracy(e)]) for e in _entries(section)]
    return "\n".join(lines)


def _accuracy(entry: dict[str, Any]) -> str:
    value, low, high = (f"{100 * entry['accuracy'][n]:.1f}" for n in ("value", "low", "high"))
    against = entry["against"]["downsample"]
    mark = "" if against is None else {1: " ▲", -1: " ▼", 0: ""}[_sign(against)]
    return f"{value} [{low}, {high}]{mark}"


def _reading(sections: list[dict[str, Any]], types: list[str]) -> str:
    compared = sum(len(_methods(s)) * len(types) for s in sections)
    return (
        "Points above (+) or below (-) the down-sampled picture at the same keep, on the same questions; `=` where the "
        "95 % interval of the paired difference holds 0. The intervals stand each for itself: of "
        f"{compared} comparisons about {round(compared * 0.05)} would leave 0 out by chance if no method differed."
    )


def _words(section: dict[str, Any], types: list[str]) -> str:
    """What the table says, type by type."""
    lines = []
    for kind in types:
        signs = {e["pipeline_name"]: _sign(e["over_downsample"][kind]) for e in _methods(section)}
        better, worse = ([n for n, s in signs.items() if s == wanted] for wanted in (1, -1))
        same = len(signs) - len(better) - len(worse)
        down = next(e for e in _entries(section) if e["method"] == "downsample")["by_type"][kind]["value"]
        told = f"better: {', '.join(better)}" if better else "nothing is better"
        told += f"; worse: {', '.join(worse)}" if worse else "; nothing is worse"
        lines.append(f"- **{kind}** (the smaller picture: {100 * down:.0f} %). {told}; no difference seen: {same}.")
    return "\n".join(lines)


def _differences(section: dict[str, Any], types: list[str]) -> str:
    lines = [_row(["method", "tokens", *types]), _row(["---", "---:", *["---:"] * len(types)])]
    for entry in _methods(section):
        cells = [_difference(entry["over_downsample"][kind]) for kind in types]
        lines.append(_row([entry["pipeline_name"], f"{entry['tokens_kept']:.0f}", *cells]))
    return "\n".join(lines)


def _difference(estimate: dict[str, float]) -> str:
    return f"{100 * estimate['value']:+.0f}" if _sign(estimate) else "="


def _elsewhere(record: dict[str, Any]) -> str:
    """Methods that one square picture cannot test: that they run, and how many tokens they leave."""
    lines = [_row(["method", "family", "input", "visual tokens", "kept"]), _row(["---"] * 3 + ["---:"] * 2)]
    for entry in record["runs"]:
        cells = [entry["pipeline"], entry["family"], entry["input"], str(entry["tokens_in"]), str(entry["tokens_kept"])]
        lines.append(_row(cells))
    return (
        "The embedded model reads one square picture. These methods ran on tiny models with random weights of families "
        "that have tiles or clips, which says that they act and how many tokens they leave, and nothing about answers "
        f"(`{record['command']}`). Their claims wait for data of that kind.\n\n" + "\n".join(lines)
    )


def _entries(section: dict[str, Any]) -> list[dict[str, Any]]:
    """Settings of a section, each under the name of its method."""
    out = []
    for entry in section["settings"]:
        keep = entry["keep"]
        name = entry["pipeline"].removesuffix(f":{keep}") if keep is not None else entry["pipeline"]
        out.append({**entry, "pipeline_name": name})
    return out


def _methods(section: dict[str, Any]) -> list[dict[str, Any]]:
    return [e for e in _entries(section) if e["method"] not in REFERENCES and e["over_downsample"]]


def _sign(estimate: dict[str, float]) -> int:
    """1 above 0, -1 below, 0 where the interval does not say."""
    return 1 if estimate["low"] > 0 else -1 if estimate["high"] < 0 else 0


def _share(keep: str) -> str:
    """A keep as a plain fraction."""
    return str(Fraction(keep).limit_denominator(1000))


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
