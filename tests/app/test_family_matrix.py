"""The matrix of methods and families: real runs, refusals with their reasons, failures that are none."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import pytest

from tessella.app import families, family_facts
from tessella.app.families import (
    Matrix,
    Outcome,
    ask_beforehand,
    family_matrix,
    general_reason,
    missing_families,
    try_method,
    with_keep,
)
from tessella.app.family_facts import describe_blocks
from tessella.bench.pace import Progress
from tessella.core.layout import THUMBNAIL, Block
from tessella.core.registry import methods
from tessella.reduction.divprune import DivPrune
from tessella.testing import families as tiny
from tessella.testing.families import tiny_family


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """As if these tiny families were all."""
    found = {name: tiny_family(name) for name in names}
    monkeypatch.setattr(tiny, "tiny_families", lambda: found)


def test_every_method_answers_or_says_why_not(monkeypatch):
    only(monkeypatch, "llava", "qwen2_5_vl")
    told: list[Progress] = []
    matrix = family_matrix(try_method, told.append)
    assert list(matrix.outcomes) == ["llava", "qwen2_5_vl"]
    no_clips = Outcome("no", "needs the frames of a clip; this model has none.")
    assert {n: o for n, o in matrix.outcomes["llava"].items() if o != Outcome("yes")} == {"evs": no_clips}
    refused = {name: o for name, o in matrix.outcomes["qwen2_5_vl"].items() if o != Outcome("yes")}
    no_class = "needs a class token in the vision encoder, its attention row or its features; this model has none."
    no_grids = "needs a language model that takes several grids in the place of a picture; this model has none."
    assert {name: o.reason for name, o in refused.items()} == {
        **dict.fromkeys(
            ("fastervlm", "globalcom2", "prumerge", "recoverable", "text_dominance", "visionzip", "vtc_cls"), no_class
        ),
        **dict.fromkeys(("adaptvision", "lrs_pyramid"), no_grids),
    }
    assert not matrix.has_failed
    assert set(matrix.reasons) == {no_clips.reason, no_class, no_grids}
    assert [(p.answers, p.total) for p in told] == [(n + 1, 2 * len(methods())) for n in range(2 * len(methods()))]
    assert (told[0].kind, told[-1].kind, told[-1].seconds_left) == ("llava", "qwen2_5_vl", 0.0)


def test_what_is_said_beforehand_is_what_happens(monkeypatch):
    only(monkeypatch, "gemma3", "llava_next")
    assert family_matrix(ask_beforehand).outcomes == family_matrix(try_method).outcomes


def test_a_failure_that_is_no_refusal_is_shown(monkeypatch):
    def broken(*_: Any) -> None:
        raise RuntimeError("a bug\nwith details")

    only(monkeypatch, "llava")
    monkeypatch.setattr(DivPrune, "select", broken)
    matrix = family_matrix(try_method)
    assert matrix.outcomes["llava"]["divprune"] == Outcome("FAILED", "RuntimeError: a bug")
    assert matrix.has_failed
    assert [o.mark for o in matrix.outcomes["llava"].values()].count("FAILED") == 1


def test_a_run_that_writes_too_little_has_failed(monkeypatch):
    family = tiny_family("llava")
    model = family.model()
    model.generation_config.eos_token_id = list(range(160))  # stops at once
    outcome = try_method(model, family, "random")
    assert outcome == Outcome("FAILED", "1 prompts were read and 1 of 3 tokens written")


def test_rows_number_the_reasons():
    yes, no, other = Outcome("yes"), Outcome("no", "needs luck"), Outcome("FAILED", "a bug")
    matrix = Matrix({"one": {"a": yes, "b": no}, "two": {"a": other, "b": no}}, {})
    assert matrix.reasons == ["a bug", "needs luck"]
    assert matrix.rows() == [["a", "yes", "FAILED 1"], ["b", "no 2", "no 2"]]
    assert matrix.to_dict()["outcomes"]["two"]["a"] == {"mark": "FAILED", "reason": "a bug"}


def test_families_that_cannot_be_tried_are_named(monkeypatch):
    plain = missing_families()
    assert not set(plain) & {"llava", "gemma3", "qwen2_5_vl", "llava_next"}
    monkeypatch.setattr(tiny, "lacking_families", lambda: {"aria": "AriaForConditionalGeneration"})
    monkeypatch.setattr(families, "adapters", lambda: {"llava": object})
    real = importlib.import_module

    def without_gemma(name: str, *rest: Any) -> ModuleType:
        if name == "tessella.models.gemma3":
            raise ModuleNotFoundError("gone", name="transformers.models.gemma3.modeling_gemma3")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without_gemma)
    missing = missing_families()
    assert missing["aria"].endswith(" has no AriaForConditionalGeneration")
    assert missing["gemma3"].endswith(" has no module transformers.models.gemma3.modeling_gemma3")
    assert missing["qwen2_5_vl"] == "it has a tiny model, but no adapter"
    assert "llava" not in missing


def test_a_tiny_model_that_needs_another_package_is_no_failure(monkeypatch):
    only(monkeypatch, "llava")

    def no_package(*_: Any, **__: Any) -> None:
        raise ImportError("pip install num2words\nto go on")

    monkeypatch.setattr(type(tiny_family("llava")), "model", no_package)
    matrix = family_matrix(try_method)
    assert (matrix.outcomes, matrix.has_failed) == ({}, False)
    assert matrix.missing["llava"] == "its tiny model cannot be made: pip install num2words"


def test_reasons_lose_the_names_of_method_and_family():
    said = "fastervlm needs a class token; this gemma3 model has none. Nearest: hiprune."
    assert general_reason(said, "fastervlm") == "needs a class token; this model has none."


def test_methods_are_tried_with_a_keep_where_they_take_one():
    assert [str(with_keep(name)) for name in ("divprune", "blind", "none")] == ["divprune:0.5", "blind", "none"]


def test_grids_in_words():
    thumbnail = Block(0, 4, 4, role=THUMBNAIL)
    mosaic = [Block(0, 4, 4, tile=1, top=0), Block(0, 4, 3, tile=2, top=0, left=4, newlines=True)]
    assert describe_blocks([Block(0, 6, 9)]) == "grid 6 x 9"
    assert describe_blocks([thumbnail, *mosaic], 4) == "thumbnail 4 x 4, mosaic 4 x 7 of 2 tiles, 4 newlines"
    frames = [*(Block(0, 3, 3, frame=f) for f in range(4)), Block(0, 1, 0, frame=3, newlines=True)]
    assert describe_blocks(frames, 1) == "4 grids 3 x 3, 1 newline"


def test_facts_are_those_of_the_adapters(monkeypatch):
    only(monkeypatch, "gemma3", "llava_next", "qwen2_5_vl")
    gemma, llava, qwen = family_facts.family_facts()
    assert (gemma.id, gemma.sliding_layers, gemma.patches_per_token, gemma.has_class_token) == (
        "gemma3",
        (3, 4),
        4,
        False,
    )
    assert (llava.has_class_token, llava.position_axes, llava.takes_clips) == (True, 1, False)
    assert llava.prepared["picture of 90 x 40"] == "thumbnail 4 x 4, mosaic 4 x 10 of 3 tiles, 4 newlines"
    assert (qwen.position_axes, qwen.encoder_window, qwen.takes_clips, qwen.has_deepstack) == (3, 4, True, False)
    assert qwen.prepared["clip of 4 frames of 72 x 48"] == "2 grids 6 x 9"
    assert qwen.about.startswith("Qwen2.5-VL: ")
