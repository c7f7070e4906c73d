import math

import numpy as np
import pytest
import torch
from support.denoisers import RecordingDenoiser
from support.marks import slow_but

from scorelight import (
    VESDE,
    VPSDE,
    AnalyticDenoiser,
    ConfigurationError,
    CosineVPSDE,
    EDMSampler,
    GaussianMixture,
    Heun,
    KarrasGrid,
    KarrasVESDE,
    RectifiedFlow,
    SubVPSDE,
)
from scorelight.rng import PhiloxGenerator

D = torch.float64
PROCESSES = [VPSDE(), SubVPSDE(), VESDE(), CosineVPSDE(), RectifiedFlow()]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
MIXTURE = GaussianMixture(
    torch.tensor([0.4, 0.6]), torch.tensor([[1.0, 0.3], [-0.5, -0.6]]), torch.tensor([0.5, 0.3])
)


def algorithm_2(denoise, noise, sigmas, s_churn, s_tmin, s_tmax, s_noise, draws):
    """Karras et al. (2022), algorithm 2, line by line; the last of the sigmas is 0."""
    n, x = len(sigmas) - 1, sigmas[0] * noise
    for i in range(n):
        gamma = min(s_churn / n, math.sqrt(2) - 1) if s_tmin <= sigmas[i] <= s_tmax else 0.0
        hat = sigmas[i] + gamma * sigmas[i]
        if gamma > 0:
            x = x + math.sqrt(hat**2 - sigmas[i] ** 2) * s_noise * next(draws)
        d = (x - denoise(x, hat)) / hat
        new = x + (sigmas[i + 1] - hat) * d
        if sigmas[i + 1] != 0:
            slope = (new - denoise(new, sigmas[i + 1])) / sigmas[i + 1]
            new = x + (sigmas[i + 1] - hat) * (d / 2 + slope / 2)
        x = new
    return x


@pytest.mark.parametrize(
    ("s_churn", "s_tmin", "s_tmax", "s_noise"),
    [(0.0, 0.0, math.inf, 1.0), (8.0, 0.05, 50.0, 1.003), (40.0, 0.01, 1.0, 1.007), (3.0, 0.003, 40.0, 1.0)],
)
@pytest.mark.parametrize("num_steps", [2, 10, 18])
def test_under_ve_it_is_their_algorithm_2(s_churn, s_tmin, s_tmax, s_noise, num_steps, monkeypatch):
    process, source = KarrasVESDE(), torch.Generator().manual_seed(0)
    noise, *draws = torch.randn(num_steps + 1, 5, 2, dtype=D, generator=source)
    rho, i = 7, torch.arange(num_steps, dtype=D) / (num_steps - 1)  # eq. 5
    sigmas = (80 ** (1 / rho) + i * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho

    def denoise(x, sigma):
        return x + sigma**2 * MIXTURE.score(x, 1.0, sigma)

    settings = (s_churn, s_tmin, s_tmax, s_noise)
    expected = algorithm_2(denoise, noise, [*sigmas.tolist(), 0.0], *settings, iter(draws))
    ours = iter(draws)
    monkeypatch.setattr("scorelight.samplers.base.randn_like", lambda x, generator: next(ours))
    sampler = EDMSampler(num_steps, s_churn=s_churn, s_tmin=s_tmin, s_tmax=s_tmax, s_noise=s_noise)
    found = sampler(AnalyticDenoiser(MIXTURE, process), noise)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_without_churn_it_is_heun_in_sigma():
    """For a process with σ = t Heun's steps in t are theirs."""
    process, noise = KarrasVESDE(rho=1.0), torch.ones(3, 2, dtype=D)
    denoiser, grid = AnalyticDenoiser(MIXTURE, process), KarrasGrid()
    found, expected = (make(12, grid)(denoiser, noise) for make in (EDMSampler, Heun))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@every_process
def test_churn_stays_within_the_process(process):
    noise, recording = torch.ones(3, 2, dtype=D), RecordingDenoiser(AnalyticDenoiser(MIXTURE, process))
    EDMSampler(10, s_churn=100.0)(recording, noise, generator=PhiloxGenerator(0, range(3)))
    sigmas = [level.sigma / level.alpha for level in recording.levels]
    low, high = (
        (-0.5 * process.at(torch.tensor([process.t_min, process.t_max], dtype=D)).log_snr).exp().tolist()
    )
    assert min(sigmas) >= low * (1 - 1e-9)
    assert max(sigmas) <= high * (1 + 1e-9)
    grid = [r.sigma / r.alpha for r in process.grid_levels(KarrasGrid()(process, 10))]
    assert sigmas[2] == pytest.approx(min(math.sqrt(2) * grid[1], high), rel=1e-9)


def moments(sampler, process, mean, variance):
    """Exact mean and variance for Gaussian data, from the exact marginal at t_max.

    The sampler is affine in its draws: example k is given draw k alone, the last one none.
    """
    draws = sampler.num_steps + 1
    t = process.grid_levels(torch.tensor([process.t_max], dtype=D))[0]
    v_t = t.alpha**2 * variance + t.sigma**2
    offset = t.alpha * mean / t.sigma
    unit = torch.eye(draws + 1, dtype=D)[:draws, :, None]
    later = iter(unit[1:])
    density = GaussianMixture(torch.ones(1), torch.tensor([[mean]]), torch.tensor([variance]))
    start = offset + math.sqrt(v_t) / t.sigma * unit[0]
    denoiser = AnalyticDenoiser(density, process)
    out = sampler(denoiser, start, noise_source=lambda like: next(later)).flatten()
    return out[-1].item(), (out[:-1] - out[-1]).square().sum().item()


@every_process
@pytest.mark.parametrize("s_churn", slow_but([0.0, 5.0, 40.0], 0.0, 40.0))
@pytest.mark.one_in(12)
def test_the_weak_error_falls_with_the_declared_order_with_and_without_churn(process, s_churn):
    mean, variance = 0.7, 0.3
    s = process.grid_levels(torch.tensor([process.t_min], dtype=D))[0]
    exact = s.alpha**2 * variance + s.sigma**2
    numbers = [120, 240, 480]
    errors = []
    for n in numbers:
        sampler = EDMSampler(n, denoise=False, s_churn=s_churn)
        found = moments(sampler, process, mean, variance)
        assert found[0] == pytest.approx(s.alpha * mean, abs=0.02)
        errors.append(abs(found[1] - exact))
    assert -np.polyfit(np.log(numbers), np.log(errors), 1)[0] > EDMSampler.order - 0.1


@pytest.mark.parametrize(
    "wrong", [dict(s_churn=-1.0), dict(s_noise=-0.1), dict(s_tmin=2.0, s_tmax=1.0), dict(s_churn=math.nan)]
)
def test_wrong_settings_raise(wrong):
    with pytest.raises(ConfigurationError, match="EDMSampler: s_churn="):
        EDMSampler(**wrong)
