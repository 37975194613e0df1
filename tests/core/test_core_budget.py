"""How many tokens to keep: what is read, what is refused with which hint, and what comes out for every scope."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessella.core.budget import (
    Budget,
    Counts,
    decision_unit,
    divide,
    format_keep,
    parse_keep,
    resolve_counts,
    round_count,
)
from tessella.core.errors import BudgetError
from tessella.core.layout import Block, Layout

ALLOWED = "keep must be an int >= 1, a fraction in (0, 1] or 'a/b'"


@pytest.mark.parametrize(
    "given_keep, want",
    [
        (1, 1),
        (576, 576),
        ("64", 64),
        (" 64 ", 64),
        ("+5", 5),
        (np.int64(5), 5),
        (0.5, Fraction(1, 2)),
        (0.3, Fraction(3, 10)),
        (np.float64(0.1), Fraction(1, 10)),
        ("0.25", Fraction(1, 4)),
        ("1e-2", Fraction(1, 100)),
        ("1/9", Fraction(1, 9)),
        ("2/4", Fraction(1, 2)),
        (Fraction(2, 3), Fraction(2, 3)),
        (1.0, Fraction(1)),
        ("1.0", Fraction(1)),
        ("1/1", Fraction(1)),
    ],
)
def test_keep_is_read(given_keep: object, want: object) -> None:
    got = parse_keep(given_keep)
    assert got == want
    assert type(got) is type(want)


@pytest.mark.parametrize(
    "given_keep, shown, hint",
    [
        ("25%", "'25%'", " For a quarter write 0.25 or 1/4."),
        ("50 %", "'50 %'", " Write 0.5."),
        ("33%", "'33%'", " Write 0.33."),
        ("250%", "'250%'", ""),
        ("0%", "'0%'", ""),
        ("x%", "'x%'", ""),
        ("1e9999999999", "'1e9999999999'", ""),
        ("1e-99_999_999_999%", "'1e-99_999_999_999%'", ""),
        ("%", "'%'", ""),
        (0, "0", ""),
        (-3, "-3", ""),
        ("0", "'0'", ""),
        ("-1", "'-1'", ""),
        (0.0, "0.0", ""),
        (-0.5, "-0.5", ""),
        (1.5, "1.5", ""),
        (64.0, "64.0", " For 64 tokens write 64."),
        ("2.0", "'2.0'", " For 2 tokens write 2."),
        ("3/2", "'3/2'", ""),
        ("1/0", "'1/0'", ""),
        ("", "''", ""),
        ("half", "'half'", ""),
        ("1/2/3", "'1/2/3'", ""),
        ("\N{SUPERSCRIPT TWO}", "'\N{SUPERSCRIPT TWO}'", ""),
        (math.nan, "nan", ""),
        (math.inf, "inf", ""),
        ("nan", "'nan'", ""),
        (True, "True", ""),
        (None, "None", ""),
        ([1], "[1]", ""),
    ],
)
def test_keep_is_refused(given_keep: object, shown: str, hint: str) -> None:
    with pytest.raises(BudgetError) as error:
        parse_keep(given_keep)
    assert str(error.value) == f"{ALLOWED}; got {shown}.{hint}"
    assert isinstance(error.value, ValueError)


@given(keep=st.integers(1, 10**6) | st.fractions(0, 1).filter(bool))
def test_format_reads_back(keep: int | Fraction) -> None:
    again = parse_keep(format_keep(keep))
    assert again == keep
    assert type(again) is type(keep)


def test_budget() -> None:
    assert Budget("1/2") == Budget(0.5)
    assert hash(Budget("1/2")) == hash(Budget(0.5))
    assert str(Budget(64, "tile")) == "64 per tile"
    assert str(Budget(Fraction(1, 3))) == "1/3"
    assert Budget(1.0).is_everything
    assert not Budget(1).is_everything
    with pytest.raises(BudgetError, match=r"no scope 'crop'; allowed: image, tile, frame, prompt, layer-mean\."):
        Budget(5, "crop")


@pytest.mark.parametrize(
    "value, nearest, floor, ceil",
    [("1/2", 0, 0, 1), ("3/2", 2, 1, 2), ("5/2", 2, 2, 3), ("27/10", 3, 2, 3), ("4", 4, 4, 4)],
)
def test_rounding(value: str, nearest: int, floor: int, ceil: int) -> None:
    got = [round_count(Fraction(value), how) for how in ("nearest", "floor", "ceil")]  # type: ignore[arg-type]
    assert got == [nearest, floor, ceil]


@given(sizes=st.lists(st.integers(0, 50), min_size=1, max_size=8), data=st.data())
def test_divide_is_the_largest_remainder(sizes: list[int], data: st.DataObject) -> None:
    total = data.draw(st.integers(0, sum(sizes)))
    shares = divide(total, sizes)
    assert sum(shares) == total
    for share, size in zip(shares, sizes, strict=True):
        assert share <= size
        assert abs(share - Fraction(total * size, max(sum(sizes), 1))) < 1
    assert divide(total, sizes[::-1])[::-1] == shares or len(set(sizes)) < len(sizes)


def test_divide_gives_ties_to_the_earlier_group() -> None:
    assert divide(1, [3, 3, 3]) == [1, 0, 0]
    assert divide(5, [4, 4, 4]) == [2, 2, 1]
    assert divide(0, [0, 0]) == [0, 0]


# two prompts: one picture of two tiles (6 and 4 tokens) and one of a single tile of 6; one picture of 6
LAYOUT = Layout.build(
    [range(16), range(6)],
    [[Block(0, 2, 3), Block(0, 2, 2, tile=1), Block(1, 2, 3)], [Block(0, 2, 3)]],
)


def counts(keep: object, scope: str, unit: str, rounding: str = "nearest", min_keep: int = 1) -> Counts:
    decided = decision_unit(scope, unit)  # type: ignore[arg-type]
    return resolve_counts(
        Budget(keep),
        LAYOUT,
        LAYOUT.split(decided),
        scope=scope,  # type: ignore[arg-type]
        rounding=rounding,  # type: ignore[arg-type]
        min_keep=min_keep,
    )


@pytest.mark.parametrize(
    "keep, scope, unit, num_keep, num_tokens",
    [
        (5, "image", "tile", (3, 2, 5, 5), (6, 4, 6, 6)),  # the first picture's 5 over its tiles
        (5, "image", "image", (5, 5, 5), (10, 6, 6)),
        (1, "image", "tile", (1, 0, 1, 1), (6, 4, 6, 6)),
        (3, "tile", "tile", (3, 3, 3, 3), (6, 4, 6, 6)),
        (3, "tile", "prompt", (3, 3, 3, 3), (6, 4, 6, 6)),  # the scope is finer than the method's unit
        (4, "prompt", "tile", (8, 4), (16, 6)),  # two pictures share twice as many
        (0.5, "image", "tile", (3, 2, 3, 3), (6, 4, 6, 6)),
        (0.5, "prompt", "prompt", (8, 3), (16, 6)),
        (0.5, "frame", "tile", (5, 3, 3), (10, 6, 6)),
        (0.5, "layer-mean", "prompt", (8, 3), (16, 6)),
        (0.01, "image", "image", (1, 1, 1), (10, 6, 6)),  # at least min_keep
        (1.0, "image", "tile", (6, 4, 6, 6), (6, 4, 6, 6)),
        (6, "image", "image", (6, 6, 6), (10, 6, 6)),
    ],
)
def test_counts(keep: object, scope: str, unit: str, num_keep: tuple[int, ...], num_tokens: tuple[int, ...]) -> None:
    got = counts(keep, scope, unit)
    assert (got.num_keep, got.num_tokens) == (num_keep, num_tokens)
    assert got.asked


def test_counts_round_as_the_card_says() -> None:
    assert counts("1/4", "tile", "tile").num_keep == (2, 1, 2, 2)  # 1.5 goes to the even neighbour
    assert counts("1/4", "tile", "tile", "floor").num_keep == (1, 1, 1, 1)
    assert counts("1/4", "tile", "tile", "ceil").num_keep == (2, 1, 2, 2)
    assert counts("1/100", "tile", "tile", "floor", min_keep=0).num_keep == (0, 0, 0, 0)
    assert counts("1/100", "tile", "tile", min_keep=5).num_keep == (5, 4, 5, 5)  # or everything


def test_an_int_below_what_a_method_leaves_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"keep=2 asks for 2 visual token\(s\) per image; .* leaves at least 3"):
        counts(2, "image", "image", min_keep=3)
    assert counts(3, "image", "image", min_keep=3).num_keep == (3, 3, 3)


@pytest.mark.parametrize(
    "keep, scope, message",
    [
        (7, "image", "keep=7 asks for 7 visual tokens per image, but only 6 are there; allowed: 1 to 6, or a fraction"),
        (5, "tile", "keep=5 asks for 5 visual tokens per tile, but only 4 are there; allowed: 1 to 4, or a fraction"),
        (9, "prompt", "keep=9 asks for 18 visual tokens per prompt, but only 16 are there; allowed: 1 to 8, or a frac"),
    ],
)
def test_more_than_there_is(keep: int, scope: str, message: str) -> None:
    with pytest.raises(BudgetError) as error:
        counts(keep, scope, "tile")
    assert str(error.value).startswith(message)


def test_a_capped_budget_takes_what_there_is() -> None:
    counts = resolve_counts(
        Budget(5, capped=True), LAYOUT, LAYOUT.split("tile"), scope="tile", rounding="nearest", min_keep=1
    )
    assert counts.num_keep == (5, 4, 5, 5)
    assert counts.num_tokens == (6, 4, 6, 6)


def test_decision_units() -> None:
    units = ("tile", "frame", "image", "prompt")
    assert [decision_unit("image", u) for u in units] == ["tile", "frame", "image", "image"]
    assert [decision_unit("layer-mean", u) for u in units] == list(units)
    for scope in ("tile", "frame", "prompt"):
        assert {decision_unit(scope, u) for u in units} == {scope}


def test_widths() -> None:
    assert Counts((3, 1), (6, 6)).most == 3
    assert Counts((), ()).most == 0
    assert Counts((6, 6), (6, 6)).is_everything
    assert not Counts((6, 5), (6, 6)).is_everything
