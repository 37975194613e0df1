"""The optimiser: what an orthogonalised update is, and that it learns."""

import torch

from tessella.mini.muon import Muon, orthogonalise


def test_singular_values_come_close_to_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 16, 40), (2, 40, 16), (2, 12, 96)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape, generator=generator)).float())
        assert values.min() > 0.5
        assert values.max() < 1.4


def test_update_has_a_fifth_of_the_rate_and_matrices_do_not_mix() -> None:
    generator = torch.Generator().manual_seed(1)
    weights = [torch.nn.Parameter(torch.zeros(32, 32)) for _ in range(3)]
    for weight in weights[:2]:
        weight.grad = torch.randn(32, 32, generator=generator)
    Muon(weights, lr=0.01, weight_decay=0.0).step()
    for weight in weights[:2]:
        assert 0.6 * 0.002 < weight.detach().square().mean().sqrt() < 1.2 * 0.002
    assert not weights[2].any()
    alone = torch.nn.Parameter(torch.zeros(32, 32))
    alone.grad = weights[0].grad
    Muon([alone], lr=0.01, weight_decay=0.0).step()
    torch.testing.assert_close(alone, weights[0])


def test_a_linear_map_is_learned() -> None:
    torch.manual_seed(2)
    target, weight = torch.randn(8, 12), torch.nn.Parameter(torch.zeros(8, 12))
    optimizer = Muon([weight], lr=0.5, weight_decay=0.0)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.5 * (1 - step / 200)
        inputs = torch.randn(64, 12)
        weight.grad = None
        ((weight @ inputs.T - target @ inputs.T) ** 2).mean().backward()
        optimizer.step()
    assert (weight - target).abs().max() < 0.1
