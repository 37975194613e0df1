"""The part of the family contract about counts: scopes of a budget, newlines and thumbnails, methods on a family."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Literal

import torch

from ..core.cards import Fate
from ..core.layout import NEWLINE, THUMBNAIL, Layout
from ..core.pipeline import as_pipeline
from ..engine.apply import can_apply, reduce
from .families import TinyFamily
from .family_cases import Row, batches, everything, inputs_of, num_visual, prompts, tiny_model, tokens_of

KEEP = Fraction(2, 5)
ROUND: dict[str, Callable[[Fraction], int]] = {"nearest": round, "floor": math.floor, "ceil": math.ceil}
PER = {"image": ("image",), "tile": ("image", "frame", "tile"), "frame": ("image", "frame"), "prompt": ()}


def check_scopes(family: TinyFamily) -> None:
    """A fraction is kept of each image, tile, frame or prompt, rounded once a group; an int of each too."""
    model = tiny_model(family)
    for name, rows in everything(family).items():
        inputs = inputs_of(family, *rows)
        for scope, columns in PER.items():
            for keep in (str(KEEP), 2):
                with reduce(model, "random", keep=keep, scope=scope, newlines="compete") as run:  # type: ignore[arg-type]
                    model(**inputs)
                tokens = _tokens_of(run)
                assert [len(r) for r in tokens] == list(num_visual(model, inputs)), f"{family.id}, {name}: layout"
                for group in _groups(tokens, columns):
                    images = len({t["image"] for t in group})
                    expected = max(round(KEEP * len(group)), 1) if keep != 2 else 2 * images
                    found = sum(t["kept"] for t in group)
                    assert found == expected, (
                        f"{family.id}, {name}: keep={keep} per {scope} keeps {found} of {len(group)}, not {expected}"
                    )


def check_layer_mean(family: TinyFamily) -> None:
    """A budget over the layer mean is met as closely as whole tokens allow; cache and report agree."""
    model = tiny_model(family)
    inputs = inputs_of(family, Row(family.sizes[:1]))
    count = num_visual(model, inputs)[0]
    for method, reach in (("random", 1.0), ("fastv@2", 0.5)):
        with reduce(model, method, keep=0.75, scope="layer-mean", newlines="compete") as run:
            cache = model(**inputs).past_key_values
        report = run.report
        assert abs(report.mean_keep_ratio - 0.75) <= reach / (2 * count) + 1e-9, (
            f"{family.id}: {method} at 0.75 per layer-mean gives {report.mean_keep_ratio:.4f}"
        )
        text = inputs["input_ids"].shape[1] - count
        held = _held(cache, text)
        said = [n for n, layer in zip(report.layers, cache.layers, strict=True) if not _slides(layer)]
        assert held == said, f"{family.id}: the cache holds {held}, the report says {said}"
        assert report.mean_keep_ratio == sum(report.layers) / (len(report.layers) * count)


def check_newlines(family: TinyFamily) -> None:
    """Newlines follow their line, all stay, all go, or compete, as was asked; the report counts them."""
    _check_roles(family, NEWLINE, "newlines", ("follow", "keep", "drop", "compete"))


def check_thumbnails(family: TinyFamily) -> None:
    """Thumbnails all stay, all go, or compete, as was asked; the report counts them."""
    _check_roles(family, THUMBNAIL, "thumbnails", ("keep", "drop", "compete"))


def method_keeps_all(family: TinyFamily, pipeline: str) -> None:
    """At keep=1.0 a method changes no bit of logits and tokens, and has made its cut."""
    model = tiny_model(family)
    for name, inputs in _method_inputs(family, pipeline).items():
        logits, tokens = model(**inputs).logits, tokens_of(model, inputs, 3)
        with reduce(model, pipeline, keep=1.0) as run:
            assert torch.equal(logits, model(**inputs).logits), f"{pipeline} on {family.id}, {name}: logits change"
            assert tokens == tokens_of(model, inputs, 3), f"{pipeline} on {family.id}, {name}: tokens change"
            assert run.num_cuts + run.num_rewrites >= 1, f"{pipeline} on {family.id}, {name}: it never acted"


def method_counts(family: TinyFamily, pipeline: str) -> None:
    """As many tokens stay as its card promises of each group of its scope, in cache and report alike."""
    model, card = tiny_model(family), as_pipeline(pipeline).parts[0].method.card
    for name, inputs in _method_inputs(family, pipeline).items():
        with reduce(model, pipeline, keep=str(KEEP), newlines="keep") as run:
            cache = model(**inputs).past_key_values
        where = f"{pipeline} on {family.id}, {name}"
        tokens = _tokens_of(run)
        for group in _groups(tokens, PER.get(card.scope, ("image",))):
            others = [t for t in group if t["role"] != NEWLINE]
            found, asked = sum(t["kept"] for t in others), max(ROUND[card.rounding](KEEP * len(others)), card.min_keep)
            promised = card.promised_count(asked=True)
            assert found == asked or (promised == "at_most" and 0 < found <= asked) or promised == "adaptive", (
                f"{where}: {found} of {len(others)} stay where {asked} were asked"
            )
        record = run.report.last
        assert record is not None
        assert record.tokens_in == tuple(tuple(map(len, _groups([r], ("image",)))) for r in tokens), where
        assert sum(map(sum, record.tokens_kept)) == sum(t["kept"] for r in tokens for t in r), where
        last = _held(cache)[-1]
        text = [int(mask.sum()) - len(r) for mask, r in zip(inputs["attention_mask"], tokens, strict=True)]
        most = max(n + sum(t["kept"] for t in r) for n, r in zip(text, tokens, strict=True))
        pads = [len(mask) - int(mask.sum()) for mask in inputs["attention_mask"]]
        assert most <= last <= most + max(pads), f"{where}: the last layer holds {last} tokens, the longest row {most}"


def method_decodes_as_without_cache(family: TinyFamily, pipeline: str) -> None:
    """Tokens decoded on the cache equal those of a whole forward at every step."""
    model = tiny_model(family)
    for name, inputs in _method_inputs(family, pipeline).items():
        with reduce(model, pipeline, keep=str(KEEP)):
            cached, again = (tokens_of(model, inputs, 4, use_cache=use) for use in (True, False))
        assert cached == again, f"{pipeline} on {family.id}, {name}: decoding with and without cache differ"


def _method_inputs(family: TinyFamily, pipeline: str) -> dict[str, Any]:
    """Prompts for a method; none where the model cannot carry it and says why."""
    verdict = can_apply(tiny_model(family), pipeline)
    if not verdict:
        assert verdict.reason, f"{pipeline} is refused on {family.id} without a reason"
        return {}
    return {"pictures": inputs_of(family, *batches(family)["pictures"]), **_clips(family)}


def _clips(family: TinyFamily) -> dict[str, Any]:
    return {"clip": inputs_of(family, prompts(family)["clip"])} if family.takes_video else {}


def _check_roles(
    family: TinyFamily, role: int, argument: Literal["newlines", "thumbnails"], fates: tuple[Fate, ...]
) -> None:
    model = tiny_model(family)
    for name, row in {**prompts(family), "last": Row(family.sizes[-1:])}.items():
        inputs = inputs_of(family, row)
        for fate in fates:
            where = f"{family.id}, {name}: {argument}={fate!r}"
            others: dict[str, Any] = {"newlines": "compete", argument: fate}
            with reduce(model, "random", keep=str(KEEP), **others) as run:
                cache = model(**inputs).past_key_values
            tokens = _tokens_of(run)
            for image in _groups(tokens, ("image",)):
                mine = [t for t in image if t["role"] == role]
                rivals = image if fate == "compete" else [t for t in image if t["role"] != role]
                found, asked = sum(t["kept"] for t in rivals), max(round(KEEP * len(rivals)), 1)
                assert found == asked, f"{where}: {found} of {len(rivals)} that compete stay, not {asked}"
                due = {
                    "compete": lambda t: t["kept"],
                    "keep": lambda t: True,
                    "drop": lambda t: False,
                    "follow": _follows(rivals),
                }[fate]
                wrong = [t for t in mine if t["kept"] != due(t)]
                assert not wrong, f"{where}: {len(wrong)} of {len(mine)} such tokens have another fate"
            kept = sum(t["kept"] for t in tokens[0])
            assert run.report.tokens_kept == kept, f"{where}: {kept} stay, the report says {run.report.tokens_kept}"
            assert run.report.tokens_in == len(tokens[0]), f"{where}: the report counts {run.report.tokens_in} before"
            held = _held(cache, inputs["input_ids"].shape[1] - len(tokens[0]))[0]
            assert held == kept, f"{where}: {kept} stay, the cache holds {held}"


def _held(cache: Any, text: int = 0) -> list[int]:
    """Tokens in each layer of a cache that forgets nothing, without so many."""
    return [int(layer.keys.shape[-2]) - text for layer in cache.layers if not _slides(layer)]


def _slides(layer: Any) -> bool:
    return getattr(layer, "sliding_window", None) is not None


def _follows(others: list[dict[str, int]]) -> Callable[[dict[str, int]], bool]:
    """Whether a newline has company: of its line or, for one behind an image, of the image."""
    lines = {t["line"] for t in others if t["kept"]}
    return lambda t: bool(lines) if t["line"] < 0 else t["line"] in lines


def _tokens_of(run: Any) -> list[list[dict[str, int]]]:
    """For each row of the last prompt what its visual tokens are, and whether each is kept."""
    layout: Layout = run.layout
    out = []
    for row, count in enumerate(layout.num_tokens):
        columns = ("slot", "image", "tile", "frame", "line", "role")
        values = [getattr(layout, name)[row, :count].tolist() for name in columns]
        tokens = [dict(zip(columns, token, strict=True), kept=0) for token in zip(*values, strict=True)]
        for image, kept in enumerate(run.kept[row]):
            mine = sorted((t for t in tokens if t["image"] == image), key=lambda t: (t["frame"], t["tile"], t["slot"]))
            for index in kept.tolist():
                mine[index]["kept"] = 1
        out.append(tokens)
    return out


def _groups(rows: list[list[dict[str, int]]], columns: tuple[str, ...]) -> list[list[dict[str, int]]]:
    """Tokens of all rows, grouped by row and what these columns say."""
    groups: dict[tuple[int, ...], list[dict[str, int]]] = {}
    for number, row in enumerate(rows):
        for token in row:
            groups.setdefault((number, *(token[c] for c in columns)), []).append(token)
    return list(groups.values())
