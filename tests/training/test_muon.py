"""Muon: its steps against the singular value decomposition, and against PyTorch's Adam."""

import copy
import math

import pytest
import torch
from torch import nn

from scorelight import ConfigurationError, MuonWithAdam
from scorelight.training.muon import orthogonalize


@pytest.mark.parametrize("shape", [(5, 5), (3, 12), (12, 3)])
def test_singular_values_become_one_and_vectors_stay(shape, generator):
    left, values, right = torch.linalg.svd(
        torch.randn(shape, generator=generator, dtype=torch.float64), full_matrices=False
    )
    x = orthogonalize(left * values @ right)
    inside = left.T @ x @ right.T  # diagonal if the vectors are the same
    torch.testing.assert_close(inside, inside.diagonal().diag(), atol=1e-9, rtol=0)
    assert ((inside.diagonal() > 0.6) & (inside.diagonal() < 1.25)).all()


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_the_scale_of_the_gradient_does_not_count(scale, generator):
    g = torch.randn(4, 6, generator=generator)
    torch.testing.assert_close(orthogonalize(scale * g), orthogonalize(g), rtol=1e-3, atol=1e-3)


def test_a_matrix_of_zeros_stays_zero():
    assert orthogonalize(torch.zeros(3, 4)).abs().max() == 0


@pytest.mark.parametrize("shape", [(6, 20), (8, 4, 3, 3), (20, 6)])
def test_a_step_of_a_filter_follows_the_written_out_recursion(shape, generator):
    weight = nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
    optimizer = MuonWithAdam([weight], lr=0.1, momentum=0.8)
    expected, m = weight.detach().clone(), torch.zeros(shape, dtype=torch.float64)
    rows, columns = shape[0], math.prod(shape[1:])
    for _ in range(3):
        weight.grad = torch.randn(shape, generator=generator, dtype=torch.float64)
        m = 0.8 * m + 0.2 * weight.grad
        update = orthogonalize((0.8 * m + 0.2 * weight.grad).reshape(rows, columns)).reshape(shape)
        expected = expected - 0.1 * 0.2 * max(rows, columns) ** 0.5 * update
        optimizer.step()
        torch.testing.assert_close(weight.detach(), expected)


def test_the_root_mean_square_of_a_step_is_a_fifth_of_the_rate(generator):
    weight = nn.Parameter(torch.zeros(32, 16, 3, 3))
    weight.grad = torch.randn(weight.shape, generator=generator)
    MuonWithAdam([weight], lr=0.5).step()
    assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.1, rel=0.25)


def test_vectors_take_the_steps_of_adam(generator):
    mine = [nn.Parameter(torch.randn(n, generator=generator)) for n in (3, 5)]
    other = copy.deepcopy(mine)
    options = dict(lr=0.05, betas=(0.8, 0.95), eps=1e-6)
    muon, adam = MuonWithAdam(mine, **options), torch.optim.Adam(other, **options)
    for _ in range(4):
        for p, q in zip(mine, other, strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        muon.step()
        adam.step()
    for p, q in zip(mine, other, strict=True):
        torch.testing.assert_close(p, q)


def test_parameters_without_a_gradient_stay():
    weights = [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))]
    MuonWithAdam(weights).step()
    assert all((p == 1).all() for p in weights)


def test_a_closure_computes_the_gradients(generator):
    layer = nn.Linear(3, 2)
    optimizer, x = MuonWithAdam(layer.parameters(), lr=0.01), torch.randn(4, 3, generator=generator)

    def closure():
        optimizer.zero_grad()
        loss = layer(x).square().mean()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(5)]
    assert losses[-1] < losses[0]


def test_a_run_resumed_from_the_state_is_the_same_run(generator):
    def gradients(layer, seed):
        g = torch.Generator().manual_seed(seed)
        for p in layer.parameters():
            p.grad = torch.randn(p.shape, generator=g)

    layer = nn.Linear(3, 2)
    optimizer = MuonWithAdam(layer.parameters())
    for seed in range(2):
        gradients(layer, seed)
        optimizer.step()
    second = copy.deepcopy(layer)
    resumed = MuonWithAdam(second.parameters())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for part, its in ((layer, optimizer), (second, resumed)):
        gradients(part, 2)
        its.step()
    for p, q in zip(layer.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("options", [{"lr": -1.0}, {"eps": 0.0}, {"lr": math.nan}])
def test_rates_out_of_range_are_refused(options):
    with pytest.raises(ConfigurationError, match=r"MuonWithAdam: lr=.*are needed"):
        MuonWithAdam([nn.Parameter(torch.ones(1))], **options)


@pytest.mark.parametrize("options", [{"momentum": 1.0}, {"betas": (0.9, 1.5)}])
def test_decays_out_of_range_are_refused(options):
    with pytest.raises(ConfigurationError, match="from 0 to below 1"):
        MuonWithAdam([nn.Parameter(torch.ones(1))], **options)


def a_run(generator, left_out=None, scale=None):
    """Three steps of a filter and a vector; one of them with a gradient of NaN and `found_inf`."""
    weights = [nn.Parameter(torch.randn(s, generator=generator)) for s in ((3, 2, 3, 3), (4,))]
    optimizer = MuonWithAdam(weights, lr=0.1)
    for step in range(3):
        for p in weights:
            p.grad = torch.randn(p.shape, generator=generator) * (scale or 1)
        if step == left_out:
            before = copy.deepcopy((weights, optimizer.state_dict()["state"]))
            weights[0].grad[0, 0] = weights[1].grad[0] = torch.nan
        optimizer.found_inf = torch.tensor(float(step == left_out))
        optimizer.grad_scale = scale and torch.tensor(scale)
        optimizer.step()
        if step == left_out:
            return before, (weights, optimizer.state_dict()["state"])
    return weights


def test_a_step_that_is_not_finite_changes_nothing(generator):
    (weights, state), (later, later_state) = a_run(generator, left_out=2)
    for p, q in zip(weights, later, strict=True):
        assert torch.equal(p, q)
    for i, tensors in state.items():
        for name, value in tensors.items():
            assert torch.equal(value, later_state[i][name]), name


def test_a_step_under_a_gradient_scaler_is_the_step_without_it():
    seeded = torch.Generator().manual_seed
    plain, scaled = a_run(seeded(0)), a_run(seeded(0), scale=64.0)
    for p, q in zip(plain, scaled, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
