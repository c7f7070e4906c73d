"""The time of a log-SNR, which is also how times of density ∝ g²/σ² are drawn: g²/σ² = −d log SNR/dt."""

import math

import mpmath
import pytest
import torch

from scorelight import (
    VESDE,
    VPSDE,
    CosineVPSDE,
    DDPMProcess,
    ForwardProcess,
    KarrasVESDE,
    RectifiedFlow,
    SMLDProcess,
    SubVPSDE,
)
from scorelight.storage.component import spec

D = torch.float64
EPS = torch.finfo(D).eps
SMOOTH = [
    VPSDE(),
    VPSDE(t_min=1e-5),
    VPSDE(beta_min=3.0, beta_max=3.0, t_min=1e-5),
    VPSDE(beta_min=1e-3, beta_max=100.0),
    SubVPSDE(),
    SubVPSDE(t_min=1e-5),
    SubVPSDE(beta_min=3.0, beta_max=3.0, t_min=1e-5),
    VESDE(),
    VESDE(0.2, 0.3, t_min=0.1, t_max=0.8),
    CosineVPSDE(),
    CosineVPSDE(t_min=1e-5, t_max=1 - 1e-5),
    CosineVPSDE(offset=0.0, t_min=1e-5),
    CosineVPSDE(offset=5.0),
    KarrasVESDE(),
    KarrasVESDE(rho=1.0),
    KarrasVESDE(rho=0.5, t_min=0.1),
    RectifiedFlow(),
    RectifiedFlow(t_min=1e-5, t_max=1 - 1e-5),
]
TABLES = [
    DDPMProcess(),
    DDPMProcess(200, "cosine"),
    DDPMProcess(keep=[1, 10, 500, 1000]),
    DDPMProcess(betas=[0.1, 0.9, 1e-6, 0.3]),
    SMLDProcess(50),
    SMLDProcess(sigmas=[0.1, 0.11, 3.0]),
]


def named(process):
    return f"{type(process).__name__}-{list(process._init_args.values())}"


every = pytest.mark.parametrize("process", SMOOTH + TABLES, ids=named)
smooth = pytest.mark.parametrize("process", SMOOTH, ids=named)
tables = pytest.mark.parametrize("process", TABLES, ids=named)


def times(process, num=401):
    start, end = process.t_min, process.t_max
    middle = torch.linspace(start, end, num, dtype=D)
    early = torch.logspace(math.log10(max(start, 1e-5)), 0, num, dtype=D)
    return torch.cat([middle, early[(early > start) & (early < end)]])


def slope(level):
    """d log SNR/dt."""
    return 2 * (level.dalpha / level.alpha - level.dsigma / level.sigma)


@every
def test_the_time_comes_back_to_twelve_digits(process):
    t = times(process)
    level = process.at(t)
    # log SNR itself has been rounded, at its own size and in α and σ: that moves t by so much
    unavoidable = 8 * EPS * (1 + level.log_snr.abs()) / slope(level).abs()
    error = (process.time_of_log_snr(level.log_snr) - t).abs()
    assert (error <= 1e-13 * t + unavoidable).all()


@pytest.mark.parametrize("make", [VPSDE, SubVPSDE, CosineVPSDE, RectifiedFlow])
def test_the_time_has_twelve_digits_relative_to_itself_where_noise_starts_from_nothing(make):
    process = make(t_min=1e-5)
    t = times(process)
    found = process.time_of_log_snr(process.at(t).log_snr)
    torch.testing.assert_close(found, t, rtol=1e-12, atol=0)


@every
def test_the_closed_form_agrees_with_bisection(process):
    log_snr = process.at(times(process, 101)).log_snr
    bisected = ForwardProcess.time_of_log_snr(process, log_snr)
    torch.testing.assert_close(process.time_of_log_snr(log_snr), bisected, rtol=1e-9, atol=1e-12)


@every
def test_every_process_of_the_package_has_a_closed_form(process):
    assert type(process).time_of_log_snr is not ForwardProcess.time_of_log_snr


@every
@pytest.mark.parametrize("far", [1e2, 1e3, 1e5, 1e300, math.inf])
@pytest.mark.one_in(4)
def test_a_log_snr_beyond_all_bounds_gives_the_nearer_end(process, far):
    found = process.time_of_log_snr(torch.tensor([far, -far], dtype=D))
    assert found.tolist() == [process.t_min, process.t_max]


@every
@pytest.mark.parametrize("shape", [(), (0,), (7,), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, D])
@pytest.mark.one_in(5)
def test_any_shape_and_type_gives_times_of_that_shape_in_double_precision(process, shape, dtype):
    log_snr = torch.linspace(-9, 9, math.prod(shape), dtype=dtype).reshape(shape)
    found = process.time_of_log_snr(log_snr)
    assert found.shape == shape and found.dtype == D
    flat = process.time_of_log_snr(log_snr.double().flatten())
    torch.testing.assert_close(found.flatten(), flat, rtol=1e-14, atol=0)


@every
def test_a_transposed_tensor_is_inverted_element_by_element(process):
    log_snr = torch.linspace(-9, 9, 12, dtype=D).reshape(3, 4)
    torch.testing.assert_close(
        process.time_of_log_snr(log_snr.T), process.time_of_log_snr(log_snr).T, rtol=1e-14, atol=0
    )


@tables
def test_the_levels_of_a_table_are_met(process):
    n = process.num_timesteps
    t = torch.arange(1, n + 1, dtype=D) / n
    index = process.time_of_log_snr(process.at(t).log_snr) * n
    # 1e-9 of a step is what a table takes for the level itself
    assert (index - torch.arange(1, n + 1)).abs().max() < 1e-9


@smooth
def test_a_process_in_continuous_time_has_no_levels(process):
    assert process.num_timesteps is None


@pytest.mark.parametrize(("process", "num"), [(DDPMProcess(keep=[1, 7]), 2), (SMLDProcess(50), 50)])
def test_a_table_tells_the_number_of_its_levels(process, num):
    assert process.num_timesteps == num


def cdf(process, t):
    """∫ g²/σ² in 50 digits, up to a constant: log(e^B − 1) for VP and 2 log sinh(B/2) for sub-VP."""
    t, low, high = mpmath.mpf(t), mpmath.mpf(process.beta_min), mpmath.mpf(process.beta_max)
    integral = low * t + (high - low) * t**2 / 2
    if type(process) is VPSDE:
        return mpmath.log(mpmath.expm1(integral))
    return 2 * mpmath.log(mpmath.sinh(integral / 2))


@pytest.mark.parametrize("make", [VPSDE, SubVPSDE])
@pytest.mark.parametrize("betas", [(0.1, 20.0), (0.5, 5.0), (1.0, 1.0)], ids=str)
@pytest.mark.parametrize("t", [1e-5, 1e-3, 0.1, 0.5, 1.0])
def test_the_distribution_of_importance_sampled_times_is_the_closed_form_one(make, betas, t):
    process = make(*betas, t_min=1e-5)
    with mpmath.workdps(50):
        start, here = cdf(process, 1e-5), cdf(process, t)
        # Z and the CDF are differences of log SNR, so a share of it is inverted by time_of_log_snr
        first, now = process.at(torch.tensor([1e-5, t], dtype=D)).log_snr.tolist()
        assert first - now == pytest.approx(float(here - start), abs=1e-12)
        found = process.time_of_log_snr(torch.tensor(first - float(here - start), dtype=D))
    assert found.item() == pytest.approx(t, rel=1e-11)


@pytest.mark.parametrize(("make", "z"), [(VPSDE, 23.864), (SubVPSDE, 37.679)])
def test_the_normalizing_constant_is_the_integral_of_the_weighting(make, z):
    process = make(t_min=1e-5)
    first, last = process.at(torch.tensor([1e-5, 1.0], dtype=D)).log_snr.tolist()
    assert first - last == pytest.approx(z, abs=5e-4)
    u = torch.linspace(math.log(1e-5), 0, 20_001, dtype=D)  # ∫ g²/σ² dt = ∫ t g²/σ² du with t = e^u
    level = process.at(u.exp())
    integral = torch.trapezoid(level.time * level.g2 / level.sigma**2, u)
    assert integral.item() == pytest.approx(first - last, rel=1e-6)


@smooth
def test_uniform_log_snr_gives_times_of_density_g_squared_over_sigma_squared(process):
    """The density of t(u) for uniform u is 1/t'(u); t' by central differences of a step h."""
    ends = torch.tensor([process.t_min, process.t_max], dtype=D)
    first, last = process.at(ends).log_snr.tolist()
    u, h = torch.linspace(0.01, 0.99, 99, dtype=D), 1e-5
    later, sooner = (process.time_of_log_snr(first + (last - first) * (u + d)) for d in (h, -h))
    level = process.at(process.time_of_log_snr(first + (last - first) * u))
    density = level.g2 / level.sigma**2 / (first - last)
    torch.testing.assert_close(density * (later - sooner) / (2 * h), torch.ones_like(u), rtol=2e-6, atol=0)


@tables
def test_between_two_levels_the_density_is_g_squared_over_sigma_squared_too(process):
    """As above at the middle of each step of the table, with differences well inside of it."""
    n = process.num_timesteps
    t = (torch.arange(1, n, dtype=D) + 0.5) / n
    level = process.at(t)
    log_snr, rate = level.log_snr, level.g2 / level.sigma**2
    h = 1e-3 / n * rate  # in log SNR: a thousandth of a step
    rise = process.time_of_log_snr(log_snr - h) - process.time_of_log_snr(log_snr + h)
    torch.testing.assert_close(rate * rise / (2 * h), torch.ones_like(t), rtol=1e-5, atol=0)


@pytest.mark.parametrize("make", [VPSDE, SubVPSDE])
def test_the_linear_processes_write_down_the_arguments_of_their_own(make):
    expected = {"class_path": f"scorelight.{make.__name__}", "init_args": {"beta_max": 10}}
    assert spec(make(beta_max=10)) == expected
