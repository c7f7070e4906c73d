"""Chains in the noise of a sampler: their law is the posterior, with and without gradients."""

import math

import pytest
import torch

from scorelight import DDIM, VPSDE, AnalyticDenoiser, GaussianMixture
from scorelight.posterior import effective_sample_size, noise_chains, split_r_hat

D = torch.float64


def run(flow, log_likelihood, num_chains, dim, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(num_chains, dim, dtype=D, generator=generator)
    return list(
        noise_chains(
            flow,
            log_likelihood,
            z,
            lambda like: torch.randn(like.shape, dtype=D, generator=generator),
            **options,
        )
    )


@pytest.mark.parametrize("use_gradient", [False, True])
@pytest.mark.parametrize("betas", [(0.5,), (1.0, 0.4, 0.2)])
def test_the_posterior_of_a_linear_flow_is_the_gaussian_that_it_should_be(use_gradient, betas):
    """x0 = A z + b and y = x0 + σ n. 4,000 chains; means within 5 standard errors, covariances, too."""
    a, b = torch.tensor([[1.0, 0.0], [0.6, 0.5]], dtype=D), torch.tensor([0.5, -0.3], dtype=D)
    y, sigma = torch.tensor([1.0, 0.4], dtype=D), 0.5
    states = run(
        lambda z: z @ a.T + b,
        lambda x: -0.5 * (x - y).square().sum(1) / sigma**2,
        4000,
        2,
        num_iterations=120,
        betas=betas,
        warmup=10,
        use_gradient=use_gradient,
    )
    prior = a @ a.T
    covariance = torch.linalg.inv(torch.linalg.inv(prior) + torch.eye(2, dtype=D) / sigma**2)
    mean = covariance @ (torch.linalg.solve(prior, b) + y / sigma**2)
    x = states[-1].x0
    assert ((x.mean(0) - mean).abs() < 5 * (covariance.diagonal() / 4000).sqrt()).all()
    torch.testing.assert_close(
        x.T.cov(), covariance, atol=5 * covariance.max().item() * math.sqrt(2 / 4000), rtol=0
    )


def test_the_weights_of_two_modes_are_found_through_a_sampler():
    """A mixture with a measurement of its first coordinate; 2,000 chains: 5 standard errors are 0.055."""
    means = torch.tensor([[-2.0, 0.5], [2.0, -0.5]], dtype=D)
    weights, variance, y, sigma = torch.tensor([0.3, 0.7], dtype=D), 0.15, 0.25, 1.0
    density = GaussianMixture(weights, means, variance * torch.ones(2))
    denoiser, sampler = AnalyticDenoiser(density, VPSDE()), DDIM(40)
    states = run(
        lambda z: sampler(denoiser, z),
        lambda x: -0.5 * (x[:, 0] - y) ** 2 / sigma**2,
        2000,
        2,
        num_iterations=40,
        warmup=5,
    )
    evidence = weights * torch.exp(-0.5 * (y - means[:, 0]) ** 2 / (variance + sigma**2))
    expected = (evidence / evidence.sum())[1].item()
    found = (states[-1].x0[:, 0] > 0).double().mean().item()
    assert found == pytest.approx(expected, abs=0.055)


def test_a_proposal_that_is_not_finite_is_rejected():
    states = run(
        lambda z: z,
        lambda x: torch.where(x[:, 0] > 0, torch.nan, 0.0),
        500,
        1,
        num_iterations=30,
        betas=(1.0,),
    )
    started = states[0].z[:, 0] > 0
    assert not any((s.accepted & (s.x0[:, 0] > 0)).any() for s in states) and started.any()


def ar1(rho, n, chains, generator):
    """x_t = ρ x_(t−1) + √(1 − ρ²) ξ: the effective number of draws is N (1 − ρ)/(1 + ρ)."""
    x = [torch.randn(chains, dtype=D, generator=generator)]
    for _ in range(n - 1):
        x.append(rho * x[-1] + math.sqrt(1 - rho**2) * torch.randn(chains, dtype=D, generator=generator))
    return torch.stack(x)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, -0.4])
def test_the_effective_sample_size_of_an_autoregression_is_known(rho, generator):
    """Within 10 %: over seeds the estimate varies by 2 to 4 %."""
    trace = ar1(rho, 4000, 8, generator)
    assert effective_sample_size(trace) == pytest.approx(8 * 4000 * (1 - rho) / (1 + rho), rel=0.1)
    assert split_r_hat(trace) == pytest.approx(1, abs=0.01)


def test_chains_that_have_not_mixed_are_noticed(generator):
    trace = ar1(0.5, 400, 4, generator) + torch.tensor([0.0, 0.0, 0.0, 3.0], dtype=D)
    assert split_r_hat(trace) > 1.5 and effective_sample_size(trace) < 40
    drifting = ar1(0.5, 400, 4, generator) + torch.linspace(0, 5, 400, dtype=D)[:, None]
    assert split_r_hat(drifting) > 1.5
    assert math.isnan(split_r_hat(torch.ones(10, 2))) and math.isnan(effective_sample_size(torch.ones(10, 2)))
