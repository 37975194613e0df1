"""What each version of the world draws, and how its variants look."""

import hashlib
from collections.abc import Sequence
from random import Random

import pytest
from PIL import Image

from tessella.mini.prompts import ALL_KINDS, draw_prompt
from tessella.mini.questions import KINDS, draw_sample, sample
from tessella.mini.variants import VARIANTS
from tessella.mini.world import WORLD_VERSION

DIGESTS = {  # of seeds 0 to 4, both splits; a version keeps what those before it drew
    "1": (KINDS, ("plain",), "4e8c904acec90886"),
    "2": (ALL_KINDS, tuple(VARIANTS), "89669a00ba693f10"),
}


def _digest(kinds: Sequence[str], variants: Sequence[str]) -> str:
    """Over prompts and answers, pixels included."""
    digest = hashlib.sha256()
    for kind in kinds:
        for variant in variants if kind in KINDS else ("plain",):
            for split in ("train", "test"):
                for seed in range(5):
                    prompt = draw_prompt(kind, seed, split, variant)
                    digest.update(f"{kind}/{variant}/{split}/{seed}/{prompt.answer}\n".encode())
                    for part in prompt.parts:
                        digest.update(part.tobytes() if isinstance(part, Image.Image) else part.encode())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize("version", DIGESTS)
def test_a_version_draws_the_same_pictures_and_questions(version: str) -> None:
    kinds, variants, digest = DIGESTS[version]
    assert _digest(kinds, variants) == digest


def test_the_last_version_is_the_one_in_force() -> None:
    assert list(DIGESTS)[-1] == WORLD_VERSION


def test_sparse_and_crowded_pictures_hold_as_many_objects_as_they_say() -> None:
    rng = Random(1)
    needed = {"relation": 2, "existence": 3, "place": 2, "digit": 2, "reading": 2, "colour": 1, "shape": 1, "count": 5}
    for kind in KINDS:
        for _ in range(12):
            crowded, _ = draw_sample(kind, rng, "test", "crowded")
            assert 8 <= len(crowded.items) <= 9
            sparse, _ = draw_sample(kind, rng, "test", "sparse")
            assert len(sparse.items) <= max(2, needed[kind])


def test_small_and_large_objects_differ_in_size_and_stay_within_the_plain_ones() -> None:
    rng, widths = Random(2), {}
    for variant in ("plain", "small", "large"):
        scenes = [draw_sample("digit", rng, "test", variant)[0] for _ in range(40)]
        widths[variant] = {item.box[3] - item.box[1] for scene in scenes for item in scene.items if item.shape}
    assert widths["small"] == {16, 18}
    assert widths["large"] == {26, 28}
    assert min(widths["plain"]) <= 16 < 28 <= max(widths["plain"])


def test_every_variant_draws_pictures_of_its_own() -> None:
    drawn = {sample("colour", 3, variant=variant).image.tobytes() for variant in VARIANTS}
    assert len(drawn) == len(VARIANTS)
    assert sample("colour", 3).image.tobytes() in drawn


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="variant must be one of plain, sparse, crowded, small, large; got 'dense'"):
        sample("colour", 0, variant="dense")
    with pytest.raises(ValueError, match="only single pictures have variants"):
        draw_prompt("which", 0, variant="small")
    with pytest.raises(ValueError, match=r"kind must be one of colour, .*, change; got 'size'"):
        draw_prompt("size", 0)
