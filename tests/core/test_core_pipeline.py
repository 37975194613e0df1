"""Pipelines: their text form reads back, and what cannot be read says which part is at fault."""

from __future__ import annotations

import inspect
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessella.core.budget import SCOPES, Budget
from tessella.core.contracts import Method
from tessella.core.errors import BudgetError, MethodError, UnknownMethodError
from tessella.core.pipeline import Part, Pipeline, as_pipeline, format_method, parse, split_outside
from tessella.core.registry import load_class, make

for method_id in ("fastv", "random", "hiprune", "uniform", "divprune", "visionzip", "fastervlm"):
    load_class(method_id)  # here, since a first import inside a strategy draws from `random`

methods = st.one_of(
    st.builds(make, st.just("fastv"), at_layer=st.integers(1, 40)),
    st.builds(make, st.just("random"), seed=st.integers(0, 9), stratified=st.booleans(), at_layer=st.integers(0, 9)),
    st.builds(make, st.just("hiprune"), alpha=st.floats(0, 1), output_layer=st.none() | st.integers(0, 30)),
    st.builds(make, st.just("uniform"), mode=st.sampled_from(["grid2d", "stride1d", "border_less"])),
    st.sampled_from([make("divprune"), make("fastv"), make("visionzip"), make("fastervlm", cls_fallback="received")]),
)
keeps = st.integers(1, 999) | st.fractions(0, 1).filter(bool)
budgets = st.none() | st.builds(Budget, keeps, st.none() | st.sampled_from(SCOPES))


@given(parts=st.lists(st.builds(Part, methods, budgets), min_size=1, max_size=4))
def test_text_reads_back(parts: list[Part]) -> None:
    pipeline = Pipeline(tuple(parts))
    assert parse(str(pipeline)) == pipeline
    assert str(parse(str(pipeline))) == str(pipeline)


@pytest.mark.parametrize(
    "text, want",
    [
        ("divprune:0.5 | fastv@2:0.5", "divprune:0.5 | fastv@2:0.5"),
        ("hiprune(alpha=0.2):64", "hiprune(alpha=0.2):64"),
        ("fastervlm:29 per tile", "fastervlm:29 per tile"),
        ("  fastervlm :  1/9   per   image ", "fastervlm:1/9 per image"),
        ("fastv(at_layer=3)", "fastv@3"),
        ("fastv", "fastv"),
        ("fastv @ 2 : 10", "fastv@2:10"),
        ("hiprune(alpha=0.1)", "hiprune"),
        ("random(seed=3,stratified=True,)@4:5", "random(seed=3, stratified=True)@4:5"),
        ('uniform(mode="stride1d"):2/8', "uniform(mode='stride1d'):0.25"),
        ("none", "none"),
    ],
)
def test_forms(text: str, want: str) -> None:
    assert str(parse(text)) == want


def test_default_layer_is_not_the_layer_of_its_number() -> None:
    """`fastv` follows the model's depth; `fastv@2` is layer 2 of any model."""
    assert format_method(make("fastv")) == "fastv"
    assert format_method(make("fastv", at_layer=2)) == "fastv@2"


@pytest.mark.parametrize(
    "text, error, message",
    [
        ("", MethodError, r"empty step in pipeline ''; write 'divprune:0.5 \| fastv@2:0.5'"),
        ("divprune |", MethodError, "empty step"),
        ("| divprune", MethodError, "empty step"),
        ("3fastv", MethodError, "a method id was expected; got '3fastv'"),
        ("fast_v:5", UnknownMethodError, "no method 'fast_v'. Closest: 'fastv'.* List: tessella methods"),
        ("fastv(at_layer=2):", BudgetError, "got ''"),
        ("fastv:25%", BudgetError, "For a quarter write 0.25 or 1/4"),
        ("fastv:0", BudgetError, "keep must be an int >= 1"),
        ("fastv:5 per crop", BudgetError, "no scope 'crop' in 'fastv:5 per crop'; allowed: image, tile"),
        ("fastv@-1", MethodError, "cannot read '@-1' in 'fastv@-1'; write 'id"),
        ("fastv 5", MethodError, "cannot read '5' in 'fastv 5'"),
        ("fastv(at_layer=2)@3", MethodError, "names its layer twice; use '@3' alone"),
        ("fastv(2)", MethodError, "setting '2' in 'fastv.2.' needs a name: 'name=value'"),
        ("fastv(at_layer=2", MethodError, "unbalanced brackets"),
        ("fastv at_layer=2)", MethodError, "unbalanced brackets"),
        ("uniform(mode='grid2d)", MethodError, "unbalanced brackets or quotes"),
        ("hiprune(beta=2)", MethodError, "hiprune has no setting 'beta'; allowed: alpha, object_layer, output_layer"),
        ("hiprune(alfa=0.2)", MethodError, "Closest: 'alpha'"),
        ("divprune(a=1)", MethodError, "divprune has no setting 'a'; it has none"),
        ("hiprune(alpha=fastv x)", MethodError, "cannot read 'x' in 'fastv x': neither a value nor a method"),
        ("hiprune(alpha=fst)", UnknownMethodError, "no method 'fst'"),
    ],
)
def test_texts_that_cannot_be_read(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        parse(text)


def test_quotes_hide_brackets_and_bars() -> None:
    assert split_outside("a(x='|)') | b", "|") == ["a(x='|)') ", " b"]
    with pytest.raises(MethodError, match=r"mode must be one of .* got 'a\)\|b'"):
        parse("uniform(mode='a)|b')")


def test_keep_goes_to_the_only_method_that_takes_one() -> None:
    assert str(as_pipeline("none | fastv").with_budget(0.5)) == "none | fastv:0.5"
    assert str(as_pipeline(make("hiprune")).with_budget("64", "tile")) == "hiprune:64 per tile"
    own = as_pipeline("divprune:0.5 | fastv@2:0.5")
    assert own.with_budget() is own
    assert as_pipeline(own) is own


@pytest.mark.parametrize(
    "text, keep, scope, message",
    [
        ("divprune:0.5 | fastv:9", 5, None, "keep=5 was given beside a pipeline with its own budgets: 'divprune:0.5"),
        ("divprune:0.5", 5, None, "beside a pipeline with its own budgets"),
        ("divprune | fastv", 5, None, "does not say how to share it among 2 methods of 'divprune | fastv'; write 'a:0"),
        ("divprune", None, None, "divprune needs a keep: an int >= 1, a fraction in"),
        ("divprune:3 | fastv", None, None, "fastv needs a keep"),
        ("none", 5, None, "none takes no keep; got 5. Leave it out"),
        ("none:5", None, None, "none takes no keep; got 5. Leave it out"),
        ("blind:0.5 | fastv:3", None, None, "blind takes no keep; got 0.5. Leave it out"),
        ("fastv:5", None, "tile", "scope='tile' was given without a keep; write it in the pipeline: 'id:64 per tile'"),
        ("fastv", 5, "crop", "no scope 'crop'"),
        ("fastv", "5%", None, "Write 0.05"),
    ],
)
def test_budgets_that_are_refused(text: str, keep: object, scope: object, message: str) -> None:
    with pytest.raises(BudgetError) as error:
        as_pipeline(text).with_budget(keep, scope)
    assert message in str(error.value)


def test_what_is_no_pipeline() -> None:
    with pytest.raises(MethodError, match=r"a pipeline is a text, a method, a recipe or a Pipeline; got int\."):
        inspect.unwrap(as_pipeline)(5)  # type: ignore[arg-type]


def test_part_shows_its_budget() -> None:
    assert str(Part(make("divprune"), Budget(Fraction(1, 3)))) == "divprune:1/3"
    assert isinstance(parse("divprune").parts[0].method, Method)


@pytest.mark.parametrize("text", ["there/is/none.json", "random:4 | 'none.json':4", ' "a.JSON" ', "none.j\u017fon"])
def test_a_text_from_afar_names_no_recipe(text: str) -> None:
    with pytest.raises(MethodError, match=r"names a recipe's file, which is not read here; name its method"):
        parse(text, recipes=False)
