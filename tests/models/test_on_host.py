"""Values of a device's tensor on the host: right, kept, and read anew when the tensor has changed."""

from __future__ import annotations

import pytest
import torch

from tessella.models import on_host as module
from tessella.models.on_host import on_host


class Elsewhere(torch.Tensor):
    """A tensor that says it is on another device."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("meta")


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []

    def copied(tensor: torch.Tensor) -> torch.Tensor:
        made.append(1)
        return tensor.as_subclass(torch.Tensor).clone()

    monkeypatch.setattr(module, "_copied", copied)
    return made


def test_a_tensor_of_the_host_is_itself() -> None:
    ids = torch.tensor([3, 1])
    assert on_host(ids) is ids


def test_a_copy_is_made_once(copies: list[int]) -> None:
    ids = torch.tensor([3, 1]).as_subclass(Elsewhere)
    assert on_host(ids).tolist() == [3, 1]
    assert on_host(ids).tolist() == [3, 1]
    assert len(copies) == 1


def test_a_changed_tensor_is_read_again(copies: list[int]) -> None:
    ids = torch.tensor([3, 1]).as_subclass(Elsewhere)
    on_host(ids)
    ids.add_(1)
    assert on_host(ids).tolist() == [4, 2]
    assert len(copies) == 2


def test_copies_go_with_their_tensor(copies: list[int]) -> None:
    ids = torch.tensor([3, 1]).as_subclass(Elsewhere)
    on_host(ids)
    before = len(module._copies)
    del ids
    assert len(module._copies) == before - 1


def test_a_tensor_of_inference_mode_is_not_kept(copies: list[int]) -> None:
    with torch.inference_mode():
        ids = torch.tensor([3, 1]).as_subclass(Elsewhere)
        assert on_host(ids).tolist() == on_host(ids).tolist() == [3, 1]
    assert len(copies) == 2
