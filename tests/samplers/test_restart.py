import math
from itertools import pairwise

import pytest
import torch
from support.denoisers import RecordingDenoiser

from scorelight import (
    DDIM,
    VESDE,
    VPSDE,
    AnalyticDenoiser,
    ConfigurationError,
    CosineVPSDE,
    DDPMProcess,
    EDMSampler,
    ExponentialAdams,
    GaussianMixture,
    Heun,
    LogSNRGrid,
    NearestLevels,
    RectifiedFlow,
    Restart,
    SMLDProcess,
    SubVPSDE,
)
from scorelight.rng import PhiloxGenerator

D = torch.float64
MEAN, VARIANCE = 0.7, 0.3
GAUSSIAN = GaussianMixture(torch.ones(1), torch.tensor([[MEAN]]), torch.tensor([VARIANCE]))
every_process = pytest.mark.parametrize(
    "process",
    [VPSDE(), SubVPSDE(), VESDE(), CosineVPSDE(), RectifiedFlow(), SMLDProcess(400)],
    ids=lambda p: type(p).__name__,
)


def marginal(level):
    return level.alpha**2 * VARIANCE + level.sigma**2


def moments(sampler, process, start):
    """Mean and variance of the last state from `start` at t_max: affine in its draws, so without a sample."""
    draws = torch.eye(sampler.num_restarts + 1, dtype=D)[:, 1:]  # the first example has none
    draw = iter(draws.T[..., None])
    first = process.grid_levels(torch.tensor([process.t_max]))[0]
    unit = torch.full((sampler.num_restarts + 1, 1), start / first.sigma, dtype=D)
    denoiser = AnalyticDenoiser(GAUSSIAN, process)
    x = sampler(denoiser, unit, noise_source=lambda like: next(draw)).flatten()
    assert next(draw, None) is None  # one draw for each way back
    return x[0].item(), (x[1:] - x[0]).square().sum().item()


@every_process
@pytest.mark.parametrize("num_restarts", [1, 4])
@pytest.mark.one_in(3)
def test_each_restart_forgets_the_start_by_the_factor_of_the_exact_transitions(process, num_restarts):
    # back by q(x_t | x_s), down by the flow, whose map for Gaussian data is sqrt(V_s/V_t) around the mean
    grid = NearestLevels(LogSNRGrid())
    sampler = Restart(400, grid, False, Heun(), low=0.3, high=1.2, num_restarts=num_restarts)
    levels = process.grid_levels(grid(process, 401))
    inside = [level for level in levels if 0.3 <= level.sigma / level.alpha <= 1.2]
    high, low = inside[0], inside[-1]
    start = 2.0 * levels[0].sigma
    deviation = math.sqrt(marginal(low) / marginal(levels[0])) * (start - levels[0].alpha * MEAN)
    variance = 0.0  # of a single start
    for _ in range(num_restarts):
        ratio, gain = high.alpha / low.alpha, math.sqrt(marginal(low) / marginal(high))
        added = high.sigma**2 - ratio**2 * low.sigma**2
        deviation, variance = gain * ratio * deviation, gain**2 * (ratio**2 * variance + added)
    last = levels[-1]
    mean, found = moments(sampler, process, start)
    gain = math.sqrt(marginal(last) / marginal(low))
    # the flow in 400 steps of second order: a thousandth of the spread
    assert mean == pytest.approx(last.alpha * MEAN + gain * deviation, abs=1e-3 * math.sqrt(VARIANCE))
    assert found == pytest.approx(gain**2 * variance, rel=2e-3)


@every_process
@pytest.mark.one_in(3)
def test_it_keeps_the_marginals_of_the_process(process, generator):
    """Five standard errors of a mean and a variance, and a hundredth for the steps and the prior."""
    n = 20_000
    noise = torch.randn(n, 1, dtype=D, generator=generator)
    x = Restart(150, sampler=Heun())(AnalyticDenoiser(GAUSSIAN, process), noise, generator=generator)
    assert abs(x.mean().item() - MEAN) < 5 * math.sqrt(VARIANCE / n) + 0.01
    assert x.var().item() / VARIANCE == pytest.approx(1, abs=5 * math.sqrt(2 / n) + 0.01)


@pytest.mark.parametrize("process", [VPSDE(), VESDE(), DDPMProcess()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(
    "sampler", [None, ExponentialAdams(), Heun(), EDMSampler(s_churn=5.0)], ids=lambda s: type(s).__name__
)
def test_the_way_is_down_and_again_from_high_to_low_and_on(process, sampler, generator):
    recorder = RecordingDenoiser(AnalyticDenoiser(GAUSSIAN, process))
    grid = NearestLevels(LogSNRGrid())
    restart = Restart(40, grid, sampler=sampler, low=0.1, high=2.0, num_restarts=3)
    states = list(restart.sample_path(recorder, torch.ones(3, 1, dtype=D), generator=generator))
    assert len(states) == 40
    levels = process.grid_levels(grid(process, 40))
    inside = [i for i, level in enumerate(levels) if 0.1 <= level.sigma / level.alpha <= 2.0]
    high, low = inside[0], inside[-1]
    way = [*range(low), *3 * [*range(high, low)], *range(low, 40)]
    if sampler is None or isinstance(sampler, ExponentialAdams):  # one evaluation at the start of each step
        assert recorder.times == [levels[i].time for i in way]
    if not isinstance(sampler, EDMSampler):  # whose churn goes back in every step
        assert sum(a < b for a, b in pairwise(recorder.times)) == 3
    each = 2 if isinstance(sampler, (Heun, EDMSampler)) else 1
    assert len(recorder.times) == each * (len(way) - 1) + 1


def test_a_sample_does_not_depend_on_those_that_it_is_drawn_with():
    denoiser, noise = AnalyticDenoiser(GAUSSIAN, VPSDE()), torch.linspace(-2, 2, 5, dtype=D)[:, None]
    sampler = Restart(30, sampler=DDIM(eta=1.0))
    whole = sampler(denoiser, noise, generator=PhiloxGenerator(0, range(5)))
    part = sampler(denoiser, noise[[3, 1]], generator=PhiloxGenerator(0, [3, 1]))
    torch.testing.assert_close(part, whole[[3, 1]], rtol=1e-12, atol=1e-12)


def test_an_interval_at_the_end_of_the_way_is_gone_through_too(generator):
    sampler, denoiser = Restart(20, low=1e-9, high=1e9, num_restarts=2), AnalyticDenoiser(GAUSSIAN, VPSDE())
    for denoise in (True, False):
        sampler.denoise = denoise
        assert len(list(sampler.sample_path(denoiser, torch.ones(3, 1, dtype=D), generator=generator))) == 20


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"low": 0.0}, "low=0.0, high=1.5: 0 < low < high"),
        ({"low": 2.0}, "low=2.0, high=1.5: 0 < low < high"),
        ({"num_restarts": 0}, "num_restarts=0: at least 1"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(ConfigurationError, match=message):
        Restart(**wrong)


def test_an_interval_without_two_levels_is_refused_with_what_there_is():
    sampler = Restart(10, low=0.9, high=1.0)
    with pytest.raises(ConfigurationError, match=r"high=1.0: the grid has \d of its 10 levels there"):
        sampler(AnalyticDenoiser(GAUSSIAN, VPSDE()), torch.zeros(1, 1, dtype=D))
