import contextlib
import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn
from torch.distributions import MultivariateNormal

from scorelight.errors import ConfigurationError
from scorelight.processes import (
    VESDE,
    VPSDE,
    CosineVPSDE,
    DDPMProcess,
    ForwardProcess,
    KarrasVESDE,
    LearnedVPSDE,
    NoiseLevel,
    RectifiedFlow,
    SMLDProcess,
    SubVPSDE,
)

D = torch.float64
SMOOTH = [
    VPSDE(),
    SubVPSDE(),
    VESDE(),
    CosineVPSDE(),
    CosineVPSDE(offset=0.0),
    KarrasVESDE(),
    KarrasVESDE(rho=3.0),
    RectifiedFlow(),
    LearnedVPSDE(16).requires_grad_(False),
]
TABLES = [DDPMProcess(), DDPMProcess(200, "cosine"), DDPMProcess(betas=[0.1, 0.2, 0.05]), SMLDProcess(50)]
SHAPES = [(5, 2), (5, 3, 7), (5, 3, 4, 6)]
every_process = pytest.mark.parametrize("process", SMOOTH + TABLES, ids=lambda p: type(p).__name__)
smooth_process = pytest.mark.parametrize("process", SMOOTH, ids=lambda p: type(p).__name__)
table = pytest.mark.parametrize("process", TABLES, ids=lambda p: type(p).__name__)


class Learned(ForwardProcess):
    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(1.5, dtype=D))

    def alpha(self, t):
        return torch.exp(-self.rate * t)

    def sigma(self, t):
        return torch.sqrt(-torch.expm1(-2 * self.rate * t))


def numbers(level):
    return torch.stack([level.alpha, level.sigma, level.dalpha, level.dsigma])


@smooth_process
@pytest.mark.one_in(3)
def test_drift_and_diffusion_carry_the_mean_and_variance_of_the_state(process):
    # m' = f m and v' = 2 f v + g^2 (Sarkka & Solin, 2019, eq. 5.50-5.51), integrated by scipy
    def moments(t, state):
        level = process.at(torch.tensor(t))
        f, g2 = level.f.item(), level.g2.item()
        return [f * state[0], 2 * f * state[1] + g2]

    times = (0.01, process.t_max)
    start, end = process.grid_levels(torch.tensor(times, dtype=D))
    begin = [start.alpha, start.sigma**2]
    solution = solve_ivp(moments, times, begin, method="DOP853", rtol=1e-10, atol=1e-14)
    assert solution.y[:, -1] == pytest.approx([end.alpha, end.sigma**2], rel=1e-7)


@table
def test_drift_and_diffusion_carry_the_moments_from_each_level_of_a_table_to_the_next(process):
    """In between f is constant, hence m' = f m and v' = 2 f v + g² have the solutions below."""
    n = process.num_timesteps
    levels = torch.arange(1, n + 1, dtype=D) / n
    exact, inside = process.at(levels), process.at(levels[:-1] + 0.3 / n)
    start, end = (slice(None, -1), slice(1, None))
    mean = exact.alpha[start] * torch.exp(inside.f / n)
    torch.testing.assert_close(mean, exact.alpha[end], rtol=1e-11, atol=0)
    x, weight = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(12))
    time = (1 + x) / 2  # of a step; v(1) = e^{2f/n} v(0) + ∫ e^{2f(1−s)/n} g²(s) ds/n, by Gauss's rule
    g2 = process.at(levels[:-1, None] + time / n).g2
    noise = (torch.exp(2 * inside.f[:, None] * (1 - time) / n) * g2 * weight / (2 * n)).sum(1)
    variance = torch.exp(2 * inside.f / n) * exact.sigma[start] ** 2 + noise
    torch.testing.assert_close(variance, exact.sigma[end] ** 2, rtol=1e-10, atol=0)


@smooth_process
def test_derivatives_agree_with_central_differences(process):
    t, h = torch.linspace(0.05, 0.95, 19, dtype=D), 1e-5
    level, later, sooner = (process.at(time) for time in (t, t + h, t - h))
    # the error is h^2/6 times the third derivative, at most 18^3 of the value here, and rounding/h
    expected = torch.stack([later.alpha - sooner.alpha, later.sigma - sooner.sigma]) / (2 * h)
    torch.testing.assert_close(torch.stack([level.dalpha, level.dsigma]), expected, rtol=1e-6, atol=1e-8)


@every_process
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, D])
@pytest.mark.one_in(4)
def test_level_broadcasts_each_time_against_its_example(process, shape, dtype):
    t = torch.linspace(0.1, 0.9, 5, dtype=D)
    level = process.at(t, like=torch.zeros(shape, dtype=dtype))
    for value, exact in [(level.time, t), (level.alpha, process.alpha(t)), (level.sigma, process.sigma(t))]:
        assert value.shape == (5,) + (1,) * (len(shape) - 1)
        assert value.dtype == dtype
        assert torch.equal(value.flatten(), exact.to(dtype))


@every_process
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_time_serves_the_whole_batch(process, shape):
    x = torch.zeros(shape)
    one, many = process.at(torch.tensor(0.3), like=x), process.at(torch.full((5,), 0.3), like=x)
    assert torch.equal(numbers(one), numbers(many))


def test_level_of_a_batch_of_another_size_raises():
    with pytest.raises(RuntimeError, match="expand"):
        VPSDE().at(torch.rand(3), like=torch.zeros(5, 2))


@every_process
def test_schedules_are_evaluated_in_double_precision_for_single_precision_times(process):
    t = torch.tensor([1.1e-3, 0.5])
    exact = process.at(t.double())
    assert exact.sigma.dtype == D
    assert torch.equal(numbers(process.at(t)), numbers(exact))


@every_process
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_level_and_its_derivatives_need_no_autograd(process, mode):
    x, t = torch.zeros(5, 2, dtype=D), torch.linspace(0.1, 0.9, 5, dtype=D)
    expected = numbers(process.at(t, like=x))
    with mode():
        assert torch.equal(numbers(process.at(t, like=x)), expected)
        assert process.grid_levels(t)[0].dsigma == expected[3, 0].item()


@every_process
def test_levels_are_python_floats_equal_to_the_tensors(process):
    times = torch.linspace(process.t_max, process.t_min, 7, dtype=D)
    level = process.at(times, like=torch.zeros(7, 1, dtype=D))
    for i, row in enumerate(process.grid_levels(times)):
        for name in ("time", "alpha", "sigma", "dalpha", "dsigma", "f", "g2", "snr", "log_snr"):
            assert type(getattr(row, name)) is float
            assert getattr(row, name) == pytest.approx(getattr(level, name)[i].item(), rel=1e-14)


@pytest.mark.parametrize("cast", [float, lambda v: torch.tensor([v], dtype=D)], ids=["float", "tensor"])
def test_noise_level_follows_equation_2(cast):
    level = NoiseLevel(*map(cast, (0.5, 0.8, 0.6, -0.3, 0.7)))
    assert float(level.f) == pytest.approx(-0.3 / 0.8)
    assert float(level.g2) == pytest.approx(2 * 0.6 * (0.7 + 0.3 / 0.8 * 0.6))
    assert float(level.snr) == pytest.approx(0.64 / 0.36)
    assert float(level.log_snr) == pytest.approx(math.log(0.64 / 0.36))


@every_process
def test_angle_and_length_are_the_polar_coordinates_of_alpha_and_sigma(process):
    t = torch.linspace(process.t_min, process.t_max, 9, dtype=D)
    level = process.at(t)
    torch.testing.assert_close(level.length * level.angle.cos(), level.alpha)
    torch.testing.assert_close(level.length * level.angle.sin(), level.sigma)
    assert ((level.angle > 0) & (level.angle < math.pi / 2) & (level.length > 0)).all()
    assert (level.angle.diff() > 0).all()  # from data to noise
    for i, floats in enumerate(process.grid_levels(t)):
        assert type(floats.angle) is type(floats.length) is float
        assert floats.angle == pytest.approx(level.angle[i].item(), rel=1e-14)
        assert floats.length == pytest.approx(level.length[i].item(), rel=1e-14)


@every_process
def test_the_level_at_an_angle_has_that_angle(process):
    clean, noisy = process.end_levels()
    assert (clean.time, noisy.time) == (process.t_min, process.t_max)
    theta = torch.linspace(clean.angle, noisy.angle, 9, dtype=D)[1:-1]
    x = torch.zeros(7, 2, 3, dtype=D)
    level = process.at_angle(theta, like=x)
    assert level.sigma.shape == (7, 1, 1)
    torch.testing.assert_close(level.angle.flatten(), theta, rtol=1e-6, atol=1e-9)


FIELDS = ("time", "alpha", "sigma", "dalpha", "dsigma")


def test_map_applies_a_function_to_each_of_the_five_numbers():
    level = NoiseLevel(0.5, 0.8, 0.6, -0.3, 0.7)
    assert level.map(lambda value: 2 * value) == NoiseLevel(1.0, 1.6, 1.2, -0.6, 1.4)
    tensors = level.map(torch.as_tensor)
    for name in FIELDS:
        assert isinstance(getattr(tensors, name), torch.Tensor)
        assert getattr(tensors, name).item() == pytest.approx(getattr(level, name))
    assert tensors.map(torch.Tensor.item) == tensors.map(float)


@every_process
@pytest.mark.parametrize("shape", [(), (5,), (2, 3)], ids=str)
def test_without_data_a_level_has_the_shape_of_its_times_in_double_precision(process, shape, generator):
    share = torch.rand(shape, generator=generator)
    level = process.at(process.t_min + (process.t_max - process.t_min) * share)
    for name in FIELDS:
        assert getattr(level, name).shape == shape and getattr(level, name).dtype == D


@every_process
@pytest.mark.parametrize("dtype", [torch.float32, D], ids=str)
def test_levels_for_data_and_for_grids_are_those_of_the_times_themselves(process, dtype):
    t = torch.linspace(process.t_min, process.t_max, 5, dtype=D)
    exact, like = process.at(t), process.at(t, like=torch.zeros(5, 2, 3, dtype=dtype))
    for name in FIELDS:
        value = getattr(exact, name)
        assert torch.equal(getattr(like, name), value.to(dtype)[:, None, None])
        assert [getattr(level, name) for level in process.grid_levels(t)] == value.tolist()


@every_process
def test_log_snr_decreases(process):
    assert (process.at(torch.linspace(process.t_min, process.t_max, 1001, dtype=D)).log_snr.diff() < 0).all()


def test_gradients_reach_a_learned_schedule_through_value_and_derivative():
    process, t = Learned(), torch.tensor([0.2, 0.7], dtype=D)
    level = process.at(t, like=torch.zeros(2, 1, dtype=D))
    (level.alpha.sum() + level.dalpha.sum()).backward()
    alpha = torch.exp(-1.5 * t)  # d/dr of e^{-rt} and of -r e^{-rt}
    assert process.rate.grad.item() == pytest.approx((-t * alpha + (1.5 * t - 1) * alpha).sum().item())


def test_grid_levels_of_a_learned_schedule_are_plain_floats():
    level = Learned().grid_levels(torch.tensor([0.5], requires_grad=True))[0]
    assert level.alpha == pytest.approx(math.exp(-0.75), rel=1e-7)


@every_process
@pytest.mark.parametrize("grad", [contextlib.nullcontext, torch.inference_mode])
def test_bisection_inverts_the_log_snr_of_every_process(process, grad):
    t = torch.linspace(process.t_min, process.t_max, 101, dtype=D)
    with grad():
        found = ForwardProcess.time_of_log_snr(process, process.at(t).log_snr)
    assert found.dtype == D
    torch.testing.assert_close(found, t, rtol=0, atol=1e-10)


@every_process
def test_bisection_gives_the_nearer_end_for_a_log_snr_out_of_range(process):
    found = ForwardProcess.time_of_log_snr(process, torch.tensor([1e3, -1e3])).tolist()
    assert found == pytest.approx([process.t_min, process.t_max], abs=1e-15)


@every_process
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, D])
@pytest.mark.one_in(4)
def test_prior_log_prob_is_that_of_a_normal_distribution(process, shape, dtype, generator):
    x = torch.randn(shape, generator=generator, dtype=dtype)
    size = math.prod(shape[1:])
    sigma = process.sigma(torch.tensor(process.t_max, dtype=D))
    normal = MultivariateNormal(torch.zeros(size, dtype=D), sigma**2 * torch.eye(size, dtype=D))
    assert process.prior_log_prob(x).shape == (5,)
    torch.testing.assert_close(process.prior_log_prob(x), normal.log_prob(x.double().flatten(1)))


def test_the_prior_is_taken_at_t_max():
    early, late = VESDE(t_max=0.5), VESDE()
    sigma = [0.01 * 5000**0.5, 50.0]
    difference = math.log(sigma[1]) - math.log(sigma[0])
    x = torch.zeros(1, 1)
    assert (early.prior_log_prob(x) - late.prior_log_prob(x)).item() == pytest.approx(difference)


@every_process
@pytest.mark.parametrize("t", [0.05, 0.5, 0.99])
def test_perturbed_data_has_mean_alpha_x0_and_variance_sigma_squared(process, t, generator):
    n = 20_000
    epsilon = torch.randn(n, 2, 3, dtype=D, generator=generator)
    x_t = process.perturb(torch.full_like(epsilon, 2.0), epsilon, torch.full((n,), t))
    level = process.grid_levels(torch.tensor([t]))[0]
    error = x_t.mean() - 2 * level.alpha
    assert abs(error) < 5 * level.sigma / math.sqrt(x_t.numel())  # standard error of a mean
    relative = x_t.var() / level.sigma**2 - 1
    assert abs(relative) < 5 * math.sqrt(2 / x_t.numel())  # standard error of a normal variance


@every_process
def test_every_example_is_perturbed_at_its_own_time(process, generator):
    x0, epsilon = torch.randn(2, 5, 3, 4, 6, dtype=D, generator=generator)
    t = torch.linspace(0.1, 0.9, 5, dtype=D)
    alone = [process.perturb(x0[i : i + 1], epsilon[i : i + 1], t[i : i + 1]) for i in range(5)]
    assert torch.equal(process.perturb(x0, epsilon, t), torch.cat(alone))


@pytest.mark.parametrize(
    ("t_min", "t_max"),
    [(-0.1, 1), (0.5, 0.5), (0.6, 0.5), (0.1, 1.1), (float("nan"), 1), (0.1, float("nan"))],
)
@pytest.mark.parametrize("make", [VPSDE, SubVPSDE, VESDE])
def test_times_out_of_order_or_range_raise(make, t_min, t_max):
    with pytest.raises(ConfigurationError, match="t_min"):
        make(t_min=t_min, t_max=t_max)


def test_a_process_without_alpha_and_sigma_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        ForwardProcess()
