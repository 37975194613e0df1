"""Frames are taken from a clip at equal distances; reading files is tested by `integrations/lmms_eval/run.sh`."""

from __future__ import annotations

import pytest
from PIL import Image

from tessella.integrations.clips import Frames, choose_frames


@pytest.mark.parametrize(
    "total, most, expected", [(10, 4, (0, 3, 6, 9)), (3, 8, (0, 1, 2)), (7, 1, (0,)), (100, 3, (0, 50, 99))]
)
def test_frames_at_equal_distances(total: int, most: int, expected: tuple[int, ...]) -> None:
    assert choose_frames(total, most) == expected


def test_a_clip_without_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="it holds no frames"):
        choose_frames(0, 4)


def test_processors_are_told_where_frames_stood() -> None:
    clip = Frames((Image.new("RGB", (2, 2)),) * 2, (0, 9), total=10, fps=5.0)
    assert clip.facts == {"total_num_frames": 10, "fps": 5.0, "frames_indices": [0, 9]}
