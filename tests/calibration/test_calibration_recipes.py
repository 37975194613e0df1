"""Recipes: read back as they were written, used in the place of a method, refused by other models."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tessella
from tessella.calibration.fitting import calibrate, fitters
from tessella.calibration.recipes import save_recipe
from tessella.core.budget import Budget
from tessella.core.errors import (
    BudgetError,
    InputError,
    MethodError,
    TessellaError,
    UnknownMethodError,
    UnsupportedError,
)
from tessella.core.pipeline import as_pipeline, parse
from tessella.core.recipe import DataFacts, ModelFacts, Recipe, read_recipe, recipe_from_text
from tessella.core.registry import make
from tessella.engine.signature import describe_model
from tessella.models.adapter import find_adapter
from tessella.samples import batches, digest_samples, load_samples
from tessella.testing.families import tiny_family
from tiny_fitter import install_tiny_fitter

MODEL = ModelFacts("llava", 6, 192, 100, "0123456789ab", "other/model")
DATA = DataFacts("photos.jsonl", 64, "0123456789abcdef")


def recipe_of(method: str = "fastv", budget: Budget | None = None, **settings: Any) -> Recipe:
    return Recipe(method, settings, MODEL, DATA, seed=0, tessella="0.1.0", budget=budget)


@pytest.fixture(scope="module")
def mini() -> tuple[Any, Any]:
    return tessella.load("mini")


def facts_of(model: Any) -> ModelFacts:
    return describe_model(model, find_adapter(model))


# --- to JSON and back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "recipe",
    [
        recipe_of(at_layer=3),
        recipe_of("hiprune", alpha=0.1 + 0.2),
        recipe_of("hiprune", alpha=5e-324),
        recipe_of("hiprune", alpha=1.0),
        recipe_of("hiprune", output_layer=None),
        recipe_of("pyramiddrop", layers=(1, 2), ratios=(1 / 3, 0.1)),
        recipe_of("uniform", mode="stride1d"),
        recipe_of("compose", score=make("fopru"), select=make("zoo_prune")),
        recipe_of("compose", score=make("fastervlm", cls_fallback="received")),
        recipe_of(budget=Budget(Fraction(1, 9), "layer-mean")),
        replace(recipe_of(), seed=7, options={"trials": 20, "keep": "0.25"}),
        replace(recipe_of(), evidence={"curve": ((0.1, None), (2, 3.0)), "by kind": {"colour ✓": (1,), "a": {}}}),
        replace(recipe_of(), evidence={"method": "fastv"}),
    ],
)
def test_what_is_written_reads_back(recipe: Recipe, tmp_path: Path) -> None:
    text = recipe.to_text()
    back = recipe_from_text(text)
    assert back == recipe
    assert back.to_text() == text
    assert [*map(type, back.settings.values())] == [*map(type, recipe.settings.values())]
    assert back.make() == recipe.make()
    assert read_recipe(save_recipe(recipe, tmp_path / "r.json").source or "") == recipe


def test_sequences_become_tuples_and_numbers_plain() -> None:
    recipe = Recipe(
        "pyramiddrop", {"layers": [np.int64(1), 2], "ratios": [np.float32(0.5), 1 / 4]}, MODEL, DATA, 0, "0.1.0",
        evidence={"mean": [math.nan, np.float64(2)], "of": {"a": [1]}},
    )  # fmt: skip
    assert recipe.settings == {"layers": (1, 2), "ratios": (0.5, 0.25)}
    assert [type(v) for v in recipe.settings["layers"]] == [int, int]
    assert recipe.evidence == {"mean": (None, 2.0), "of": {"a": (1,)}}


def test_the_text_is_sorted_and_short() -> None:
    lines = recipe_of("pyramiddrop", ratios=(0.5, 0.25), layers=(1, 2)).to_text().splitlines()
    assert lines[0] == "{"
    assert '    "layers": [1, 2],' in lines
    assert '    "ratios": [0.5, 0.25]' in lines
    assert '  "tessella_recipe": 1' in lines
    fields = [line.split('"')[1] for line in lines if line.startswith('  "')]
    assert fields == sorted(fields)


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"alpha": math.nan},
            "settings 'alpha' of a recipe must be a finite number, a text, a method or a",
        ),
        ({"alpha": {"a": 1}}, "settings 'alpha' of a recipe must be .*; got {'a': 1}"),
        ({"alpha": torch.ones(1)}, r"got tensor\(\[1"),
        ({"beta": 1}, "hiprune has no setting 'beta'; allowed: alpha"),
    ],
)
def test_settings_that_no_recipe_holds(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        recipe_of("hiprune", **settings)


def test_evidence_holds_plain_values() -> None:
    with pytest.raises(MethodError, match="evidence 'x' of a recipe must be a number, a text, an object"):
        replace(recipe_of(), evidence={"x": (make("fastv"),)})


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda f: "nonsense", InputError, "it is not JSON: Expecting value"),
        (lambda f: "[1]", InputError, "it is JSON, but no recipe: it has no field 'tessella_recipe'"),
        (lambda f: {"a": 1}, InputError, "no recipe"),
        (lambda f: f | {"tessella_recipe": 2}, InputError, "it is of format 2; this version reads format 1"),
        (lambda f: {k: v for k, v in f.items() if k != "seed"}, InputError, "it has no field 'seed'"),
        (lambda f: f | {"seeds": 1}, InputError, "it has a field 'seeds'; allowed: method, settings"),
        (lambda f: f | {"seed": "1"}, InputError, "its field 'seed' must be an integer; got '1'"),
        (lambda f: f | {"seed": True}, InputError, "its field 'seed' must be an integer; got True"),
        (lambda f: f | {"budget": 3}, InputError, "its field 'budget' must be a text or null; got 3"),
        (lambda f: f | {"budget": "25%"}, BudgetError, "For a quarter write 0.25 or 1/4"),
        (lambda f: f | {"model": {}}, InputError, "it has no field 'model.family'"),
        (lambda f: f | {"data": f["data"] | {"count": 1.5}}, InputError, "'data.count' must be an integer; got 1.5"),
        (lambda f: f | {"method": "fast_v"}, UnknownMethodError, "no method 'fast_v'. Closest: 'fastv'"),
        (lambda f: f | {"settings": {"layer": 2}}, MethodError, "fastv has no setting 'layer'; allowed: at_layer"),
        (lambda f: f | {"settings": {"at_layer": {"x": 2}}}, MethodError, "settings 'at_layer' of a recipe must be"),
        (lambda f: f | {"settings": {"at_layer": {"method": "nil"}}}, UnknownMethodError, "no method 'nil'"),
    ],
)
def test_a_file_that_is_no_recipe(change: Any, error: type[TessellaError], message: str, tmp_path: Path) -> None:
    changed = change(json.loads(recipe_of().to_text()))
    file = tmp_path / "bad.json"
    file.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    with pytest.raises(error, match=message) as raised:
        parse(f"{file}:64")
    assert str(raised.value).startswith(f"the recipe {str(file)!r} cannot be used: ")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary.json").write_bytes(b"\xff")
    (tmp_path / "folder.json").mkdir()
    for name, message in (
        ("gone.json", "cannot be read: No such file or directory"),
        ("folder.json", "cannot be read: Is a directory"),
        ("binary.json", "binary.json' is no recipe: it is not UTF-8 text"),
    ):
        with pytest.raises(InputError, match=message):
            parse(str(tmp_path / name))
    with pytest.raises(InputError, match=r"the name of a recipe ends in \.json; got 'r\.txt'"):
        read_recipe("r.txt")


def test_a_recipe_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.json").mkdir()
    for name, message in (
        ("folder.json", "it is a folder; name a file inside it"),
        ("no/such.json", "there is no folder"),
        ("recipe.txt", "the name must end in .json; got '.txt'"),
    ):
        with pytest.raises(InputError, match=f"cannot write .*{message}"):
            save_recipe(recipe_of(), tmp_path / name)
    save_recipe(recipe_of(at_layer=1), tmp_path / "r.json")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_recipe(recipe_of(at_layer=2), tmp_path / "r.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.json", "r.json"]
    assert read_recipe(tmp_path / "r.json").settings == {"at_layer": 1}


# --- in pipelines ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, text, want",
    [
        ("r.json", "{}", "{}"),
        ("r.json", "{}:64", "{}:64"),
        ("r.json", " {} : 2/8 per  tile ", "{}:0.25 per tile"),
        ("r.json", "divprune:0.5 | {}:9", "divprune:0.5 | {}:9"),
        ("r.json", "'{}':9", "{}:9"),
        ("my recipe.v2.json", "{}:9", "{}:9"),
        ("a (1), b|c.json", "'{}':9", "'{}':9"),
        ("b|c.json", "'{}':9", "'{}':9"),
        ("it's.json", '"{}":9', '"{}":9'),
        ("R.JSON", "{}:9", "{}:9"),
    ],
)
def test_a_file_stands_for_a_method(name: str, text: str, want: str, tmp_path: Path) -> None:
    file = str(tmp_path / name)
    save_recipe(recipe_of(at_layer=3), file)
    pipeline = parse(text.format(file))
    part = pipeline.parts[-1]
    assert (part.method, part.recipe) == (make("fastv", at_layer=3), recipe_of(at_layer=3))
    assert str(pipeline) == want.format(file)
    assert parse(str(pipeline)) == pipeline
    assert parse(str(pipeline)).parts[-1].recipe == part.recipe


def test_what_follows_a_file_is_a_keep_alone(tmp_path: Path) -> None:
    file = save_recipe(recipe_of(), tmp_path / "r.json").source
    for rest in ("@3", "(at_layer=3)", " 64"):
        with pytest.raises(MethodError, match=r"cannot read .* write 'recipe\.json:keep per scope'"):
            parse(f"{file}{rest}")
    with pytest.raises(BudgetError, match="no scope 'crop'"):
        parse(f"{file}:5 per crop")
    with pytest.raises(MethodError, match="stands inside a method; it can be a step of its own"):
        parse(f"compose(score={file})")


def test_a_recipe_without_a_file_reads_back_as_its_method() -> None:
    assert str(as_pipeline(recipe_of(at_layer=3)).with_budget(9)) == "fastv@3:9"


def test_a_recipe_runs_at_its_own_keep_unless_one_is_given() -> None:
    recipe = recipe_of(budget=Budget("0.25", "layer-mean"))
    alone = as_pipeline(recipe)
    assert str(alone.with_budget()) == "fastv:0.25 per layer-mean"
    assert str(alone.with_budget(64)) == "fastv:64"
    assert str(alone.with_budget(64, "prompt")) == "fastv:64 per prompt"
    with pytest.raises(BudgetError, match="scope='tile' was given without a keep"):
        alone.with_budget(None, "tile")
    with pytest.raises(BudgetError, match="fastv needs a keep"):
        as_pipeline(recipe_of()).with_budget()
    with pytest.raises(BudgetError, match=r"none takes no keep; got 0\.5"):
        as_pipeline(recipe_of("none", budget=Budget("0.5"))).with_budget()


# --- on models ------------------------------------------------------------------------------------------------------


def test_a_run_with_a_recipe_is_one_with_its_method(mini: tuple[Any, Any], tmp_path: Path) -> None:
    model, processor = mini
    recipe = replace(recipe_of(at_layer=3, budget=Budget(9)), model=facts_of(model))
    file = save_recipe(recipe, tmp_path / "r.json").source
    _, inputs = next(batches(model, processor, load_samples("mini:2")))
    kept = []
    for pipeline, keep in (("fastv@3", 9), (recipe, None), (file, None), (f"{file}:9", None), (file, 9), (file, 30)):
        assert tessella.can_apply(model, pipeline)
        with torch.no_grad(), tessella.reduce(model, pipeline, keep) as run:
            model(**inputs)
        kept.append([[image.tolist() for image in row] for row in run.kept])
    assert kept[1:5] == kept[:1] * 4
    assert [len(row[0]) for row in kept[5]] == [30, 30]
    with torch.no_grad(), tessella.reduce(model, f"divprune:0.5 | {file}:9") as run:
        model(**inputs)
    assert run.report.pipeline == f"divprune:0.5 | {file}:9"


def test_another_model_refuses_a_recipe_and_both_are_named(mini: tuple[Any, Any]) -> None:
    model, _ = mini
    facts = facts_of(model)
    assert (facts.name, facts.family, facts.num_layers) == ("mini", "llava", model.config.text_config.num_hidden_layers)
    recipe = replace(recipe_of(), model=facts)
    other = tiny_family("qwen2_5_vl").model()
    for foreign, on, names in (
        (recipe, other, (str(facts), str(facts_of(other)))),
        (recipe_of(), model, ("'other/model' (llava, 6 layers of width 192, vocabulary 100, weights 01", str(facts))),
        (replace(recipe, model=replace(facts, signature="0")), model, ("weights 0)", str(facts))),
    ):
        with pytest.raises(UnsupportedError, match=r"the recipe 'fastv' was fitted to .*, this model is ") as error:
            tessella.reduce(on, foreign, keep=4)
        assert all(name in str(error.value) for name in names)
        assert "\n" not in str(error.value)
        assert not tessella.can_apply(on, foreign)
    tessella.reduce(model, replace(recipe, model=replace(facts, name="a copy")), keep=4)


def test_the_signature_is_that_of_the_weights_in_every_dtype() -> None:
    model, _ = tessella.load("mini")
    facts = facts_of(model)
    for dtype in (torch.bfloat16, torch.float16):
        assert facts_of(tessella.load("mini", dtype=dtype)[0]) == facts
    weights = model.get_input_embeddings().weight
    with torch.no_grad():
        weights.view(-1)[0] *= -1
    assert facts_of(model).signature != facts.signature
    assert len(facts.signature) == 12


# --- fitting --------------------------------------------------------------------------------------------------------


def test_calibrating_records_what_was_fitted_on_what(
    mini: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install_tiny_fitter(monkeypatch, tmp_path)
    assert "fastv" in fitters()
    model, processor = mini
    drawn = load_samples("mini:5")
    steps: list[tuple[int, int]] = []
    recipe = calibrate(
        model, processor, "fastv@1", drawn, seed=3, options={"layer": 2}, batch=2, data_name="mini:5",
        advance=lambda done, of: steps.append((done, of)),
    )  # fmt: skip
    assert steps == [(2, 5), (4, 5), (5, 5)]
    assert recipe == Recipe(
        "fastv",
        {"at_layer": 2},
        facts_of(model),
        DataFacts("mini:5", 5, digest_samples(drawn)),
        seed=3,
        tessella=tessella.__version__,
        options={"layer": 2},
        evidence={"rows": (2, 2, 1), "mean": 0.30000000000000004},
    )
    assert calibrate(model, processor, make("fastv", at_layer=1), drawn).settings == {"at_layer": 1}
    install_tiny_fitter(monkeypatch, tmp_path, uses_keep=True)
    kept = calibrate(model, processor, "fastv", drawn, keep="1/4")
    assert (kept.budget, kept.options) == (Budget("1/4"), {"keep": "0.25"})


def test_what_cannot_be_calibrated(mini: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install_tiny_fitter(monkeypatch, tmp_path)
    drawn = load_samples("mini:4")

    def refused(
        error: type[TessellaError], message: str, method: str = "fastv", count: int = 4, **options: Any
    ) -> None:
        with pytest.raises(error, match=message):
            calibrate(*mini, method, drawn[:count], **options)

    refused(InputError, "calibrating fastv needs at least 4 samples; got 3", count=3)
    refused(
        InputError,
        "fastv has no option 'layers'; allowed: .*, stop_at. Closest: 'layer'",
        options={"layers": 1},
    )
    refused(InputError, r"does not depend on a keep; got 0\.5\. Give it where the recipe is used", keep=0.5)
    refused(InputError, "batch must be at least 1 sample; got 0", batch=0)
    refused(UnsupportedError, "divprune has no settings that are fitted to samples; these have: .*fastv", "divprune")
    refused(UnknownMethodError, "no method 'fast_v'", "fast_v")
    refused(MethodError, "cannot read ':9' in 'fastv:9'", "fastv:9")
    refused(UnsupportedError, "fastv: at_layer=99 is not a layer", "fastv@99")
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    refused(
        InputError, r"needs optuna, which is not installed: pip install 'tessella\[calibrate\]'",
        options={"package": "optuna"},
    )  # fmt: skip
    with pytest.raises(ModuleNotFoundError, match="nonesuch"):
        calibrate(*mini, "fastv", drawn, options={"package": "nonesuch"})
