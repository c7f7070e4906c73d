import math

import pytest
import torch
from support.times import PrescribedGrid

from scorelight import (
    VESDE,
    VPSDE,
    AnalyticDenoiser,
    DDPMProcess,
    EulerMaruyama,
    GaussianMixture,
    ReverseDiffusion,
    SMLDProcess,
    SubVPSDE,
)

D = torch.float64
BETA = lambda t: 0.1 + 19.9 * t  # noqa: E731
B = lambda t: 0.1 * t + 19.9 * t**2 / 2  # noqa: E731

# f and g^2 of Song et al. (2021), eq. 30-34, written out
COEFFICIENTS = {
    VPSDE: lambda t: (-BETA(t) / 2, BETA(t)),
    SubVPSDE: lambda t: (-BETA(t) / 2, BETA(t) * (1 - math.exp(-2 * B(t)))),
    VESDE: lambda t: (0.0, (0.01 * 5000**t) ** 2 * 2 * math.log(5000)),
}
every_process = pytest.mark.parametrize(
    "process", [VPSDE(), SubVPSDE(), VESDE()], ids=lambda p: type(p).__name__
)
VARIANCE = 0.3


@every_process
@pytest.mark.parametrize("times", [(0.6, 0.5), (0.9, 0.2), (1.0, 0.7, 0.65, 0.1)], ids=str)
def test_a_step_is_that_of_the_reverse_sde_over_the_difference_of_its_times(process, times, generator):
    density = GaussianMixture(
        torch.tensor([0.4, 0.6]), torch.tensor([[1.0, 0.3], [-0.5, -0.6]]), torch.ones(2)
    )
    noise, steps = torch.randn(5, 2, dtype=D, generator=generator), len(times) - 1
    same = generator.clone_state()
    sampler = EulerMaruyama(num_steps=steps, grid=PrescribedGrid(*times), denoise=False)
    states = list(sampler.sample_path(AnalyticDenoiser(density, process), noise, generator=generator))
    x = process.sigma(torch.tensor(times[0], dtype=D)) * noise
    for t, s, state in zip(times, times[1:], states, strict=False):
        level = process.grid_levels(torch.tensor([t], dtype=D))[0]
        f, g2 = COEFFICIENTS[type(process)](t)
        z = torch.randn(5, 2, dtype=D, generator=same)
        drift = f * x - g2 * density.score(x, level.alpha, level.sigma)
        x = x + (s - t) * drift + math.sqrt(g2 * (t - s)) * z
        torch.testing.assert_close(state, x, rtol=1e-10, atol=1e-10)


def one_step(process, t, s, make):
    # the affine map x_s = slope x_t + std z of centred Gaussian data, read off at three points
    density = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.tensor([VARIANCE], dtype=D))
    start, draw = torch.tensor([[[1.0], [0.0]], [[0.0], [1.0]]], dtype=D)
    sampler = make(num_steps=1, grid=PrescribedGrid(t, s), denoise=False)
    x = sampler(AnalyticDenoiser(density, process), start, noise_source=lambda like: draw)
    first, second = x.flatten().tolist()
    return first / process.sigma(torch.tensor(t, dtype=D)).item(), second


@every_process
@pytest.mark.parametrize("make", [EulerMaruyama, ReverseDiffusion])
def test_one_step_is_locally_exact_to_second_order(process, make):
    def errors(h):
        t, s = process.grid_levels(torch.tensor([0.5, 0.5 - h], dtype=D))
        v_t, v_s = (v.alpha**2 * VARIANCE + v.sigma**2 for v in (t, s))
        gain = t.alpha / s.alpha * v_s / v_t  # of the exact Gaussian conditional of x_s given x_t
        slope, std = one_step(process, 0.5, 0.5 - h, make)
        return abs(slope - gain), abs(std**2 - (v_s - gain**2 * v_t))

    mean, variance = zip(errors(1e-3), errors(5e-4), strict=True)
    if (make, type(process)) == (ReverseDiffusion, VESDE):  # for Gaussian data its mean is exact
        assert max(mean) < 1e-14
        mean = (4.0, 1.0)
    for coarse, fine in (mean, variance):
        assert math.log2(coarse / fine) == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("i", [2, 3, 100, 500, 1000])
def test_reverse_diffusion_is_equation_46_of_song_et_al_under_ddpm(i, generator):
    process = DDPMProcess()
    density = GaussianMixture(torch.tensor([0.4, 0.6]), torch.tensor([[1.0], [-0.5]]), torch.ones(2))
    noise = torch.randn(5, 1, dtype=D, generator=generator)
    same = generator.clone_state()
    sampler = ReverseDiffusion(num_steps=1, grid=PrescribedGrid(i / 1000, (i - 1) / 1000), denoise=False)
    out = sampler(AnalyticDenoiser(density, process), noise, generator=generator)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=D)
    beta, alpha_bar = betas[i - 1].item(), (1 - betas[:i]).prod().item()
    x = math.sqrt(1 - alpha_bar) * noise
    score = density.score(x, math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar))
    z = torch.randn(5, 1, dtype=D, generator=same)
    expected = (2 - math.sqrt(1 - beta)) * x + beta * score + math.sqrt(beta) * z
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("i", [2, 3, 100, 232])
def test_reverse_diffusion_is_the_predictor_of_song_et_al_under_smld(i, generator):
    process = SMLDProcess(num_timesteps=232, sigma_min=0.01, sigma_max=50.0)
    density = GaussianMixture(torch.tensor([0.4, 0.6]), torch.tensor([[1.0], [-0.5]]), torch.ones(2))
    noise = torch.randn(5, 1, dtype=D, generator=generator)
    same = generator.clone_state()
    sampler = ReverseDiffusion(num_steps=1, grid=PrescribedGrid(i / 232, (i - 1) / 232), denoise=False)
    out = sampler(AnalyticDenoiser(density, process), noise, generator=generator)
    sigma = [0.01 * 5000 ** (k / 231) for k in range(232)]
    high, low = sigma[i - 1], sigma[i - 2]
    x, z = high * noise, torch.randn(5, 1, dtype=D, generator=same)
    expected = x + (high**2 - low**2) * density.score(x, 1.0, high) + math.sqrt(high**2 - low**2) * z
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
