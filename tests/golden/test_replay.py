"""The recordings replay, and stop replaying when the sign of any score is flipped."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import replay

from tessella.core.registry import load_class, methods
from tessella.reduction import divprune, prumerge, visionzip
from tessella.testing import ArrayView

HERE = Path(__file__).parent / "reduction"
FILES = sorted(HERE.rglob("*.npz"))
IDS = set(methods())


def negated(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: -function(*args, **kwargs)


def negated_at(function: Callable[..., Any], output: bool) -> Callable[..., Any]:
    """The later of the layers that a view was given, or the others, with the sign flipped."""

    def received(view: ArrayView, layer: int) -> Any:
        is_output = layer == max(view._given["attention_received"])
        return -function(view, layer) if is_output == output else function(view, layer)

    return received


# each score of each method: what holds it, its name, and what takes its place
FLIPS: dict[str, tuple[str, Any, str, Callable[..., Any]]] = {
    "fastv: attention": ("fastv", load_class("fastv"), "score", negated),
    "fastervlm: attention": ("fastervlm", load_class("fastervlm"), "score", negated),
    "divprune: distance": ("divprune", divprune, "distance", negated),
    "divprune: first pick": ("divprune", divprune, "nearest_other", negated),
    "hiprune: object": ("hiprune", ArrayView, "attention_received", lambda f: negated_at(f, output=False)),
    "hiprune: output": ("hiprune", ArrayView, "attention_received", lambda f: negated_at(f, output=True)),
    "visionzip: attention": ("visionzip", ArrayView, "class_attention", negated),
    "visionzip: keys": ("visionzip", visionzip, "cosine_similarity", negated),
    "prumerge: attention": ("prumerge", load_class("prumerge"), "class_row", negated),
    "prumerge: keys": ("prumerge", prumerge, "cosine_similarity", negated),
    "feather: attention": ("feather", load_class("feather"), "score", negated),
}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_recording_replays(path: Path) -> None:
    status, detail = replay.replay_file(path, IDS)
    assert status == "ok", detail
    assert any(result in detail for result in ("keep_indices", "output_tokens", "kept_stage2"))


def test_every_recorded_result_is_compared() -> None:
    """Arrays that no driver reads or compares are inputs that the method does not use."""
    unused = {"features", "total_keep", "reduction_ratio"}  # of hiprune, and of prumerge where it is adaptive
    for path in FILES:
        file = replay.Golden(path)
        replay.DRIVERS[replay.owner_of(path.stem, IDS)](file)
        assert set(file.arrays) - file.read <= unused, path.name


@pytest.mark.parametrize("flip", FLIPS)
def test_flipped_score_fails(flip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, holder, name, change = FLIPS[flip]
    monkeypatch.setattr(holder, name, change(getattr(holder, name)))
    paths = [p for p in FILES if replay.owner_of(p.stem, IDS) == owner]
    assert len(paths) >= 2
    for path in paths:
        status, detail = replay.replay_file(path, IDS)
        assert status == "FAIL", path.name
        assert "differ" in detail


def test_every_scoring_method_with_recordings_is_flipped() -> None:
    owners = {replay.owner_of(p.stem, IDS) for p in FILES}
    assert owners == {owner for owner, *_ in FLIPS.values()} == set(replay.DRIVERS)


def test_longest_id_owns_a_file() -> None:
    ids = {"aot", "aot_inter", "prumerge"}
    assert replay.owner_of("aot_inter_k01", ids) == "aot_inter"
    assert replay.owner_of("aot_intra_t126", ids) == "aot"
    assert replay.owner_of("prumerge_plus_adaptive", ids) == "prumerge"
    assert replay.owner_of("visiondrop_llm_48_to_35", ids) == "visiondrop_llm"


def test_summary_and_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deep = tmp_path / "deeper"
    deep.mkdir()
    good = dict(np.load(HERE / "divprune_n300_r02.npz"))
    np.savez(deep / "divprune_more.npz", **good, never_heard_of=np.ones(3))
    assert replay.main([str(tmp_path), "--strict"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ok    deeper/divprune_more.npz  pick_order, keep_indices",
        "1 passed, 0 failed, 0 skipped",
    ]

    np.savez(tmp_path / "unknownmethod_n4.npz", a=np.zeros(1))
    assert replay.main([str(tmp_path)]) == 0
    assert replay.main([str(tmp_path), "--strict"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[1] == "skip  unknownmethod_n4.npz  method unknownmethod is not implemented"
    assert out[-1] == "1 passed, 0 failed, 1 skipped"

    (tmp_path / "another_n4.npz").write_bytes(b"not an archive")
    del good["pick_order"]
    np.savez(tmp_path / "divprune_less.npz", **good)
    wrong = dict(np.load(HERE / "fastv_n256_k25.npz"))
    wrong["keep_indices"][20] += 1
    np.savez(tmp_path / "fastv_wrong.npz", **wrong)
    assert replay.main([str(tmp_path)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("FAIL  another_n4.npz  ")
    assert out[2] == "FAIL  divprune_less.npz  required array 'pick_order' is missing"
    assert out[3] == "FAIL  fastv_wrong.npz  keep_indices: 1 of 41 values differ"
    assert out[-1] == "1 passed, 3 failed, 1 skipped"


def test_runs_as_a_script() -> None:
    done = subprocess.run(
        [sys.executable, str(Path(replay.__file__)), str(HERE)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{len(FILES)} passed, 0 failed, 0 skipped"
