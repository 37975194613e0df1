"""Where the tokens of short clips go on, against loops over ragged clips."""

from __future__ import annotations

import pytest
import torch

from tessella.ops.clips import emission, parents, repeated_slots

CLIPS = [[0, 1, 2], [3, 4], [5]]
N = 4


def some(share: float) -> torch.Tensor:
    return torch.rand(6, N) < share


@pytest.mark.parametrize("seed", range(8))
def test_slots_order_and_parents_equal_loops(seed: int) -> None:
    torch.manual_seed(seed)
    mask = some(0.9)
    kept = mask & some(0.7)
    alone = kept & some(0.5)
    for clip in CLIPS:
        alone[clip[0]] = kept[clip[0]]
    slot = repeated_slots(kept, alone, mask, CLIPS)
    rank = emission(slot, CLIPS, 6).flatten().tolist()
    into = torch.where(kept & ~alone, torch.randint(0, N, (6, N)), -1)
    parent = parents(into, slot, CLIPS)
    sequence: list[int] = []
    for c, clip in enumerate(CLIPS):
        tokens = [(f, j) for f in clip for j in range(N)]
        merged = [t for t in tokens if kept[t] and not alone[t]]
        free = merged + [t for t in tokens if mask[t] and not kept[t]]
        anchors = [j for j in range(N) if kept[clip[0], j]]
        at = dict(zip(anchors, [f * N + j for f, j in free], strict=False)) if len(clip) > 1 else {}
        assert slot[c].tolist() == [at.get(j, -1) for j in range(N)]
        stays = [f * N + j for f, j in tokens if alone[f, j]]
        sequence += [t for t in stays if t // N == clip[0]] + [t for t in stays if t // N != clip[0]]
        sequence += [at[j] for j in anchors if j in at]
        for f, j in tokens:
            place = int(into[f, j])
            want = -1 if place < 0 else at.get(place, clip[0] * N + place)
            assert int(parent[f, j]) == want
    assert sequence == sorted(sequence, key=lambda t: rank[t])
    assert len({rank[t] for t in sequence}) == len(sequence)
