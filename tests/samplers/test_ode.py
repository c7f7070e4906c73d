import math

import pytest
import torch
from scipy.integrate import solve_ivp
from support.times import PrescribedGrid

from scorelight import (
    DDIM,
    VESDE,
    VPSDE,
    AnalyticDenoiser,
    Euler,
    GaussianMixture,
    Heun,
    SubVPSDE,
    UniformGrid,
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
MIXTURE = GaussianMixture(
    torch.tensor([0.4, 0.6]), torch.tensor([[1.0, 0.3], [-0.5, -0.6]]), torch.tensor([0.5, 0.3])
)


def velocity(process, x, t):
    level = process.grid_levels(torch.tensor([t], dtype=D))[0]
    f, g2 = COEFFICIENTS[type(process)](t)
    return f * x - 0.5 * g2 * MIXTURE.score(x, level.alpha, level.sigma)


def one_step(sampler, process, generator, t=0.6, s=0.5):
    noise = torch.randn(5, 2, dtype=D, generator=generator)
    out = sampler(num_steps=1, grid=PrescribedGrid(t, s), denoise=False)(
        AnalyticDenoiser(MIXTURE, process), noise
    )
    return process.sigma(torch.tensor(t, dtype=D)) * noise, out


@every_process
def test_euler_takes_a_step_along_the_probability_flow(process, generator):
    x, out = one_step(Euler, process, generator)
    torch.testing.assert_close(out, x - 0.1 * velocity(process, x, 0.6), rtol=1e-10, atol=1e-10)


@every_process
def test_heun_averages_the_velocities_at_both_ends_of_the_step(process, generator):
    x, out = one_step(Heun, process, generator)
    first = velocity(process, x, 0.6)
    second = velocity(process, x - 0.1 * first, 0.5)
    torch.testing.assert_close(out, x - 0.05 * (first + second), rtol=1e-10, atol=1e-10)


@every_process
@pytest.mark.one_in(3)
def test_heun_agrees_with_scipy_on_the_probability_flow(process):
    noise = torch.tensor([[0.5, -1.2]], dtype=D)
    start = (process.sigma(torch.ones((), dtype=D)) * noise).flatten()

    def derivative(t, x):
        return velocity(process, torch.as_tensor(x)[None], t).flatten()

    exact = solve_ivp(derivative, (1, process.t_min), start, "DOP853", rtol=1e-9, atol=1e-10).y[:, -1]
    ours = Heun(num_steps=1000, denoise=False)(AnalyticDenoiser(MIXTURE, process), noise)
    # a step is 0.02 in log-SNR, its square 4e-4
    assert ours.flatten().tolist() == pytest.approx(exact.tolist(), abs=2e-4)


@every_process
@pytest.mark.parametrize("make", [Euler, Heun, DDIM])
@pytest.mark.one_in(4)
def test_gaussian_data_flow_along_straight_lines_of_standardised_coordinates(process, make, generator):
    # x_s = alpha_s m + sqrt(v_s/v_t) (x_t - alpha_t m) in every dimension, here an image of 1 x 2 x 3
    mean, variance = torch.randn(1, 2, 3, generator=generator, dtype=D), torch.linspace(0.1, 1, 6, dtype=D)
    noise = torch.randn(4, 1, 2, 3, generator=generator, dtype=D)
    density = GaussianMixture(torch.ones(1), mean[None], torch.diag(variance)[None])
    t, s = process.grid_levels(torch.tensor([1.0, process.t_min], dtype=D))
    v_t, v_s = (v.alpha**2 * variance.reshape(1, 2, 3) + v.sigma**2 for v in (t, s))
    exact = s.alpha * mean + (v_s / v_t).sqrt() * (t.sigma * noise - t.alpha * mean)
    denoiser = AnalyticDenoiser(density, process)
    few, many = ((make(num_steps=n, denoise=False)(denoiser, noise) - exact).norm() for n in (200, 800))
    assert few < 0.2 * exact.norm()
    assert many < few / 4 ** (make.order - 0.1)


@every_process
def test_any_grid_leads_to_the_same_end(process):
    denoiser, noise = AnalyticDenoiser(MIXTURE, process), torch.tensor([[0.5, -1.2], [1.0, 0.1]], dtype=D)
    ends = torch.tensor([1.0, process.t_min], dtype=D).sqrt().tolist()  # equal steps in the root of t
    uneven = PrescribedGrid(*(torch.linspace(*ends, 501, dtype=D) ** 2).tolist())
    own, other = (
        Heun(num_steps=500, grid=grid, denoise=False)(denoiser, noise) for grid in (UniformGrid(), uneven)
    )
    # the largest step is 0.07 in log-SNR, on the uneven grid with VE: 0.07^2
    torch.testing.assert_close(own, other, rtol=0, atol=5e-3)
