"""What no family can do is refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

import tessella
from tessella.core.errors import UnsupportedError
from tessella.testing.families import TinyFamily
from tessella.testing.family_cases import inputs_of, prompts


def test_compact_positions_where_they_have_several_axes(family: TinyFamily, model: Any) -> None:
    if not hasattr(model.model, "rope_deltas"):
        assert tessella.reduce(model, "random", keep=0.5, positions="compact").num_cuts == 0
        return
    with pytest.raises(UnsupportedError, match="multi-axis positions; use 'original'"):
        tessella.reduce(model, "random", keep=0.5, positions="compact")


def test_pictures_of_another_size_for_clips(family: TinyFamily, model: Any) -> None:
    if not family.takes_video or not tessella.can_apply(model, "downsample"):
        pytest.skip("no clips, or pictures of one size only")
    for name in prompts(family).keys() & {"clip", "mixed"}:
        with (
            tessella.reduce(model, "downsample", keep=0.5),
            pytest.raises(UnsupportedError, match="downsample changes pictures, but the prompts hold a video"),
        ):
            model(**inputs_of(family, prompts(family)[name]))
