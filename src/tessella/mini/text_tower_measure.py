"""Measure the shipped text tower on held-out pictures: `python -m tessella.mini.text_tower_measure`.

Retrieval: of 64 pictures and the lists of what is in them, how often the most similar list is the picture's own, and
the most similar picture the list's own. Pointing: how often the patch most similar to a question shows what the
question speaks of, by type, and of as many most similar patches as show it, the share that do. Both would by chance be
the share of such patches.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from transformers import AutoModelForImageTextToText

from tessella.loading import load_text_tower
from tessella.mini import path, text_tower_path
from tessella.mini.questions import KINDS, draw_sample
from tessella.mini.text_tower_texts import draw_scene_of, list_items, patches_of, spoken_of
from tessella.mini.text_tower_training import encode
from tessella.models.clip_tower import ClipTower

BATCH = 64


@torch.no_grad()
def measure_retrieval(tower: ClipTower, encoder: Any, batches: int, seed: int) -> dict[str, float]:
    """Shares of pictures and of lists that find their own among 64."""
    found = {"list of a picture": 0, "picture of a list": 0}
    for batch in range(batches):
        scenes = [draw_scene_of(seed, BATCH * batch + n, "test") for n in range(BATCH)]
        texts = F.normalize(tower.of_texts([list_items(s, Random(f"{seed}/{batch}")) for s in scenes]), dim=1)
        pictures = F.normalize(tower.of_patches(encode(encoder, scenes)[0]), dim=1)
        near, own = pictures @ texts.T, torch.arange(BATCH)
        found["list of a picture"] += int((near.argmax(dim=1) == own).sum())
        found["picture of a list"] += int((near.argmax(dim=0) == own).sum())
    return {name: count / (BATCH * batches) for name, count in found.items()} | {"chance": 1 / BATCH}


@torch.no_grad()
def measure_pointing(tower: ClipTower, encoder: Any, per_type: int, seed: int) -> dict[str, dict[str, float]]:
    """For each type of question how often the `first` patch is right, and which share of `all` that could be are.

    Questions that speak of nothing in the picture are passed over.
    """
    table = {}
    for kind in KINDS:
        asked = [draw_sample(kind, Random(f"text tower/{seed}/{kind}/{n}"), "test") for n in range(per_type)]
        asked = [(scene, q.text) for scene, q in asked if spoken_of(q.text, scene.items)]
        right = torch.stack([torch.from_numpy(patches_of(spoken_of(text, scene.items))) for scene, text in asked])
        texts = F.normalize(tower.of_texts([text for _, text in asked]), dim=1)
        parts = [[scene for scene, _ in asked[i : i + BATCH]] for i in range(0, len(asked), BATCH)]
        hidden = torch.cat([encode(encoder, part)[1] for part in parts])
        near = (F.normalize(tower.of_patches(hidden), dim=2) @ texts[:, :, None])[:, :, 0]
        found = right.gather(1, near.argsort(dim=1, descending=True))
        asked_for = torch.arange(right.shape[1]) < right.sum(dim=1, keepdim=True)
        table[kind] = {
            "first": round(float(found[:, 0].float().mean()), 4),
            "all": round(float(((found & asked_for).sum(dim=1) / asked_for.sum(dim=1)).mean()), 4),
            "chance": round(float(right.float().mean()), 4),
            "questions": len(asked),
        }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description="Retrieval and pointing of the text tower on held-out pictures.")
    parser.add_argument("--batches", type=int, default=20, help="of 64 pictures, for retrieval")
    parser.add_argument("--per-type", type=int, default=500, help="questions of each type, for pointing")
    parser.add_argument("--seed", type=int, default=1, help="of the pictures; training has those of seed 0")
    parser.add_argument("--folder", type=Path, default=text_tower_path(), help="folder of the tower")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    tower = load_text_tower(options.folder, device="cpu")
    encoder = AutoModelForImageTextToText.from_pretrained(path(), dtype=torch.float32).model.vision_tower.eval()
    retrieval = measure_retrieval(tower, encoder, options.batches, options.seed)
    pointing = measure_pointing(tower, encoder, options.per_type, options.seed)
    for name, share in retrieval.items():
        print(f"{name:<18} {share:.4f}")
    for kind, row in pointing.items():
        print(f"{kind:<18} {row['first']:.4f} {row['all']:.4f}  by chance {row['chance']:.4f}")
    if options.json:
        settings = f"--batches {options.batches} --per-type {options.per_type} --seed {options.seed}"
        record = {
            "command": f"python -m tessella.mini.text_tower_measure {settings}",
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "retrieval": retrieval,
            "pointing": pointing,
        }
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
