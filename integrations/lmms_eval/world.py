"""Three tasks for lmms-eval that need no download: the embedded world's questions, two answers to weigh, and clips.

python world.py FOLDER
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np

from tessella.mini.questions import KINDS, sample

MAX_NEW_TOKENS = 6
PER_KIND = 5
FIRST_SEED = 900_000  # none of the benchmark's own
NUM_FRAMES = 12  # of each clip: twelve pictures of the world in turn
CHOICES = ["yes", "no"]

COMMON = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
doc_to_visual: !function functions.seen
doc_to_text: !function functions.question
"""
WRITTEN = """\
doc_to_target: answer
output_type: generate_until
generation_kwargs:
  max_new_tokens: {max_new_tokens}
  temperature: 0
  do_sample: false
process_results: !function functions.score
metric_list:
  - metric: accuracy
    aggregation: mean
    higher_is_better: true
"""
WEIGHED = """\
doc_to_target: "{{{{['yes', 'no'].index(answer)}}}}"
doc_to_choice: ["yes", "no"]
target_delimiter: ""
output_type: multiple_choice
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


def write_tasks(folder: Path) -> None:
    """Pictures, clips, rows and YAML files into a folder for `--include_path`."""
    folder.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("functions.py"), folder)
    world = [_row(folder, kind, FIRST_SEED + i) for kind in KINDS for i in range(PER_KIND)]
    _write(folder, "tessella_world", world, WRITTEN)
    _write(folder, "tessella_weighed", [row for row in world if row["answer"] in CHOICES], WEIGHED)
    _write(folder, "tessella_clips", [_clip(folder, FIRST_SEED + i) for i in range(3)], WRITTEN)


def _row(folder: Path, kind: str, seed: int) -> dict[str, Any]:
    drawn = sample(kind, seed)
    name = f"{kind}-{seed}.png"
    drawn.image.save(folder / name)
    return {"file": name, "question": drawn.question, "answer": drawn.answer}


def _clip(folder: Path, seed: int) -> dict[str, Any]:
    name, first = f"clip-{seed}.mp4", sample("colour", seed)
    with av.open(str(folder / name), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height = first.image.size
        for i in range(NUM_FRAMES):
            picture = np.asarray(sample("colour", seed + 100 * i).image.convert("RGB"))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return {"file": name, "question": first.question, "answer": first.answer}


def _write(folder: Path, name: str, rows: list[dict[str, Any]], kind: str) -> None:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    text = (COMMON + kind).format(name=name, rows=file.resolve(), max_new_tokens=MAX_NEW_TOKENS)
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_tasks(Path(sys.argv[1]))
