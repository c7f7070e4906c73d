"""Measurements: their likelihood, and the exact posterior of a mixture by two independent routes."""

import math

import pytest
import torch

from scorelight import ConfigurationError, GaussianMixture
from scorelight.inverse import GaussianBlur, Mask, MatrixOperator, Measurement, mixture_posterior

D = torch.float64


def draws(*size, seed):
    return torch.randn(*size, dtype=D, generator=torch.Generator().manual_seed(seed))


def mixture(dim=4, components=3):
    factors = draws(components, dim, dim, seed=1)
    covariances = 0.3 * factors @ factors.mT + 0.05 * torch.eye(dim, dtype=D)
    return GaussianMixture(torch.tensor([0.5, 0.2, 0.3]), 2 * draws(components, dim, seed=2), covariances)


A = draws(2, 4, seed=3)
NOISES = {"one": 0.3, "each": [0.3, 0.05]}


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_the_likelihood_is_that_of_the_noise(noise, generator):
    measurement = Measurement(MatrixOperator((4,), A), noise)
    x, y = draws(5, 4, seed=4), draws(5, 2, seed=5)
    normal = torch.distributions.Normal(x @ A.mT, torch.tensor(noise, dtype=D))
    expected = normal.log_prob(y).sum(1)
    found = measurement.log_prob(x, measurement=y)
    torch.testing.assert_close(found - found[0], expected - expected[0], rtol=1e-10, atol=1e-10)
    observed = measurement.observe(x[:1].expand(20_000, 4), generator)
    torch.testing.assert_close(observed.mean(0), (x[0] @ A.mT), rtol=0, atol=0.01)  # 5 standard errors
    torch.testing.assert_close(observed.std(0), torch.tensor(noise, dtype=D).expand(2), rtol=0.03, atol=0)


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_the_posterior_of_a_mixture_is_prior_times_likelihood(noise):
    density, measurement = mixture(), Measurement(MatrixOperator((4,), A), noise)
    y = draws(2, seed=6)
    posterior = mixture_posterior(density, measurement, y)
    x = draws(50, 4, seed=7)
    product = density.log_prob(x) + measurement.log_prob(x, measurement=y.expand(50, 2))
    found = posterior.log_prob(x)
    torch.testing.assert_close(found, product + (found - product).mean(), rtol=1e-10, atol=1e-10)


def anisotropic_mean(density, mu, covariance):
    """E[x0 | μ] for μ = x0 + N(0, Σ): the posterior mean under noise that is not white."""
    cov = (density.eigenvectors * density.eigenvalues[:, None, :]) @ density.eigenvectors.mT
    total = cov + covariance
    residual = mu[:, None, :] - density.means
    solved = torch.linalg.solve(total, residual[..., None])[..., 0]
    log_normal = -0.5 * ((residual * solved).sum(-1) + torch.linalg.slogdet(total)[1])
    share = (density.weights.log() + log_normal).softmax(1)
    means = density.means + torch.einsum("kde,bke->bkd", cov, solved)
    return torch.einsum("bk,bkd->bd", share, means)


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize(("alpha", "sigma"), [(0.9, 0.2), (0.3, 0.95), (1.0, 5.0)])
def test_its_score_at_a_noise_level_is_that_of_noise_that_is_not_white(alpha, sigma, noise):
    """∇log p(x_t | y) = (α D_Σ(μ) − x_t)/σ², Σ = (α²/σ² I + Aᵀ Σ_y⁻¹ A)⁻¹, μ = Σ(α x_t/σ² + Aᵀ Σ_y⁻¹ y)."""
    density, measurement = mixture(), Measurement(MatrixOperator((4,), A), noise)
    y, x_t = draws(2, seed=8), draws(20, 4, seed=9)
    precision = torch.diag(torch.tensor(noise, dtype=D).expand(2) ** -2)
    covariance = torch.linalg.inv(alpha**2 / sigma**2 * torch.eye(4, dtype=D) + A.mT @ precision @ A)
    mu = (alpha / sigma**2 * x_t + A.mT @ precision @ y) @ covariance
    expected = (alpha * anisotropic_mean(density, mu, covariance) - x_t) / sigma**2
    found = mixture_posterior(density, measurement, y).score(x_t, alpha, sigma)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_a_measurement_without_noise_fixes_what_it_measures():
    posterior = mixture_posterior(mixture(), Measurement(MatrixOperator((4,), A)), y := draws(2, seed=10))
    x = posterior.sample(1000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(x @ A.mT, y.expand(1000, 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("noise", [-0.1, math.nan, math.inf, [0.1, -1.0]])
def test_noise_out_of_range_is_refused(noise):
    with pytest.raises(ConfigurationError, match="from 0 on, and finite"):
        Measurement(MatrixOperator((4,), A), noise)


def test_without_noise_there_is_no_likelihood():
    with pytest.raises(ConfigurationError, match="noise=0"):
        Measurement(MatrixOperator((4,), A)).log_prob(draws(1, 4, seed=1), measurement=draws(1, 2, seed=2))


SYSTEMS = {
    "matrix": (MatrixOperator((4,), A), [0.3, 0.05]),
    "matrix, one noise": (MatrixOperator((4,), A), 0.3),
    "mask": (Mask((1, 6, 6), half="top"), 0.1 + draws(18, seed=8).abs()),
    "blur": (GaussianBlur((1, 6, 6), 0.6), 0.1 + draws(1, 6, 6, seed=8).abs()),
}


@pytest.mark.parametrize(("operator", "noise"), SYSTEMS.values(), ids=SYSTEMS)
@pytest.mark.parametrize(("a", "b"), [(1.0, 0.01), (0.5, 1.0), (0.0, 2.0)])
def test_residuals_are_pulled_back_by_the_inverse_of_their_covariance(operator, noise, a, b):
    measurement, matrix = Measurement(operator, noise), operator.matrix()
    residual = measurement.operator(draws(3, *operator.shape, seed=9))
    variance = torch.as_tensor(noise, dtype=D).expand(residual.shape[1:]).flatten() ** 2
    inverse = torch.linalg.inv(a * matrix @ matrix.mT + b * torch.diag(variance))
    expected = (residual.flatten(1) @ inverse @ matrix).view(3, *operator.shape)
    torch.testing.assert_close(measurement.pull(residual, a, b), expected, rtol=1e-6, atol=1e-8)


def test_noise_of_some_components_only_is_refused():
    measurement = Measurement(MatrixOperator((4,), A), [0.3, 0.0])
    with pytest.raises(ConfigurationError, match="noise is 0 for some components"):
        measurement.pull(draws(1, 2, seed=1), 1.0, 1.0)
