"""The measure: texts and pictures in the order of the prompt, and right answers counted."""

import torch

from tessella.mini.evaluate import GROUPS, answer, build_prompt, measure, render
from tessella.mini.model import build_model, build_processor
from tessella.mini.prompts import ALL_KINDS, draw_prompt


def test_a_prompt_is_written_in_the_order_of_its_parts() -> None:
    processor = build_processor()
    assert build_prompt(processor, "where is the star?") == "<s><user><image>where is the star?<assistant>"
    assert build_prompt(processor, "where is the star?", blind=True) == "<s><user>where is the star?<assistant>"
    parts = draw_prompt("shots", 1).parts
    texts = [part for part in parts if isinstance(part, str)]
    assert render(processor, parts) == "<s><user><image>" + "<image>".join([*texts, ""]) + "<assistant>"


def test_groups_make_up_all_kinds() -> None:
    assert GROUPS["all"] == (*GROUPS["single"], *GROUPS["contexts"], *GROUPS["clips"]) == ALL_KINDS
    assert GROUPS["contexts"] == ("which", "pick", "shots")


def test_prompts_of_as_many_pictures_as_they_like_are_answered_together() -> None:
    processor = build_processor()
    model = build_model(processor, seed=1).eval()
    samples = [draw_prompt("colour", 0), draw_prompt("which", 3), draw_prompt("shots", 1)]
    assert len({len(item.parts) for item in samples}) > 1
    together = answer(model, processor, samples)
    assert together == [answer(model, processor, [item])[0] for item in samples]
    assert len(answer(model, processor, samples, blind=True)) == 3


def test_measure_counts_right_answers() -> None:
    processor = build_processor()
    model = build_model(processor, seed=1).eval()
    with torch.no_grad():
        model.model.language_model.embed_tokens.weight.zero_()
        for kind in ("which", "motion"):
            table = measure(model, processor, 4, kinds=(kind,), first=7)
            truths = [draw_prompt(kind, seed).answer for seed in range(7, 11)]
            assert table[kind]["constant"] == max(truths.count(truth) for truth in truths) / 4
            assert table[kind]["accuracy"] == 0.0
