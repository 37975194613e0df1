"""Recipes of several steps: read back as they were written, and standing for all their steps at their keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import tessella
from tessella.app.answering import ask, read_methods
from tessella.calibration.recipes import save_recipe
from tessella.core.budget import Budget
from tessella.core.errors import BudgetError, InputError, MethodError
from tessella.core.pipeline import as_pipeline, parse
from tessella.core.recipe import DataFacts, LaterStep, ModelFacts, Recipe, recipe_from_text
from tessella.core.registry import make
from tessella.engine.signature import describe_model
from tessella.models.adapter import find_adapter

MODEL = ModelFacts("llava", 8, 128, 419, "0123456789ab", "other/model")
SCORED = {"score": make("fopru"), "select": make("zoo_prune")}
SECOND = LaterStep("fastv", {"at_layer": 3}, Budget("0.6", "layer-mean"))
TEXT = "compose(score=fopru, select=zoo_prune):1/9 | fastv@3:0.6 per layer-mean"


def two_steps() -> Recipe:
    data = DataFacts("photos.jsonl", 64, "0123456789abcdef")
    return Recipe("compose", SCORED, MODEL, data, 0, "0.1.0", Budget(Fraction(1, 9)), then=(SECOND,))


def test_what_is_written_reads_back() -> None:
    text = two_steps().to_text()
    assert recipe_from_text(text) == two_steps()
    assert json.loads(text)["then"] == [
        {"method": "fastv", "settings": {"at_layer": 3}, "budget": "0.6 per layer-mean"},
    ]
    assert "then" not in json.loads(replace(two_steps(), then=()).to_text())


def test_a_file_stands_for_all_steps(tmp_path: Path) -> None:
    assert str(as_pipeline(two_steps())) == TEXT
    file = str(tmp_path / "two.json")
    assert save_recipe(two_steps(), file).source == file
    pipeline = parse(f"{file} | random@7:0.5")
    assert [(p.method, p.budget) for p in pipeline.parts[:2]] == [(p.method, p.budget) for p in parse(TEXT).parts]
    assert str(pipeline) == f"{file} | random@7:0.5"
    assert str(pipeline.with_budget()) == str(pipeline)
    assert [str(p) for p in read_methods(f"none,{file}", keep="1/2")] == ["none", file]


def test_its_keeps_stand(tmp_path: Path) -> None:
    file = save_recipe(two_steps(), tmp_path / "two.json").source
    with pytest.raises(BudgetError, match=r"holds 2 steps with keeps of their own; got 0.5. Leave it out."):
        parse(f"{file}:1/2")
    with pytest.raises(BudgetError, match=r"keep=0.5 was given beside a pipeline with its own budgets: '.*two.json'"):
        parse(str(file)).with_budget(0.5)


@pytest.mark.parametrize(
    "then, error, message",
    [
        ({}, InputError, "its field 'then' must be a list of objects; got {}"),
        ([1], InputError, "its field 'then' must be a list of objects; got [1]"),
        ([{"method": "fastv"}], InputError, "it has no field 'then[0].settings'"),
        ([{"method": "fastv", "settings": {}, "budget": 1}], InputError, "'then[0].budget' must be a text or null"),
        ([{"method": "fastv", "settings": {"layer": 2}, "budget": None}], MethodError, "no setting 'layer'"),
    ],
)
def test_steps_that_are_none(then: Any, error: type[Exception], message: str) -> None:
    fields = json.loads(two_steps().to_text()) | {"then": then}
    with pytest.raises(error) as raised:
        recipe_from_text(json.dumps(fields))
    assert message in str(raised.value)


def test_several_steps_need_a_keep() -> None:
    with pytest.raises(MethodError, match="a recipe of several steps needs a budget in one of them at least"):
        replace(two_steps(), budget=None, then=(replace(SECOND, budget=None),))


def test_both_steps_act_on_the_model_that_it_was_made_for(tmp_path: Path) -> None:
    model, processor = tessella.load("mini")
    mine = replace(two_steps(), model=describe_model(model, find_adapter(model)))
    file = str(save_recipe(mine, tmp_path / "two.json").source)
    image = Image.new("RGB", (112, 112), "red")
    answers = [ask(model, processor, image, "what color is the star?", what) for what in (TEXT, file, mine)]
    assert [a.report["layers"] for a in answers] == [answers[0].report["layers"]] * 3
    assert answers[0].report["layers"][0] == 22  # a ninth of 196, and fewer from layer 3 on
    assert answers[0].report["layers"][3] < 22
    assert [a.kept for a in answers] == [answers[0].kept] * 3
    assert [a.pipeline for a in answers] == [TEXT, file, TEXT]
    verdict = tessella.can_apply(model, two_steps())
    assert not verdict
    assert "was fitted to 'other/model' (llava, 8 layers of width 128" in verdict.reason


def test_it_says_by_which_command_it_was_made() -> None:
    assert two_steps().made_by == "tessella calibrate compose"
    assert replace(two_steps(), options={"goal": "the cheapest"}).made_by == "tessella tune"
