"""Training: goes on from a checkpoint as if nothing had happened, and follows its schedule."""

from pathlib import Path
from random import Random

import torch

from tessella.mini.lessons import LENGTH, PREFIX, draw_batch
from tessella.mini.model import save
from tessella.mini.shrinking import shrink
from tessella.mini.train import Trainer, parse, shorten, split_batch

STEPS = ["--look", "4", "--talk", "8", "--size", "4", "--polish", "3", "--focus", "2", "--finish", "5"]
STEPS += ["--contexts", "3", "--settle", "4"]


def _trainer(*more: str) -> Trainer:
    return Trainer(parse([*STEPS, "--part", "2", *more]))


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
    for trainer.step in range(33):
        stage, step = trainer.find_stage()
        seen.append((stage.name, step))
        rates.append(trainer.set_rate(stage, step))
    lengths = {"look": 4, "talk": 8, "size": 4, "polish": 3, "focus": 2, "finish": 5, "contexts": 3, "settle": 4}
    assert seen == [(name, step) for name, length in lengths.items() for step in range(length)]
    assert rates[12:16] == sorted(rates[12:16], reverse=True)
    assert rates[15] < 0.3 * rates[12]
    trainer.set_rate(trainer.stages[1], 0)
    encoder, rest = (group["lr"] for group in trainer.optimizers[1].param_groups[::-1])
    assert encoder == 0.3 * rest
    trainer.step = 33
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


def test_the_encoder_learns_alone_again_from_saved_weights(tmp_path: Path) -> None:
    first = _trainer()
    save(first.model, first.processor, tmp_path / "weights")
    trainer = _trainer("--start", str(tmp_path / "weights"), "--seed", "1")
    for ours, theirs in zip(trainer.model.parameters(), first.model.parameters(), strict=True):
        assert torch.equal(ours, theirs.to(torch.bfloat16).float())
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    focus = trainer.stages[4]
    batch = draw_batch(trainer.processor.tokenizer, "focus", 2, focus.kinds, focus.crowds)
    trainer.set_rate(focus, 1)
    assert "answer" not in trainer.update(focus, batch)
    moved = {name for name, weight in trainer.model.named_parameters() if not torch.equal(weight, before[name])}
    assert "model.vision_tower.encoder.layers.0.mlp.fc1.weight" in moved
    assert all("vision_tower" in name for name in moved)


def test_a_smaller_picture_moves_what_stands_behind_it() -> None:
    trainer = _trainer()
    batch = next(
        b for b in (draw_batch(trainer.processor.tokenizer, f"s/{i}", 2) for i in range(9)) if b.segments.any()
    )
    tensors = {name: torch.from_numpy(value) for name, value in vars(batch).items()}
    ids, positions, segments = shorten(tensors, 12)
    assert ids.shape == positions.shape == segments.shape == (2, LENGTH - 184)
    assert positions[0, :14].tolist() == list(range(14))
    assert torch.equal(ids[:, 14:], tensors["input_ids"][:, PREFIX:])
    assert trainer.processor.decode(ids[0, :14]) == "<s><user>" + 12 * "<image>"
    assert torch.equal(segments[:, 14:], tensors["segments"][:, PREFIX:])
    before, after = tensors["positions"][:, PREFIX:], positions[:, 14:]
    early = before < PREFIX
    assert early.any()
    assert torch.equal(after[early], before[early])
    assert torch.equal(after[~early], before[~early] - 184)


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
