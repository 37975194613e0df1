"""The claims as they are written down: one for every method, each decidable, or too large for the embedded model."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from claim_rows import CLAIM

import tessella
from tessella.bench.claims import stated
from tessella.bench.claims.claim import Claim, Halfway
from tessella.bench.claims.conditions import LARGE_PICTURES, TILES
from tessella.bench.claims.evidence import Evidence, gather
from tessella.bench.claims.page import LIST, claim_list, put_between
from tessella.bench.claims.probing import read_abilities
from tessella.bench.claims.rule import evaluate, failed_conditions
from tessella.bench.claims.stated_headlines import HEADLINES
from tessella.bench.claims.stated_in_model import IN_MODEL
from tessella.bench.claims.stated_scenes import SCENES
from tessella.core.errors import InputError
from tessella.core.pipeline import as_pipeline
from tessella.core.registry import method_modules, methods
from tessella.engine.plan import counts_of, make_plan, units_of
from tessella.mini.questions import KINDS, sample
from tessella.models.adapter import find_adapter
from tessella.models.placing import layout_of
from tessella.testing.families import tiny_family

TOO_LARGE = {  # claim: what the embedded model has not
    "evs-fifth": "the frames of a clip",
    "aot-quarter": "the frames of a clip",
    "globalcom2-thumbnail": "several tiles for each picture of the questions",
    "slime-fewer-tokens": "several tiles for each picture of the questions",
    "adaptvision-tiles": "pictures in the questions that are larger than those its encoder was made for",
    "lrs-pyramid-large-pictures": "pictures in the questions that are larger than those its encoder was made for",
}


@pytest.fixture(scope="module")
def mini() -> tuple[Any, Any]:
    return tessella.load("mini")


@pytest.fixture(scope="module")
def known(mini: tuple[Any, Any]) -> Evidence:
    """What is known of the embedded model before it has answered anything."""
    return gather([], num_layers=find_adapter(mini[0]).info.num_layers, abilities=read_abilities(*mini))


def test_every_method_but_the_baselines_has_a_claim() -> None:
    about = {method for claim in stated.stated() for method in claim.about}
    ours = {name for name, module in method_modules().items() if module.startswith("tessella.")}
    assert about == set(methods(baseline=False)) & ours


def test_claims_are_well_formed() -> None:
    claims = stated.stated()
    assert len({c.id for c in claims}) == len(claims)
    for claim in claims:
        assert claim.preconditions, claim.id
        assert (claim.samples, claim.level) == (200, 0.95)
        assert all(isinstance(b, str | Halfway) and a != b for a, b in claim.comparisons)
    assert {c.seed for c in IN_MODEL} == {1}  # no earlier claim was decided on these questions
    late = (*HEADLINES, *SCENES)
    assert {c.seed for c in late} == {2}
    assert {c.seed for c in claims if c not in (*IN_MODEL, *late)} == {0}
    for claim in late:
        assert all(claim.about[0] in first for first, _ in claim.comparisons), claim.id


def test_claims_against_random_selection() -> None:
    random = [c for c in stated.stated() if not c.about]
    assert [c.id for c in random] == [f"better-than-random-{keep}" for keep in ("1/4", "1/9", "1/16")]
    for claim in random:
        compared = {a.split(":")[0] for a, _ in claim.comparisons}
        assert {"hiprune", "divprune", "visionzip", "uniform", "evs"} <= compared
        assert not {"none", "blind", "random", "layered", "adaptvision"} & compared


def test_those_that_the_embedded_model_can_carry(mini: tuple[Any, Any]) -> None:
    compared = {a.split(":")[0] for a, _ in stated.stated(mini[0])[-1].comparisons}
    assert "evs" not in compared
    assert {"quota", "aot", "lrs_pyramid"} <= compared


def test_every_comparison_can_be_made_or_a_written_condition_fails(mini: tuple[Any, Any], known: Evidence) -> None:
    """Every pipeline is planned for a drawn picture, its budgets solved; where that fails the claim has said so."""
    from tessella.app.prompting import prepare

    adapter, drawn = find_adapter(mini[0]), sample("colour", 3)
    layout = layout_of(adapter, prepare(*mini, [[drawn.image]], [drawn.question], 1))
    planned = 0
    for claim in stated.stated(mini[0]):
        if failed_conditions(claim, known):
            continue
        for pipeline in claim.pipelines:
            plan = make_plan(adapter, as_pipeline(pipeline), None)
            for step in [] if plan.rewriters else plan.steps(adapter, layout):
                counts_of(step, layout, units_of(step, layout, plan.roles), plan.roles, layout)
            planned += 1
    assert planned > 200


def test_what_needs_a_larger_model_says_why(known: Evidence) -> None:
    verdicts = [evaluate(claim, known) for claim in stated.stated()]
    assert {v.status for v in verdicts} == {"needs a larger model", "not measured"}
    assert {v.claim.id: v.reasons for v in verdicts if v.status == "needs a larger model"} == {
        name: (f"fails: a model with {what}",) for name, what in TOO_LARGE.items()
    }


def test_abilities_are_read_from_what_pictures_become(mini: tuple[Any, Any]) -> None:
    assert not {TILES, LARGE_PICTURES, "frames"} & read_abilities(*mini)
    assert {"several_grids", "class_token", "made_tokens"} <= read_abilities(*mini)
    large = copy.deepcopy(mini[1])
    large.image_processor.size = {"height": 168, "width": 168}
    large.image_processor.crop_size = {"height": 168, "width": 168}
    assert LARGE_PICTURES in read_abilities(mini[0], large)
    tiled = tiny_family("llava_next")
    assert TILES in read_abilities(tiled.model(), tiled.processor())


def test_claims_are_chosen_by_name_and_by_method() -> None:
    claims = stated.stated()
    assert [c.id for c in stated.choose(claims, "slime, hiprune-third")] == ["hiprune-third", "slime-fewer-tokens"]
    assert stated.choose(claims, None) == claims
    with pytest.raises(InputError, match=r"is called 'hiprun'\. Closest: 'hiprune'\. List: tessella claims"):
        stated.choose(claims, "slime,hiprun")


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_holds_the_list() -> None:
    page = (Path(__file__).parents[2] / "docs" / "claims.md").read_text(encoding="utf-8")
    assert put_between(page, LIST, claim_list(stated.stated())) == page


def test_a_claim_in_words() -> None:
    one = dataclasses.replace(CLAIM, about=("divprune",), margin=-0.01)
    assert claim_list([one]).splitlines()[:3] == [
        "#### divprune",
        "",
        "**divprune-random.** DivPrune is better. `divprune:1/9` over `random:1/9`; types place, colour; margin -1 "
        "point; 60 questions a type, seed 0; the full model is right on at least 90% of the questions. (a paper)",
    ]
    pairs = (("fastv:1/4", Halfway("blind", "none")), ("fastv:1/4", "random:1/4"))
    several = Claim("several", "More.", "ours", pairs, KINDS, direction="less", samples=5, seed=3)
    assert claim_list([several]).splitlines()[:3] == [
        "#### all methods",
        "",
        "**several.** More. `fastv:1/4` under the middle of `blind` and `none`, `random:1/4`; all 8 types of questions "
        "about one picture; 5 questions a type, seed 3. (ours)",
    ]
    assert claim_list([one]).endswith("`uniform`: none of its own: a rival in other methods' claims.")


def test_only_what_stands_between_marks_is_made_anew() -> None:
    page = "a\n<!-- claims: begin -->\nold\n<!-- claims: end -->\nb\n"
    assert put_between(page, "claims", "new\n\n") == "a\n<!-- claims: begin -->\nnew\n<!-- claims: end -->\nb\n"
    assert put_between(page, "verdicts", "new") == page
