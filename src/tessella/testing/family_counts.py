"""The part of the family contract about counts: scopes of a budget, newlines and thumbnails."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, Literal

from ..core.cards import Fate
from ..core.layout import NEWLINE, ROLES, THUMBNAIL, Layout
from ..engine.apply import reduce
from ..models.placing import layout_of
from .families import TinyFamily
from .family_cases import Row, adapter_of, batches, everything, inputs_of, num_visual, prompts, tiny_model

KEEP = Fraction(2, 5)
FEW = Fraction(1, 12)  # so that some lines lose all of their tokens
PER = {"image": ("image",), "tile": ("image", "frame", "tile"), "frame": ("image", "frame"), "prompt": ()}


def check_scopes(family: TinyFamily) -> None:
    """A fraction is kept of each image, tile, frame or prompt, rounded once a group; an int of each too."""
    model = tiny_model(family)
    for name, rows in [*batches(family).items(), ("last", list(everything(family).values())[-1])]:
        inputs = inputs_of(family, *rows)
        for scope, columns in PER.items():
            for keep in (str(KEEP), 2):
                with reduce(model, "random", keep=keep, scope=scope, newlines="compete") as run:  # type: ignore[arg-type]
                    model(**inputs)
                tokens = marked_tokens(run)
                assert [len(r) for r in tokens] == list(num_visual(model, inputs)), f"{family.id}, {name}: layout"
                for group in groups(tokens, columns):
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
        left = held(cache, text)
        said = [n for n, layer in zip(report.layers, cache.layers, strict=True) if not _slides(layer)]
        assert left == said, f"{family.id}: the cache holds {left}, the report says {said}"
        assert report.mean_keep_ratio == sum(report.layers) / (len(report.layers) * count)


def check_newlines(family: TinyFamily) -> None:
    """Newlines follow their line, all stay, all go, or compete, as was asked; the report counts them."""
    _check_roles(family, NEWLINE, "newlines", ("follow", "keep", "drop", "compete"))


def check_thumbnails(family: TinyFamily) -> None:
    """Thumbnails all stay, all go, or compete, as was asked; the report counts them."""
    _check_roles(family, THUMBNAIL, "thumbnails", ("keep", "drop", "compete"))


def _check_roles(
    family: TinyFamily, role: int, argument: Literal["newlines", "thumbnails"], fates: tuple[Fate, ...]
) -> None:
    model = tiny_model(family)
    there = [row for row in (*prompts(family).values(), Row(family.sizes[-1:])) if _has_role(family, row, role)]
    partial = 0
    for row in there or [Row(family.sizes[:1])]:
        inputs, name = inputs_of(family, row), str(row)
        for fate in fates:
            where = f"{family.id}, {name}: {argument}={fate!r}"
            others: dict[str, Any] = {"newlines": "compete", argument: fate}
            with reduce(model, "random", keep=str(FEW), **others) as run:
                cache = model(**inputs).past_key_values
            tokens = marked_tokens(run)
            for image in groups(tokens, ("image",)):
                mine = [t for t in image if t["role"] == role]
                rivals = image if fate == "compete" else [t for t in image if t["role"] != role]
                found, asked = sum(t["kept"] for t in rivals), max(round(FEW * len(rivals)), 1)
                assert found == asked, f"{where}: {found} of {len(rivals)} that compete stay, not {asked}"
                due = {
                    "compete": lambda t: t["kept"],
                    "keep": lambda t: True,
                    "drop": lambda t: False,
                    "follow": _follows(rivals),
                }[fate]
                wrong = [t for t in mine if t["kept"] != due(t)]
                assert not wrong, f"{where}: {len(wrong)} of {len(mine)} such tokens have another fate"
                partial += 0 < sum(t["kept"] for t in mine) < len(mine)
            mine = [t["kept"] for t in tokens[0] if t["role"] == role]
            count = run.report.roles.get(ROLES[role])
            told = (count.kept, count.of) if count else (0, 0)
            assert told == (sum(mine), len(mine)), f"{where}: the report counts {told} of them"
            kept = sum(t["kept"] for t in tokens[0])
            assert run.report.tokens_kept == kept, f"{where}: {kept} stay, the report says {run.report.tokens_kept}"
            assert run.report.tokens_in == len(tokens[0]), f"{where}: the report counts {run.report.tokens_in} before"
            left = held(cache, inputs["input_ids"].shape[1] - len(tokens[0]))[0]
            assert left == kept, f"{where}: {kept} stay, the cache holds {left}"
    assert partial or not there, f"{family.id}: all {argument} stay or go together, so nothing was seen"


def _has_role(family: TinyFamily, row: Row, role: int) -> bool:
    layout = layout_of(adapter_of(family), inputs_of(family, row))
    return layout is not None and layout.has(role)


def held(cache: Any, text: int = 0) -> list[int]:
    """Tokens in each layer of a cache that forgets nothing, without so many."""
    return [int(layer.keys.shape[-2]) - text for layer in cache.layers if not _slides(layer)]


def _slides(layer: Any) -> bool:
    return getattr(layer, "sliding_window", None) is not None


def _follows(others: list[dict[str, int]]) -> Callable[[dict[str, int]], bool]:
    """Whether a newline has company: of its line or, for one behind an image, of the image."""
    lines = {t["line"] for t in others if t["kept"]}
    return lambda t: bool(lines) if t["line"] < 0 else t["line"] in lines


def marked_tokens(run: Any) -> list[list[dict[str, int]]]:
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


def groups(rows: list[list[dict[str, int]]], columns: tuple[str, ...]) -> list[list[dict[str, int]]]:
    """Tokens of all rows, grouped by row and what these columns say."""
    groups: dict[tuple[int, ...], list[dict[str, int]]] = {}
    for number, row in enumerate(rows):
        for token in row:
            groups.setdefault((number, *(token[c] for c in columns)), []).append(token)
    return list(groups.values())
