"""Which third of a picture kept tokens lie in: counted by hand, and read from the embedded model."""

from __future__ import annotations

from typing import Any

import pytest

import tessella
from tessella.bench import regions
from tessella.bench.claims.claim import Claim
from tessella.bench.claims.evidence import BOTTOM, gather
from tessella.bench.claims.rule import evaluate
from tessella.bench.regions import Thirds, count_thirds, measure_thirds, thirds_table
from tessella.core.errors import BudgetError, InputError


def test_thirds_by_hand() -> None:
    """14 rows of 2: rows 0 to 4, 5 to 9 and 10 to 13."""
    thirds = count_thirds([0, 9, 10, 19, 20, 27], rows=14, columns=2)
    assert thirds == Thirds(there=(10, 10, 8), kept=(2, 2, 2))
    assert thirds.share_kept(2) == pytest.approx(2 / 6)
    assert thirds.share_dropped(0) == pytest.approx(8 / 22)
    assert count_thirds([], rows=2, columns=1) == Thirds((1, 1, 0), (0, 0, 0))
    with pytest.raises(InputError, match="no token was kept"):
        Thirds((1, 1, 1), (0, 0, 0)).share_kept(0)
    with pytest.raises(InputError, match="no token was dropped"):
        Thirds((1, 1, 1), (1, 1, 1)).share_dropped(0)


def test_bottom_claim_by_hand() -> None:
    """First keeps 4 of 6 below, and 2 of 6 in every second picture; second always 1 of 6."""
    claim = Claim("bottom", "", "", (("fastv:6", "random:6"),), ("place",), metric=BOTTOM, samples=40)
    there = (10, 10, 8)
    pictures = {q: Thirds(there, (2, 0, 4) if q[1] % 2 else (2, 2, 2)) for q in claim.questions}
    other = dict.fromkeys(claim.questions, Thirds(there, (3, 2, 1)))
    verdict = evaluate(claim, gather([], thirds={"fastv:6": pictures, "random:6": other}))
    assert verdict.status == "shown"
    assert verdict.compared[0].values == pytest.approx((0.5, 1 / 6))
    assert verdict.compared[0].difference.low == pytest.approx(1 / 3 - 1.96 * (1 / 6) / 40**0.5, abs=0.01)
    missing = evaluate(claim, gather([], thirds={"fastv:6": pictures}))
    assert (missing.status, missing.missing) == ("not measured", ("random:6",))
    table = thirds_table({"fastv:6": pictures}, 0, 2000)
    # dropped of 22: above 8; in the middle 10 or 8; below 4 or 6
    assert table.rows[0][1] == "36.4 [36.4, 36.4]"
    assert [cell.split()[0] for cell in table.rows[0][2:4]] == ["40.9", "22.7"]
    assert table.rows[0][4] == "40"


@pytest.fixture(scope="module")
def mini() -> tuple[Any, Any]:
    return tessella.load("mini")


def test_thirds_of_a_model(mini: tuple[Any, Any]) -> None:
    """What a grid method keeps is known: 49 of 14 x 14, every second row and column."""
    model, processor = mini
    questions = [("place", 3), ("colour", 4), ("place", 5)]
    whole = measure_thirds(model, processor, "uniform:49", questions)
    assert list(whole) == questions
    assert {t.there for t in whole.values()} == {(70, 70, 56)}
    assert {t.kept for t in whole.values()} == {(14, 21, 14)}
    random = measure_thirds(model, processor, "random:30", questions)
    assert all(sum(t.kept) == 30 for t in random.values())
    one_by_one = {q: measure_thirds(model, processor, "hiprune:20", [q])[q] for q in questions}
    assert measure_thirds(model, processor, "hiprune:20", questions) == one_by_one
    with pytest.raises(BudgetError):
        measure_thirds(model, processor, "random:300", questions)


def test_batches_of_pictures_change_nothing(mini: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    questions = [("place", seed) for seed in range(5)]
    whole = measure_thirds(*mini, "divprune:1/9", questions)
    monkeypatch.setattr(regions, "BATCH", 2)
    assert measure_thirds(*mini, "divprune:1/9", questions) == whole
