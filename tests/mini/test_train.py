"""Training: goes on from a checkpoint as if nothing had happened, and follows its schedule."""

from pathlib import Path
from random import Random

import torch

from tessella.mini.lessons import LENGTH, PREFIX, draw_batch
from tessella.mini.train import Trainer, parse, shrink, split_batch


def _trainer() -> Trainer:
    return Trainer(parse(["--look", "4", "--talk", "8", "--size", "4", "--polish", "3", "--part", "2"]))


def test_a_run_from_a_checkpoint_equals_a_run_without_a_break(tmp_path: Path) -> None:
    whole, first, second = _trainer(), _trainer(), _trainer()
    look = whole.stages[0]
    batches = [draw_batch(whole.processor.tokenizer, f"resume/{step}", 4) for step in range(2)]
    for trainer, batch in ((whole, batches[0]), (whole, batches[1]), (first, batches[0])):
        trainer.set_rate(look, trainer.step)
        losses = trainer.update(look, batch)
        trainer.step += 1
        assert set(losses) == {"thing", "colour", "slot", "place", "centre", "tag", "norm"}
    first.save_checkpoint(tmp_path / "checkpoint.pt")
    second.load_checkpoint(tmp_path / "checkpoint.pt")
    assert second.step == 1
    second.set_rate(look, second.step)
    second.update(look, batches[1])
    for ours, theirs in zip(whole.weights, second.weights, strict=True):
        assert torch.equal(ours, theirs)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_stages_follow_each_other_and_rates_fall() -> None:
    trainer = _trainer()
    seen, rates = [], []
    for trainer.step in range(19):
        stage, step = trainer.find_stage()
        seen.append((stage.name, step))
        rates.append(trainer.set_rate(stage, step))
    assert [stage for stage, _ in seen] == ["look"] * 4 + ["talk"] * 8 + ["size"] * 4 + ["polish"] * 3
    assert [step for _, step in seen] == [*range(4), *range(8), *range(4), *range(3)]
    assert rates[12:16] == sorted(rates[12:16], reverse=True)
    assert rates[15] < 0.3 * rates[12]
    trainer.set_rate(trainer.stages[1], 0)
    encoder, rest = (group["lr"] for group in trainer.optimizers[1].param_groups[::-1])
    assert encoder == 0.3 * rest
    trainer.step = 19
    assert trainer.find_stage() is None


def test_parts_make_up_the_batch() -> None:
    batch = draw_batch(_trainer().processor.tokenizer, "parts", 5)
    parts = split_batch(batch, 2)
    assert [len(part.pixels) for part in parts] == [2, 2, 1]
    assert (parts[1].input_ids == batch.input_ids[2:4]).all()
    assert batch.labels.shape == (5, LENGTH)
    assert (batch.labels[:, : PREFIX - 1] == -100).all()


def test_smaller_pictures_keep_whole_patches_and_their_brightness() -> None:
    pixels = torch.full((2, 3, 112, 112), 0.25)
    sizes = set()
    for seed in range(40):
        small = shrink(pixels, Random(seed))
        sizes.add(tuple(small.shape[2:]))
        assert all(side % 8 == 0 and 24 <= side <= 112 for side in small.shape[2:])
        torch.testing.assert_close(small, torch.full_like(small, 0.25))
    assert len(sizes) > 25


def test_answers_are_learned_in_pictures_of_any_size() -> None:
    trainer = _trainer()
    batch = draw_batch(trainer.processor.tokenizer, "any", 2)
    size = trainer.stages[2]
    trainer.step = next(s for s in range(99) if Random(f"{trainer.options.seed}/size/{s}").random() < 0.4)
    assert set(trainer.losses(size, batch)) == {"answer"}
    before = trainer.model.model.multi_modal_projector.linear_1.weight.clone()
    trainer.set_rate(size, 0)
    assert trainer.update(size, batch)["answer"] > 1
    assert not torch.equal(before, trainer.model.model.multi_modal_projector.linear_1.weight)
