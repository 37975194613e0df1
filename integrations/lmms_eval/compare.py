"""Hold what lmms-eval wrote against the library itself: every answer, every choice, the scores and the tokens kept.

python compare.py TASKS RECORDS PIPELINE
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from world import CHOICES, MAX_NEW_TOKENS

import tessella
from tessella.app.prompting import prepare, prepare_parts
from tessella.integrations.clips import read_frames

BATCH, NUM_FRAMES = 8, 4  # as run.sh asks for
KEPT = "avg_visual_tokens_kept"


def compare(tasks: Path, records: Path, pipeline: str) -> str:
    """One line of what was found equal. Raises AssertionError for anything that differs."""
    model, processor = tessella.load("mini", device="cpu")
    with tessella.reduce(model, pipeline, processor=processor) as run, torch.inference_mode():
        world, clips = _rows(tasks, "tessella_world"), _rows(tasks, "tessella_clips")
        pictures = [[Image.open(tasks / row["file"]).convert("RGB")] for row in world]
        questions = [row["question"] for row in world]
        written: list[str] = []
        for i in range(0, len(world), BATCH):
            part = slice(i, i + BATCH)
            written += _answers(model, processor, prepare(model, processor, pictures[part], questions[part], 6))
        frames = [read_frames(str(tasks / row["file"]), NUM_FRAMES).pictures for row in clips]
        prompts = [(*seen, row["question"]) for seen, row in zip(frames, clips, strict=True)]
        told = _answers(model, processor, prepare_parts(model, processor, prompts, MAX_NEW_TOKENS))
        report = run.report
        weighed = _rows(tasks, "tessella_weighed")
        chosen = [CHOICES[_weigh(model, processor, tasks, row)] for row in weighed]
    answers, results = _records(records / "written")
    _same("answers", answers["tessella_world"], written)
    _same("answers about clips", answers["tessella_clips"], told)
    accuracy = sum(a == row["answer"] for a, row in zip(written, world, strict=True)) / len(world)
    _same("accuracy", results["results"]["tessella_world"]["accuracy,none"], accuracy)
    _same("tokens kept", results["throughput"][KEPT], report.tokens_kept / (len(world) + len(clips)))
    assert pipeline in results["config"]["model_args"], results["config"]
    _, results = _records(records / "weighed")
    right = sum(a == row["answer"] for a, row in zip(chosen, weighed, strict=True)) / len(weighed)
    _same("choices", results["results"]["tessella_weighed"]["acc,none"], right)
    kept = f"{results['throughput'][KEPT]:.0f} visual tokens a picture"
    return f"{pipeline}: {len(world) + len(clips)} answers equal, accuracy {accuracy:.3f}, choices {right:.3f}, {kept}"


def _answers(model: Any, processor: Any, inputs: Any) -> list[str]:
    out = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    texts = processor.tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


def _weigh(model: Any, processor: Any, tasks: Path, row: dict[str, Any]) -> int:
    """The likelier of the choices, each of one token, by what follows the prompt."""
    picture = Image.open(tasks / row["file"]).convert("RGB")
    logits = model(**prepare(model, processor, [[picture]], [row["question"]], 1)).logits[0, -1]
    ids = [processor.tokenizer(choice, add_special_tokens=False)["input_ids"] for choice in CHOICES]
    assert all(len(i) == 1 for i in ids), ids
    return int(logits[[i[0] for i in ids]].argmax())


def _rows(tasks: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tasks / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def _records(folder: Path) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Answers by task, and the results, of the one run whose records are in a folder."""
    (results,) = folder.rglob("*_results.json")
    answers: dict[str, list[Any]] = {}
    for file in folder.rglob("*_samples_*.jsonl"):
        samples = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        samples.sort(key=lambda sample: sample["doc_id"])
        answers[file.stem.partition("_samples_")[2]] = [sample["filtered_resps"] for sample in samples]
    return answers, json.loads(results.read_text(encoding="utf-8"))


def _same(what: str, theirs: Any, ours: Any) -> None:
    assert theirs == ours, f"{what}: lmms-eval has {theirs!r}, the library {ours!r}"


if __name__ == "__main__":
    print(compare(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
