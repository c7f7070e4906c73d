import math

import pytest
import torch

from scorelight import VESDE, VPSDE, AnalyticDenoiser, EulerMaruyama, GaussianMixture, SubVPSDE, TimeGrid

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


class Times(TimeGrid):
    def __init__(self, *times):
        self.times = times

    def __call__(self, process, num_times):
        assert num_times == len(self.times)
        return torch.tensor(self.times, dtype=D)


@every_process
@pytest.mark.parametrize("times", [(0.6, 0.5), (0.9, 0.2), (1.0, 0.7, 0.65, 0.1)], ids=str)
def test_a_step_is_that_of_the_reverse_sde_over_the_difference_of_its_times(process, times, generator):
    density = GaussianMixture(
        torch.tensor([0.4, 0.6]), torch.tensor([[1.0, 0.3], [-0.5, -0.6]]), torch.ones(2)
    )
    noise, steps = torch.randn(5, 2, dtype=D, generator=generator), len(times) - 1
    same = generator.clone_state()
    sampler = EulerMaruyama(num_steps=steps, grid=Times(*times), denoise=False)
    states = list(sampler.states(AnalyticDenoiser(density, process), noise, generator=generator))
    x = process.sigma(torch.tensor(times[0], dtype=D)) * noise
    for t, s, state in zip(times, times[1:], states, strict=False):
        level = process.levels(torch.tensor([t], dtype=D))[0]
        f, g2 = COEFFICIENTS[type(process)](t)
        z = torch.randn(5, 2, dtype=D, generator=same)
        drift = f * x - g2 * density.score(x, level.alpha, level.sigma)
        x = x + (s - t) * drift + math.sqrt(g2 * (t - s)) * z
        torch.testing.assert_close(state, x, rtol=1e-10, atol=1e-10)


def one_step(process, t, s, monkeypatch):
    # the affine map x_s = slope x_t + std z of centred Gaussian data, read off at three points
    density = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.tensor([VARIANCE], dtype=D))
    draws = iter(torch.tensor([[[1.0], [0.0]], [[0.0], [1.0]]], dtype=D))
    monkeypatch.setattr("scorelight.samplers.base.randn_like", lambda x, generator: next(draws))
    sampler = EulerMaruyama(num_steps=1, grid=Times(t, s), denoise=False)
    first, second = sampler(AnalyticDenoiser(density, process), next(draws)).flatten().tolist()
    return first / process.sigma(torch.tensor(t, dtype=D)).item(), second


@every_process
def test_one_step_is_locally_exact_to_second_order(process, monkeypatch):
    def errors(h):
        t, s = process.levels(torch.tensor([0.5, 0.5 - h], dtype=D))
        v_t, v_s = (v.alpha**2 * VARIANCE + v.sigma**2 for v in (t, s))
        gain = t.alpha / s.alpha * v_s / v_t  # of the exact Gaussian conditional of x_s given x_t
        slope, std = one_step(process, 0.5, 0.5 - h, monkeypatch)
        return abs(slope - gain), abs(std**2 - (v_s - gain**2 * v_t))

    for coarse, fine in zip(errors(1e-3), errors(5e-4), strict=True):
        assert math.log2(coarse / fine) == pytest.approx(2, abs=0.05)
