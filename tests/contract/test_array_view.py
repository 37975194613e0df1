"""A view made of arrays answers with them, and says what it was not given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tessella.core.errors import MethodError
from tessella.testing import ArrayView


def test_arrays_come_back() -> None:
    features = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    view = ArrayView(features=features, class_attention={5: torch.ones(2, 2, 4)}, grids=(2, 2), first_slot=7)
    assert torch.equal(view.features(), torch.as_tensor(features))
    assert torch.equal(view.class_attention(5), torch.ones(2, 2, 4))
    assert view.layout.slot.tolist() == [[7, 8, 9, 10]] * 2
    assert view.layout.grids == ((2, 2), (2, 2))
    assert torch.equal(view.connector(view.features()), view.features())
    assert view.info.has_class_token


def test_one_array_answers_for_every_layer() -> None:
    view = ArrayView(attention_received=torch.tensor([[0.1, 0.9]]))
    assert torch.equal(view.attention_received(3), view.attention_received(17))


def test_ragged_items() -> None:
    view = ArrayView(embeddings=torch.zeros(2, 6, 4), grids=[(2, 3), (1, 2)])
    assert view.mask.sum(dim=1).tolist() == [6, 2]
    assert view.tokens.mass.tolist() == [[1.0] * 6, [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]]
    assert ArrayView(embeddings=torch.zeros(2, 6, 4), num_tokens=(6, 5)).layout.num_tokens == (6, 5)


def test_rows_from_a_function() -> None:
    view = ArrayView(
        embeddings=torch.zeros(1, 3, 2),
        attention_rows=lambda layer, queries, softmax, keys: torch.full(
            (1, 1, 1, 3), float(layer) + (softmax == "visual")
        ),
    )
    assert view.attention_rows(4, softmax="visual")[0, 0, 0].tolist() == [5.0, 5.0, 5.0]


def test_draws_follow_the_sample_not_the_batch() -> None:
    both = ArrayView(embeddings=torch.zeros(2, 5, 1), sample_ids=[11, 12]).uniforms(3)
    second = ArrayView(embeddings=torch.zeros(1, 5, 1), sample_ids=[12]).uniforms(3)
    assert torch.equal(both[1:], second)
    assert not torch.equal(both[0], both[1])
    pictures = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    by_pixels = ArrayView(embeddings=torch.zeros(2, 5, 1), pixels=pictures).uniforms(0)
    swapped = ArrayView(embeddings=torch.zeros(2, 5, 1), pixels=pictures.flip(0)).uniforms(0)
    assert torch.equal(by_pixels, swapped.flip(0))


@pytest.mark.parametrize("ask", ["features", "class_features", "pixels", "text_embeddings"])
def test_missing_array_is_named(ask: str) -> None:
    view = ArrayView(embeddings=torch.zeros(1, 3, 2))
    with pytest.raises(MethodError, match=f"this view has no {ask.split('_embeddings')[0]}; it was given: embeddings"):
        getattr(view, ask)()


def test_missing_layer_is_named() -> None:
    view = ArrayView(attention_received={8: torch.zeros(1, 3)})
    with pytest.raises(MethodError, match=r"no attention_received of layer 22; it was given layers: \[8\]"):
        view.attention_received(22)
    with pytest.raises(MethodError, match="no embeddings"):
        _ = view.tokens


def test_nothing_to_size_it_by() -> None:
    with pytest.raises(MethodError, match="needs a layout or one of"):
        ArrayView(class_features=torch.zeros(1, 3))
