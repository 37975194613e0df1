"""The report counts newlines, thumbnails and patches apart, for one prompt and for all of a run."""

from __future__ import annotations

from typing import Any

import pytest

import tessella
from tessella.core.layout import NEWLINE, THUMBNAIL, Block, Layout
from tessella.engine.report import RoleCount, count_roles, describe_roles
from tessella.testing.families import tiny_family


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_family("llava_next").model()


def test_roles_are_summed_over_prompts(model: Any) -> None:
    """A thumbnail of 16 tokens, then mosaics of 8 x 8 and of 4 x 10 tokens; the third row holds both."""
    small, wide = (56, 56), (90, 40)
    family = tiny_family("llava_next")
    with tessella.reduce(model, "uniform", keep="1/4", newlines="keep", thumbnails="drop") as run:
        model(**family.inputs([[small]]))
        first = run.report
        model(**family.inputs([[small], [wide], [small, wide]]))
    assert first.roles == first.last.roles == {"newline": RoleCount(8, 8), "thumbnail": RoleCount(0, 16)}
    assert run.report.last.roles == {"newline": RoleCount(24, 24), "thumbnail": RoleCount(0, 64)}
    assert run.report.roles == {"newline": RoleCount(32, 32), "thumbnail": RoleCount(0, 80)}
    patches = 64 + 64 + 40 + 64 + 40
    assert (run.report.tokens_in, run.report.tokens_kept) == (patches + 112, patches // 4 + 32)
    plain = run.report.to_dict()
    assert plain["roles"]["newline"] == {"kept": 32, "of": 32}
    assert plain["last"]["roles"]["thumbnail"] == {"kept": 0, "of": 64}
    assert "\n  among them     newline 32 of 32, thumbnail 0 of 80\n" in str(run.report)


def test_patches_alone_are_not_mentioned() -> None:
    family = tiny_family("llava")
    model = family.model()
    with tessella.reduce(model, "uniform", keep=4) as run:
        model(**family.inputs())
    assert run.report.roles == run.report.last.roles == {}
    assert "among them" not in str(run.report)


def test_counts_are_of_what_is_left() -> None:
    blocks = [Block(0, 2, 2, role=THUMBNAIL), Block(0, 2, 3, tile=1, newlines=True)]
    before = Layout.build([range(12)], [blocks])
    after = before.gather(((before.role[0] != NEWLINE) & (before.row[0] == 0)).nonzero().T, [0])
    assert count_roles(before, after) == {"newline": RoleCount(0, 2), "thumbnail": RoleCount(2, 4)}
    assert describe_roles(count_roles(before, after)) == "newline 0 of 2, thumbnail 2 of 4"
