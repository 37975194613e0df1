"""One pass of the vision encoder for several pipelines: the same answers as when each encodes for itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tessella
from tessella.app.prompting import prepare
from tessella.core.contracts import Rewriter
from tessella.core.errors import UnsupportedError
from tessella.core.registry import load_class, method_modules
from tessella.engine.encoder import encode_once
from tessella.engine.hooks import Hook
from tessella.engine.timing import Stopwatch
from tessella.mini.questions import sample

KEEP = "1/9"


@pytest.fixture(scope="module")
def asked() -> tuple[Any, Any]:
    """The embedded model and five questions."""
    model, processor = tessella.load("mini")
    samples = [sample(kind, 300_000) for kind in ("colour", "digit", "count", "reading", "relation")]
    return model, prepare(model, processor, [[s.image] for s in samples], [s.question for s in samples], 6)


def pipelines(model: Any) -> list[tuple[str, str | None]]:
    """Every method that cuts tokens and that the model can carry, as its card's example if it has one, and a chain."""
    out: list[tuple[str, str | None]] = [("divprune:0.5 | fastv@2:0.5", None)]
    for name in method_modules():
        card = load_class(name).card
        text = card.example or name
        if not issubclass(load_class(name), Rewriter) and tessella.can_apply(model, text):
            takes = any(p.method.card.takes_keep and not p.budget for p in tessella.parse(text).parts)
            out.append((text, KEEP if takes else None))
    return out


def run(model: Any, inputs: dict[str, Any], pipeline: str, keep: str | None) -> tuple[Any, Any, Any]:
    with tessella.reduce(model, pipeline, keep=keep) as active, torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    return ids, active.kept, active.report


def test_all_pipelines_on_one_encoding_answer_as_alone(asked: Any) -> None:
    model, inputs = asked
    settings = pipelines(model)
    stopwatch = Stopwatch()
    with torch.inference_mode():
        shared = encode_once(model, inputs, [text for text, _ in settings], stopwatch)
    assert stopwatch.milliseconds()["encode"] > 0
    given = {n: v for n, v in inputs.items() if n != "pixel_values"}
    for text, keep in settings:
        ids, kept, report = run(model, {**given, "mm_encoder_outputs": dict(shared)}, text, keep)
        alone_ids, alone_kept, alone_report = run(model, dict(inputs), text, keep)
        assert ids.tolist() == alone_ids.tolist(), text
        assert [[k.tolist() for k in row] for row in kept] == [[k.tolist() for k in row] for row in alone_kept], text
        assert report.last == alone_report.last, text
        assert report.ms["encode"] == 0, text  # it was not run again
    assert len(settings) > 9


def test_the_encoder_runs_once_and_no_hook_stays(asked: Any) -> None:
    model, inputs = asked
    tower = model.model.vision_tower
    calls: list[int] = []
    handle = tower.register_forward_hook(lambda *_: calls.append(1))
    before = len(tower._forward_pre_hooks), len(tower._forward_hooks)
    with torch.inference_mode():
        shared = encode_once(model, inputs, ["hiprune", "fastervlm", "none"])
        given = {n: v for n, v in inputs.items() if n != "pixel_values"}
        for text in ("hiprune", "fastervlm"):
            run(model, {**given, "mm_encoder_outputs": dict(shared)}, text, KEEP)
    handle.remove()
    assert calls == [1]
    assert before == (len(tower._forward_pre_hooks), len(tower._forward_hooks) + 1)
    hooks = [h for m in model.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    assert not any(isinstance(h, Hook) for h in hooks)
    assert model.config.vision_config._attn_implementation == model.config._attn_implementation


def test_an_encoding_for_less_is_refused_to_a_method_that_reads_more(asked: Any) -> None:
    model, inputs = asked
    with torch.inference_mode():
        shared = encode_once(model, inputs, ["fastv:0.5"])
    given = {n: v for n, v in inputs.items() if n != "pixel_values"}
    with pytest.raises(UnsupportedError, match="hiprune reads the vision encoder, but the call was given mm_encoder_"):
        run(model, {**given, "mm_encoder_outputs": shared}, "hiprune", KEEP)


def test_inputs_without_pixels_are_refused(asked: Any) -> None:
    model, inputs = asked
    with pytest.raises(UnsupportedError, match=r"needs inputs with pixel_values; got attention_mask, input_ids\."):
        encode_once(model, {n: v for n, v in inputs.items() if n != "pixel_values"}, ["none"])


def test_ratios_by_row_are_means_over_layers(asked: Any) -> None:
    model, inputs = asked
    report = run(model, dict(inputs), "fastv@2:0.5", None)[2]
    layers = model.config.text_config.num_hidden_layers
    assert report.last.mean_keep_ratios == pytest.approx([(2 + (layers - 2) * 0.5) / layers] * 5)
