"""What a request may ask for, against what the command line gives and allows."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from tessella.core.errors import BudgetError, InputError, MethodError
from tessella.core.pipeline import parse
from tessella.serve.budgets import check_ceiling, default_pipeline, read_budget
from tessella.serve.keys import is_known, read_keys
from tessella.serve.settings import FrontSettings


@pytest.mark.parametrize(
    "method, keep, asked, expected",
    [
        (None, None, {}, "none"),
        (None, "1/9", {}, "hiprune:1/9"),
        ("divprune:64", None, {}, "divprune:64"),
        (None, None, {"keep": 64}, "hiprune:64"),
        (None, None, {"keep": 1.0}, "hiprune:1.0"),
        ("divprune", "1/9", {"keep": 0.5, "scope": "prompt"}, "divprune:0.5 per prompt"),
        ("divprune:64", None, {"keep": 32}, "divprune:32"),
        ("divprune", "1/9", {"method": "random"}, "random:1/9"),
        ("divprune", "1/9", {"method": "random:7"}, "random:7"),
        ("divprune", "1/9", {"method": "none"}, "none"),
        ("divprune", "1/9", {"method": "divprune:0.5 | fastv@2:0.5"}, "divprune:0.5 | fastv@2:0.5"),
        (None, None, {"method": "random(seed=123456789):4"}, "random(seed=123456789):4"),
    ],
)
def test_what_is_left_out_comes_from_the_command_line(
    method: str | None, keep: str | None, asked: dict[str, Any], expected: str
) -> None:
    assert str(read_budget(FrontSettings(method=method, keep=keep), **asked)) == expected


def test_what_is_said_twice_or_to_several_is_refused() -> None:
    with pytest.raises(BudgetError, match="was given beside a pipeline with its own budgets"):
        read_budget(FrontSettings(), "random:7", 5)
    with pytest.raises(BudgetError, match="was given beside a pipeline with its own budgets"):
        read_budget(FrontSettings(method="divprune:0.5 | fastv@2:0.5"), None, 5)
    with pytest.raises(BudgetError, match="divprune needs a keep"):
        default_pipeline(FrontSettings(method="divprune"))


def test_a_recipe_is_the_command_lines_alone(tmp_path: Any) -> None:
    with pytest.raises(InputError, match=r"none\.json' cannot be read"):
        default_pipeline(FrontSettings(method=str(tmp_path / "none.json")))
    with pytest.raises(MethodError, match="names a recipe's file"):
        read_budget(FrontSettings(), str(tmp_path / "none.json"))


@pytest.mark.parametrize(
    "most, pipeline, allowed",
    [
        ("64", "random:64", True),
        ("64", "random:65", False),
        ("64", "random:0.25", True),  # 49 of 196
        ("64", "random:0.5", False),
        ("1/9", "random:21", True),
        ("1/9", "random:22", False),
        ("1/9", "random:1/9", True),
        ("1/9", "random:0.12", False),
        ("0.5", "none", False),
        ("1.0", "none", True),
        ("0.25", "divprune:0.5 | fastv@2:0.5", True),
        ("0.25", "divprune:0.6 | fastv@2:0.5", False),
        ("64", "divprune:128 | fastv@2:0.5", True),
        ("64", "random:4 per tile", False),
        ("64", "random:0.25 per tile", True),
        (None, "none", True),
    ],
)
def test_a_ceiling_counts_what_is_left_at_the_end(most: str | None, pipeline: str, allowed: bool) -> None:
    message = "a number per tile is refused" if "4 per tile" in pipeline else f"keep at most {most}"
    with contextlib.nullcontext() if allowed else pytest.raises(BudgetError, match=message):
        check_ceiling(parse(pipeline), most, 2, lambda: 2 * 196)


def test_settings_that_would_hold_a_server_up() -> None:
    for text in ("zoo_prune(num_directions=10001):4", "compose(score=zoo_prune(num_directions=10001)):4"):
        with pytest.raises(MethodError, match=r"num_directions may be at most 10,000 in a request; got 10001"):
            read_budget(FrontSettings(), text)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"host": "0.0.0.0"}, r"^--host 0\.0\.0\.0 can be reached from other machines, so keys are needed"),
        ({"host": "::"}, "so keys are needed"),
        ({"host": "example.org"}, "so keys are needed"),
        ({"port": 70000}, r"port must be 0 \(any that is free\) to 65535; got 70000"),
        ({"max_tokens": 0}, "max_tokens must be at least 1; got 0"),
        ({"max_megapixels": 0}, "max_megapixels must be more than 0; got 0"),
        ({"max_body_mb": float("nan")}, "max_body_mb must be more than 0; got nan"),
        ({"max_held_mb": 600}, "max_held_mb must be at least 620, for the largest request"),
        ({"grace_s": -1}, "grace_s must be at least 0; got -1"),
    ],
)
def test_settings_that_cannot_be_served(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FrontSettings(**settings).check()


def test_addresses_of_this_machine_need_no_key() -> None:
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        FrontSettings(host=host).check()
    FrontSettings(host="0.0.0.0", keys=("k",)).check()
    assert "secret" not in repr(FrontSettings(keys=("secret",)))


def test_keys_are_read_from_a_file_and_the_environment(tmp_path: Any) -> None:
    file = tmp_path / "keys.txt"
    file.write_text("one\n\n  two \n")
    assert read_keys(file, {"TESSELLA_API_KEYS": "three, four,"}) == ("three", "four", "one", "two")
    assert read_keys(None, {}) == ()
    assert [is_known(key, ("one", "two")) for key in ("one", "two", "on", "", "onee", "\udcff")] == [True, True] + (
        [False] * 4
    )
    file.write_text("\n")
    with pytest.raises(InputError, match=r"keys\.txt' holds no key; write one a line"):
        read_keys(file, {})
    with pytest.raises(InputError, match=r"API key 1 of 1 holds a character that is no visible ASCII"):
        read_keys(None, {"TESSELLA_API_KEYS": "a b"})
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_keys(tmp_path / "none", {})
