"""Bits per dimension of discrete data against exact probabilities."""

import math

import pytest
import torch
from support.densities import gaussian, mixture
from support.draws import seeded
from torch.distributions import Normal

from scorelight import (
    VPSDE,
    AnalyticDenoiser,
    ConfigurationError,
    GaussianMixture,
    LikelihoodProtocol,
    bits_per_dim,
    log_likelihood,
)
from scorelight.rng import PhiloxGenerator

D = torch.float64


def uniform_bits(process, num_bins, data_range=(-1.0, 1.0), **options):
    """A model that is uniform over the grey levels knows nothing: log₂ of their number, in the middle."""
    low, high = data_range
    half = (high - low) / (num_bins - 1) / 2
    centres = torch.linspace(low - half, high + half, 401, dtype=D)
    centres = (centres[1:] + centres[:-1]) / 2
    density = GaussianMixture(
        torch.ones(400), centres[:, None], torch.full((400,), (centres[1] - centres[0]) ** 2)
    )
    x = torch.arange(num_bins // 4, 3 * num_bins // 4)[:, None]
    protocol = LikelihoodProtocol(num_bins, data_range, **options)
    return bits_per_dim(AnalyticDenoiser(density, process), x, protocol, generator=seeded())


@pytest.mark.parametrize("num_bins", [17, 256])
@pytest.mark.parametrize("data_range", [(-1.0, 1.0), (-255 / 256, 255 / 256), (0.0, 1.0)], ids=str)
@pytest.mark.one_in(3)
def test_a_uniform_model_needs_log2_of_the_number_of_levels(num_bins, data_range):
    found = uniform_bits(VPSDE(), num_bins, data_range, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        found.value, torch.full_like(found.value, math.log2(num_bins)), rtol=0, atol=0.01
    )
    assert found.protocol.unit == "bits/dim"


def test_the_mean_over_the_data_is_their_cross_entropy():
    """P(k) = ∫ p over a level's interval, for a model that hardly varies within one."""
    density, num_bins = gaussian((1,), 0.16, 0.1), 65
    x, width = torch.arange(num_bins)[:, None], 2 / 64
    found = bits_per_dim(
        AnalyticDenoiser(density, VPSDE()), x, LikelihoodProtocol(num_bins, repeats=20), generator=seeded()
    )
    edges = -1 + width * (torch.arange(num_bins + 1, dtype=D) - 0.5)
    probability = Normal(0.1, 0.4).cdf(edges).diff()
    # of the bound, Δ²/24 E[(log p)''] nats are lost; 2e-4 of the smoothing at t_min and 0.007 of the prior
    torch.testing.assert_close(found.value, -probability.log2(), rtol=0, atol=0.04)
    weight = probability / probability.sum()
    assert (weight * found.value).sum().item() == pytest.approx(
        -(weight * probability.log2()).sum().item(), abs=5e-3
    )
    assert (found.standard_error[16:48] < 0.02).all()


def test_integers_and_floats_on_the_grid_are_the_same_data():
    density, grey = gaussian((2, 3), 0.3), torch.randint(17, (4, 2, 3), generator=seeded())
    denoiser = AnalyticDenoiser(density, VPSDE())
    forms = [grey, grey.to(torch.uint8), grey.float() / 8 - 1, grey.double() / 8 - 1]
    values = [
        bits_per_dim(denoiser, x, LikelihoodProtocol(17), generator=PhiloxGenerator(0, range(4))).value
        for x in forms
    ]
    for value in values:
        torch.testing.assert_close(value, values[0], rtol=0, atol=1e-4)


def test_bits_do_not_depend_on_the_batch():
    grey = torch.randint(17, (4, 2), generator=seeded())
    denoiser = AnalyticDenoiser(mixture(2), VPSDE())
    protocol = LikelihoodProtocol(17, repeats=2, divergence="hutchinson", truncation="bound")
    whole = bits_per_dim(denoiser, grey, protocol, generator=PhiloxGenerator(0, range(4))).value
    part = bits_per_dim(denoiser, grey[[2, 0]], protocol, generator=PhiloxGenerator(0, [2, 0])).value
    torch.testing.assert_close(part, whole[[2, 0]], rtol=0, atol=1e-5)


def test_data_that_are_not_quantised_get_nats_per_dimension():
    x0 = mixture(2).sample(50, seeded())
    denoiser = AnalyticDenoiser(mixture(2), VPSDE())
    found = bits_per_dim(
        denoiser, x0, LikelihoodProtocol(num_bins=None, truncation="corrected", rtol=1e-6, atol=1e-6)
    )
    expected = -log_likelihood(denoiser, x0).log_prob / 2
    torch.testing.assert_close(found.value, expected)
    assert found.protocol.unit == "nats/dim" and not found.standard_error.any()
    assert found.mean == pytest.approx(expected.mean().item())
    assert found.standard_error_of_mean == pytest.approx(expected.std().item() / math.sqrt(50))


@pytest.mark.parametrize(
    "x",
    [
        torch.linspace(-0.97, 0.91, 8).reshape(4, 2),  # dequantised already
        torch.arange(8).reshape(4, 2).float() / 8 - 1 + 1e-3,
        torch.tensor([[0, 256]]),
        torch.tensor([[-1, 3]]),
        torch.tensor([[0.0, 1.5]]),
        torch.tensor([[0.0, 1 / 3]]),
        torch.tensor([[0.0, math.nan]]),
    ],
    ids=str,
)
def test_data_that_are_not_on_the_grey_levels_are_refused_with_the_remedy(x):
    with pytest.raises(ConfigurationError, match="before dequantisation") as error:
        bits_per_dim(AnalyticDenoiser(mixture(2), VPSDE()), x)
    assert "num_bins=None" in str(error.value) and "integers from 0 to 255" in str(error.value)


def test_digits_have_17_levels_and_are_refused_as_256():
    digits = torch.tensor([[0, 3, 16]]).float() / 8 - 1
    density = gaussian((3,), 0.3)
    with pytest.raises(ConfigurationError, match="256 grey levels"):
        bits_per_dim(AnalyticDenoiser(density, VPSDE()), digits)
    assert (
        bits_per_dim(AnalyticDenoiser(density, VPSDE()), digits, LikelihoodProtocol(17))
        .value.isfinite()
        .all()
    )


@pytest.mark.parametrize("options", [{"num_bins": 1}, {"repeats": 0}, {"data_range": (1.0, -1.0)}], ids=str)
def test_a_protocol_is_checked_when_it_is_made(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        LikelihoodProtocol(**options)
