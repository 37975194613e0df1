"""Masks of shortened sequences against masks written by hand."""

from __future__ import annotations

import torch

from tessella.engine.masks import as_implementation, causal_mask, decode_mask, gather_mask

PLACES = torch.tensor([[0, 2, 3], [1, 2, 3]])


def test_nothing_received_stays_nothing_without_padding() -> None:
    assert gather_mask(None, PLACES, None) is None


def test_rows_and_columns_are_gathered() -> None:
    received = torch.arange(2 * 16).view(2, 1, 4, 4).float()
    out = gather_mask(received, PLACES, None)
    for b in range(2):
        for q in range(3):
            for k in range(3):
                assert out[b, 0, q, k] == received[b, 0, PLACES[b, q], PLACES[b, k]]


def test_a_mask_shared_by_the_batch_is_spread() -> None:
    received = torch.ones(4, 4).tril().bool()[None, None]
    out = gather_mask(received, PLACES, None)
    assert out.shape == (2, 1, 3, 3)
    assert torch.equal(out[0, 0], torch.ones(3, 3).tril().bool())


def test_padding_is_closed_but_no_row_is_empty() -> None:
    valid = torch.tensor([[True, True, True], [False, True, True]])
    expected = torch.tensor([[True, False, False], [False, True, False], [False, True, True]])
    assert torch.equal(causal_mask(valid)[1, 0], expected)
    received = torch.ones(4, 4).tril().bool()[None, None].expand(2, 1, 4, 4)
    assert torch.equal(gather_mask(received, PLACES, valid)[1, 0], expected)
    added = torch.where(received, 0.0, torch.finfo(torch.float32).min)
    assert torch.equal(gather_mask(added, PLACES, valid)[1, 0] == 0, expected)
    assert gather_mask(torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]), PLACES, valid).tolist() == [[0, 1, 1], [0, 1, 1]]


def test_decode_sees_what_survived_and_earlier_new_tokens() -> None:
    device = torch.device("cpu")
    assert decode_mask(None, None, batch=1, num_past=5, num_new=1, device=device) is None
    past = torch.tensor([[False, True, True]])
    out = decode_mask(past, None, batch=1, num_past=3, num_new=2, device=device)
    assert out[0, 0].tolist() == [[False, True, True, True, False], [False, True, True, True, True]]
    new = torch.tensor([[False, True]])
    out = decode_mask(None, new, batch=1, num_past=1, num_new=2, device=device)
    assert out[0, 0].tolist() == [[True, True, False], [True, False, True]]


def test_a_layer_rule_looks_at_original_positions() -> None:
    out = decode_mask(
        None,
        None,
        batch=1,
        num_past=3,
        num_new=1,
        device=torch.device("cpu"),
        rule=lambda query, key: query - key < 4,  # a sliding window of four
        past_places=torch.tensor([[0, 4, 6]]),
        new_places=torch.tensor([[8]]),
    )
    assert out[0, 0].tolist() == [[False, False, True, True]]


def test_masks_take_the_form_of_the_implementation() -> None:
    mask = torch.tensor([[[[True, False]]]])
    assert as_implementation(mask, "sdpa", torch.float32) is mask
    assert as_implementation(mask, "eager", torch.float32).tolist() == [[[[0.0, torch.finfo(torch.float32).min]]]]
    assert as_implementation(mask, "flash_attention_2", torch.float32).tolist() == [[True, False]]
