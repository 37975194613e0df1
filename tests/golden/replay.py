"""Replay recorded tensors through the registered methods: `python tests/golden/replay.py DIR [--strict]`.

Every `*.npz` under DIR belongs to the longest method id that prefixes its name. Prints one line a file and last
`N passed, N failed, N skipped`. Exits 1 on a failure or an unreadable file, with `--strict` on a skip too.

A driver maps the arrays of a file to a view and what the method answers to the recorded results; it computes nothing.
Indices and masks must match exactly, floats within 1e-4 relative.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

import numpy as np
import torch
from torch import Tensor

from tessella.core.budget import Counts, round_count
from tessella.core.layout import Layout
from tessella.core.reduction import Reduction
from tessella.core.registry import make, method_modules
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info

# parts of implemented methods that a file may record and that are not implemented, with the reason
NOT_IMPLEMENTED: dict[str, str] = {}


class Golden:
    """The arrays of one file, which of them were read, and which were compared with what a method gave."""

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            self.arrays = {name: arrays[name] for name in arrays.files}
        self.read: set[str] = set()
        self.compared: list[str] = []

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.arrays:
            raise AssertionError(f"required array '{name}' is missing")
        self.read.add(name)
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def number(self, name: str) -> Any:
        return self[name].item()

    def compare(self, name: str, got: Any, *, optional: bool = False) -> None:
        """Hold what the method gave against the recorded array `name`, which must be there unless optional."""
        if optional and name not in self.arrays:
            return
        want, given = self[name], np.asarray(got.detach().cpu() if isinstance(got, Tensor) else got)
        assert given.shape == want.shape, f"{name}: shape {given.shape}, recorded {want.shape}"
        if want.dtype.kind == "f":
            close = np.isclose(given, want, rtol=1e-4, atol=1e-5 * max(np.abs(want).max(initial=0), 1e-30))
        else:
            close = given == want
        assert close.all(), f"{name}: {(~close).sum()} of {close.size} values differ"
        self.compared.append(name)

    def compare_keep(self, keep: Tensor) -> None:
        """Compare a mask [B, V] with `keep_indices` and `keep_mask`, recorded with or without the axis B."""
        kept = [row.nonzero()[:, 0] for row in keep]
        batched = self["keep_indices"].ndim == 2
        if batched:
            assert len({len(k) for k in kept}) == 1, f"keep_indices: counts {[len(k) for k in kept]} differ"
        self.compare("keep_indices", torch.stack(kept) if batched else kept[0])
        self.compare("keep_mask", keep if batched else keep[0], optional=True)

    def compare_count(self, ratio: str, num_tokens: int, rounding: str, count: int) -> None:
        """The count that our budget makes of a recorded ratio, unless a decimal half leaves it open."""
        if ratio in self.arrays:
            exact = Fraction(repr(self.number(ratio))) * num_tokens
            if abs(exact % 1 - Fraction(1, 2)) > Fraction(1, 10**9):
                ours = round_count(exact, rounding)  # type: ignore[arg-type]
                assert ours == count, f"{ratio}: our count {ours}, recorded {count}"


def every(count: int, view: ArrayView) -> Counts:
    """The same count for each item of a view."""
    return Counts((count,) * len(view.layout.num_tokens), view.layout.num_tokens)


def fastv(file: Golden) -> None:
    """One query row of attention; what is kept of the whole sequence."""
    first, num_image, num_text = (int(file.number(n)) for n in ("n_sys", "n_img", "n_text"))
    rows = torch.as_tensor(file["last_row_attention"])[None, :, None, first : first + num_image]
    view = ArrayView(attention_rows=rows, first_slot=first)
    reduction = make("fastv").reduce(view, every(int(file.number("keep")), view))
    kept = view.layout.slot[reduction.keep.cpu()]
    length = first + num_image + num_text
    sequence = torch.cat([torch.arange(first), kept, torch.arange(first + num_image, length)])
    file.compare("keep_indices", sequence)
    file.compare("position_ids", sequence[None], optional=True)  # survivors keep their place
    file.compare("hidden_after", torch.arange(length, dtype=torch.float32)[sequence], optional=True)


def divprune(file: Golden) -> None:
    """Projected tokens of one image; picks in the order taken."""
    view, method = ArrayView(embeddings=file["features"][None]), make("divprune")
    count = int(file.number("k"))
    file.compare_count("ratio", view.layout.num_tokens[0], method.card.rounding, count)
    file.compare("pick_order", method.select(view, every(count, view))[0])  # type: ignore[attr-defined]
    file.compare_keep(method.reduce(view, every(count, view)).keep)


def hiprune(file: Golden) -> None:
    """Attention received in two layers, whole (LLaVA) or already averaged (Qwen)."""
    grid = (int(file.number("grid_h")), int(file.number("grid_w")))
    if "received_object_layer" in file:
        seen = [file[f"received_{n}_layer"][None] for n in ("object", "output")]
        count = int(file.number("k"))
        file.compare_count("retain_ratio", grid[0] * grid[1], "nearest", count)
    else:
        seen = [file[f"attention_{n}_layer"].astype(np.float64).mean(axis=(1, 2))[:, 1:] for n in ("object", "output")]
        count = int(file.number("keep_per_image"))
    layer = int(file.number("object_layer_1based")) - 1
    method = make("hiprune", alpha=file.number("alpha"), object_layer=layer, output_layer=layer + 1)
    arrays = {layer: seen[0].astype(np.float32), layer + 1: seen[1].astype(np.float32)}
    view = ArrayView(attention_received=arrays, grids=grid)
    anchors = method.anchors(view, every(count, view))  # type: ignore[attr-defined]
    file.compare("anchor_indices", anchors if file["anchor_indices"].ndim == 2 else anchors[0])
    file.compare("num_anchor", anchors.shape[1], optional=True)
    file.compare_keep(method.reduce(view, every(count, view)).keep)


def fastervlm(file: Golden) -> None:
    """The class token's attention row; scores, and features of the kept patches."""
    view = ArrayView(features=file["features"], class_attention=file["cls_attention"][..., 1:])
    method, count = make("fastervlm"), int(file.number("k"))
    file.compare("scores", method.score(view), optional=True)  # type: ignore[attr-defined]
    keep = method.reduce(view, every(count, view)).keep
    file.compare_keep(keep)
    kept = view.features()[keep].reshape(len(keep), count, -1)
    file.compare("kept_features", kept, optional=True)


def visionzip(file: Golden) -> None:
    """Features, keys and the class token's row of one layer; dominant patches, centres, targets and tokens."""
    hidden, contextual = file["hidden_states"], int(file.number("contextual"))
    view = ArrayView(
        features=hidden[:, 1:],
        class_features=hidden[:, 0],
        class_attention=file["cls_attention"][..., 1:],
        encoder_keys=file["metric"][:, None, 1:],
    )
    method: Any = make("visionzip", contextual=contextual)
    counts = every(int(file.number("dominant")) + contextual, view)
    dominant = method.dominant(view, counts)
    centres = method.centres(view, counts, dominant)
    patches = dominant.nonzero()[:, 1].reshape(len(hidden), -1)
    file.compare("dominant_patch_indices", patches)
    file.compare("contextual_target_indices", centres)
    file.compare("merge_target_of_patch", method.targets(view, dominant, centres), optional=True)
    reduction: Reduction = method.reduce(view, counts)
    assert int(reduction.keep.sum()) == sum(counts.num_keep), "keep: another number of slots than tokens"
    file.compare("output_tokens", reduction.embeddings)


def prumerge(file: Golden) -> None:
    """Features, the class token's query and all keys of the last layer; centres and tokens in the authors' order."""
    hidden, keys = file["hidden_states"], file["keys"]
    view = ArrayView(
        features=hidden[None, 1:],
        class_projection=(file["cls_query"][None, None], keys[None, None, 0]),
        encoder_keys=keys[None, None, 1:],
    )
    ratio = None if file.number("adaptive") else file.number("reduction_ratio")
    method: Any = make("prumerge", plus=file.number("plus"), ratio=ratio)
    counts = Counts(view.layout.num_tokens, view.layout.num_tokens, asked=False)
    attention = method.class_row(view)
    file.compare("cls_attention", attention[0])
    if ratio is None:
        file.compare("num_outliers", method.num_outliers(attention, view.mask, counts)[0])
    centres, num_centres = method.centres(attention, view.mask, counts)
    file.compare("anchor_indices", centres[0, : num_centres[0]])
    file.compare("output_tokens", method.reduce(view, counts).embeddings[0])


def feather(file: Golden) -> None:
    """One query and the keys of every visual token, for both cuts; the second sees what the first has kept."""
    query, there = torch.as_tensor(file["q_last"])[None, :, None], int(file.number("n_img"))
    pairs = []
    for stage in (1, 2):
        key = torch.as_tensor(file[f"k_img_stage{stage}"]).transpose(0, 1)[None]
        key = torch.nn.functional.pad(key, (0, 0, 0, 1))  # the last token stands behind the picture
        pairs.append((query.expand(-1, -1, there + 1, -1), key))
    side = math.isqrt(there)
    method: Any = make("feather", rho=file.number("keep_ratio"), stride=int(file.number("stride")))
    layout = Layout.single(1, side, side)
    for stage, pair, step in zip((1, 2), pairs, method.steps(default_info(), None), strict=True):
        view = ArrayView(projection=pair, embeddings=torch.zeros(1, there, 1), layout=layout)
        file.compare(f"score_stage{stage}", method.score(view, step.at_layer - 1)[0])
        counts = Counts(layout.num_tokens, layout.num_tokens, asked=False)
        kept = step.reduce(view, counts).keep.nonzero()[None, :, 1]
        layout = layout.gather(kept, (0,))
        file.compare(f"kept_stage{stage}", layout.slot[0])


DRIVERS: dict[str, Callable[[Golden], None]] = {
    f.__name__: f for f in (fastv, divprune, hiprune, fastervlm, visionzip, prumerge, feather)
}


def owner_of(stem: str, ids: set[str]) -> str:
    """The longest id that prefixes a file's name, or the name up to its first number."""
    fitting = [i for i in ids if stem == i or stem.startswith(f"{i}_")]
    return max(fitting, key=len) if fitting else re.split(r"_(?=[a-z]*\d)", stem)[0]


def replay_file(path: Path, ids: set[str]) -> tuple[str, str]:
    """`ok`, `FAIL` or `skip` with a line of detail."""
    owner = owner_of(path.stem, ids)
    try:
        file = Golden(path)
        if path.stem in NOT_IMPLEMENTED:
            return "skip", NOT_IMPLEMENTED[path.stem]
        if owner not in method_modules():
            return "skip", f"method {owner} is not implemented"
        if owner not in DRIVERS:
            return "FAIL", f"method {owner} has no driver"
        DRIVERS[owner](file)
    except AssertionError as error:
        return "FAIL", str(error)
    except Exception as error:  # an unreadable file or a method that raises is a failure, never the end of the run
        return "FAIL", f"{type(error).__name__}: {error}".splitlines()[0]
    return "ok", ", ".join(file.compared)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--strict", action="store_true", help="fail on skipped files too")
    options = parser.parse_args(argv)
    ids = set(method_modules()) | {p.stem for p in options.directory.rglob("*.md")}
    count = {"ok": 0, "FAIL": 0, "skip": 0}
    for path in sorted(options.directory.rglob("*.npz")):
        status, detail = replay_file(path, ids)
        count[status] += 1
        print(f"{status:<4}  {path.relative_to(options.directory)}  {detail}")
    print(f"{count['ok']} passed, {count['FAIL']} failed, {count['skip']} skipped")
    return 1 if count["FAIL"] or (options.strict and count["skip"]) else 0


if __name__ == "__main__":
    raise SystemExit(main())
