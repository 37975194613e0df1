"""The recordings replay, and stop replaying when the sign of any score is flipped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import replay
from recorded import Golden

from tessella.core.registry import methods

HERE = Path(__file__).parent / "reduction"
FILES = sorted(HERE.rglob("*.npz"))
IDS = set(methods())
OWNERS = sorted({replay.owner_of(p.stem, IDS) for p in FILES})
FLIPS = [(owner, flip) for owner in OWNERS for flip in replay.driver_of(owner).FLIPS]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_recording_replays(path: Path) -> None:
    status, detail = replay.replay_file(path, IDS)
    assert status == "ok", detail
    assert detail, "nothing was compared"


def test_every_recorded_result_is_compared() -> None:
    """Arrays that no driver reads or compares are inputs that the method does not use; the driver names them."""
    for path in FILES:
        file = Golden(path)
        driver = replay.driver_of(replay.owner_of(path.stem, IDS))
        driver.replay(file)
        assert set(file.arrays) - file.read <= getattr(driver, "UNUSED", set()), path.name


@pytest.mark.parametrize(("owner", "flip"), FLIPS)
def test_flipped_score_fails(owner: str, flip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every recording of the method notices, or where a score is in some files only, those that `HELD_BY` names."""
    holder, name, change = replay.driver_of(owner).FLIPS[flip]
    monkeypatch.setattr(holder, name, change(getattr(holder, name)))
    paths = [p for p in FILES if replay.owner_of(p.stem, IDS) == owner]
    only = getattr(replay.driver_of(owner), "HELD_BY", {}).get(flip, "")
    for path in [p for p in paths if p.stem.startswith(only)]:
        status, detail = replay.replay_file(path, IDS)
        assert status == "FAIL", path.name
        assert "differ" in detail


def test_every_scoring_method_with_recordings_is_flipped() -> None:
    drivers = {p.stem for p in (Path(replay.__file__).parent / "drivers").glob("*.py")}
    assert set(OWNERS) == {owner for owner, _ in FLIPS} == drivers


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


def test_parts_that_are_not_implemented_are_skipped_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("yopo_w3_heads", "yopo_calib_l12", "yopo"):
        np.savez(tmp_path / f"{name}.npz", x=np.zeros(1))
    assert replay.main([str(tmp_path)]) == 0
    assert replay.main([str(tmp_path), "--strict"]) == 1
    window = "yopo's neighbour window, head mask and feed-forward slice are not implemented"
    assert capsys.readouterr().out.splitlines()[:4] == [
        f"skip  yopo.npz  {window}",
        "skip  yopo_calib_l12.npz  yopo's head masks from calibration are not implemented",
        f"skip  yopo_w3_heads.npz  {window}",
        "0 passed, 0 failed, 3 skipped",
    ]
    (tmp_path / "yopo.npz").write_bytes(b"not an archive")
    assert replay.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "0 passed, 1 failed, 2 skipped"


def test_no_other_method_lacks_a_part() -> None:
    assert {replay.owner_of(start, IDS) for start in replay.NOT_IMPLEMENTED} == {"yopo"}
    assert not [p.name for p in FILES if replay.missing_part(p.stem)]


def test_runs_as_a_script() -> None:
    done = subprocess.run(
        [sys.executable, str(Path(replay.__file__)), str(HERE)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{len(FILES)} passed, 0 failed, 0 skipped"
