"""Every term of the variational bounds against Gaussian data, and the bounds against the data."""

import math

import pytest
import torch
from support.densities import gaussian, mixture
from support.draws import seeded
from support.networks import random_denoiser

from scorelight import (
    VESDE,
    VPSDE,
    AnalyticDenoiser,
    ConfigurationError,
    CosineVPSDE,
    DDPMProcess,
    Epsilon,
    GaussianMixture,
    KarrasVESDE,
    RectifiedFlow,
    SMLDProcess,
    SubVPSDE,
    VariationalBound,
    variational_bound,
)
from scorelight.denoisers import CountingDenoiser
from scorelight.rng import PhiloxGenerator

D = torch.float64
PROCESSES = [VPSDE(), SubVPSDE(), VESDE(), CosineVPSDE(), RectifiedFlow(), KarrasVESDE()]
name = lambda p: f"{type(p).__name__}{p.num_timesteps or ''}"  # noqa: E731


def terms_of_gaussian_data(process, variance, mean, num):
    """Means over the data of the terms of (11), with the exact denoiser: E(ε̂ − ε)² = s²/(s² + σ̄²)."""
    times = torch.linspace(process.t_min, process.t_max, num + 1, dtype=D)
    snr = process.at(times).snr
    prior = 0.5 * snr[-1] * (mean**2 + variance)
    ratio = snr[0] * variance / (1 + snr[0] * variance)
    decoder = 0.5 * (math.log(2 * math.pi) - snr[0].log() + ratio)
    steps = 0.5 * (snr[:-1] / snr[1:] - 1) * snr[1:] * variance / (1 + snr[1:] * variance)
    return prior, steps, decoder


@pytest.mark.parametrize("process", [DDPMProcess(40), SMLDProcess(10), VPSDE()], ids=name)
def test_every_term_on_levels_is_that_of_gaussian_data(process):
    variance, mean, num = 0.3, 0.7, 6000
    denoiser = AnalyticDenoiser(gaussian((1,), variance, mean), process)
    x0 = denoiser.density.sample(num, seeded())
    number = None if process.num_timesteps else 12
    found = variational_bound(denoiser, x0, num_timesteps=number, generator=seeded(1))
    prior, steps, decoder = terms_of_gaussian_data(process, variance, mean, len(found.times) - 1)
    pairs = [(found.prior, prior), (found.decoder, decoder), *zip(found.steps.T, steps, strict=True)]
    for mine, exact in pairs:
        assert mine.mean().item() == pytest.approx(exact.item(), abs=4.5 * mine.std().item() / math.sqrt(num))
    torch.testing.assert_close(found.nats, found.prior + found.decoder + found.steps.sum(1))
    torch.testing.assert_close(found.bits_per_dim, found.nats / math.log(2))


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_in_continuous_time_the_integral_is_the_information_lost(process):
    """½∫ s²/(s² + σ̄²) d log SNR = ½ log[(1 + s² SNR)/(1 + s² SNR_T)], slice by slice (Guo et al., 2005)."""
    variance, num = 0.3, 2000
    denoiser = AnalyticDenoiser(gaussian((1,), variance, 0.7), process)
    x0 = denoiser.density.sample(num, seeded())
    found = variational_bound(denoiser, x0, num_slices=20, generator=seeded(1))
    information = 0.5 * torch.log1p(process.at(found.times).snr * variance)
    exact = information[:-1] - information[1:]
    error = 4.5 * found.steps.std(0) / math.sqrt(num) + 1e-12
    assert ((found.steps.mean(0) - exact).abs() < error).all()
    assert found.times[0].item() == pytest.approx(process.t_min) and found.steps.shape == (num, 20)


def test_it_is_what_variational_bound_the_objective_estimates():
    process, num = DDPMProcess(40), 4000
    density = gaussian((2,), 0.3, 0.2)
    denoiser, x0 = AnalyticDenoiser(density, process), density.sample(num, seeded())
    grey = ((x0 + 1) * 8).round().clamp(0, 16) / 8 - 1
    for data, num_bins in ((x0, None), (grey, 17)):
        ours = variational_bound(denoiser, data, num_bins=num_bins, generator=seeded(1)).nats
        theirs = VariationalBound(num_bins=num_bins)(denoiser, data, generator=seeded(2)).value
        error = math.sqrt((ours.var() + theirs.var()).item() / num)
        assert ours.mean().item() == pytest.approx(theirs.mean().item(), abs=4 * error)
        assert ours.var() < theirs.var() / 3  # all terms, not one for all


def test_discrete_data_need_no_more_bits_than_their_bound_says():
    """Fair coins at ±1: one bit, and the bound on their probability comes to it."""
    density = GaussianMixture(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.zeros(2))
    x0 = torch.tensor([[-1.0], [1.0]], dtype=D).repeat(250, 1)
    for process in (VPSDE(), SMLDProcess(100, 0.01, 100.0)):
        bound = variational_bound(AnalyticDenoiser(density, process), x0, num_bins=2, generator=seeded())
        error = bound.bits_per_dim.std().item() / math.sqrt(500)
        assert bound.bits_per_dim.mean().item() == pytest.approx(1, abs=4 * error + 0.02)


@pytest.mark.parametrize(
    "options", [{"num_timesteps": 1}, {"num_slices": 0}, {"num_bins": 1}, {"variance": "tiny"}], ids=str
)
def test_a_bound_of_nothing_is_refused(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        variational_bound(AnalyticDenoiser(mixture(2), VPSDE()), torch.zeros(1, 2), **options)


@pytest.mark.parametrize("process", [VPSDE(), DDPMProcess(40)], ids=name)
def test_a_bound_under_inference_mode_with_one_call_per_term(process):
    counting = CountingDenoiser(random_denoiser((2, 3), process, Epsilon()))
    with torch.inference_mode():
        x0 = torch.randn(3, 2, 3)
        bound = variational_bound(counting, x0, num_slices=7, generator=PhiloxGenerator(0, range(3)))
    assert bound.nats.shape == (3,) and counting.num_evaluations == 1 + bound.steps.shape[1]
