import functools
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from support.denoisers import RecordingDenoiser
from support.marks import slow_but

from scorelight import (
    DDIM,
    MLP,
    VESDE,
    VPSDE,
    AnalyticDenoiser,
    AncestralSampler,
    ConfigurationError,
    CosineVPSDE,
    CountingDenoiser,
    DDPMProcess,
    DPMSolverPP,
    EDMSampler,
    Epsilon,
    Euler,
    EulerMaruyama,
    ExponentialAdams,
    GaussianMixture,
    Heun,
    KarrasGrid,
    LogSNRGrid,
    MixedGrid,
    NetworkDenoiser,
    RectifiedFlow,
    Restart,
    ReverseDiffusion,
    Sampler,
    SMLDProcess,
    SubVPSDE,
    TrailingGrid,
    UniformGrid,
    UniPC,
)
from scorelight.rng import PhiloxGenerator

D = torch.float64
PROCESSES = [VPSDE(), SubVPSDE(), VESDE(), CosineVPSDE(), RectifiedFlow()]
MULTISTEP = {
    f"{sampler.__name__} {order}": functools.partial(sampler, order=order)
    for sampler, highest in ((DPMSolverPP, 3), (UniPC, 3), (ExponentialAdams, 4))
    for order in range(1, highest + 1)
}
VARIANTS = {
    "ExponentialAdams": ExponentialAdams,
    "ExponentialAdams of v": functools.partial(ExponentialAdams, prediction="v", order=4),
    "ExponentialAdams of epsilon": functools.partial(ExponentialAdams, prediction="epsilon", order=3),
    "ExponentialAdams without corrector": functools.partial(ExponentialAdams, corrector=False),
    "UniP": functools.partial(UniPC, order=3, corrector=False),
}
HIGHEST = {name: MULTISTEP[name] for name in ("DPMSolverPP 3", "UniPC 3", "ExponentialAdams 4")}
DETERMINISTIC = {"Euler": Euler, "Heun": Heun, "DDIM": DDIM, "EDM": EDMSampler} | HIGHEST
STOCHASTIC = {
    "EulerMaruyama": EulerMaruyama,
    "ReverseDiffusion": ReverseDiffusion,
    "SDE-DPMSolverPP 1": functools.partial(DPMSolverPP, order=1, stochastic=True),
    "SDE-DPMSolverPP 2": functools.partial(DPMSolverPP, order=2, stochastic=True),
    "DDIM eta=1": functools.partial(DDIM, eta=1.0),
    "Ancestral small": AncestralSampler,
    "Ancestral large": functools.partial(AncestralSampler, variance="large"),
}
ALL = DETERMINISTIC | STOCHASTIC | {"DDIM eta=0.5": functools.partial(DDIM, eta=0.5)}
TWO_EVALUATIONS = ("Heun", "EDM", "EDM with churn")
ALL["EDM with churn"] = functools.partial(EDMSampler, s_churn=5.0)
ALL["Restart"] = functools.partial(Restart, low=1e-9, high=1e9, num_restarts=1)  # all the way back


def choose(samplers):
    return pytest.mark.parametrize("make", samplers.values(), ids=samplers)


every_process = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
every_process_slowly = pytest.mark.parametrize(
    "process",
    slow_but(PROCESSES, PROCESSES[0]),
    ids=lambda p: type(p).__name__,
)
with_or_without = pytest.mark.parametrize("denoise", [True, False])
MEAN, VARIANCE = 0.7, 0.3


def gaussian(process, mean=MEAN, variance=VARIANCE):
    mean, variance = torch.tensor([[mean]], dtype=D), torch.tensor([variance], dtype=D)
    return AnalyticDenoiser(GaussianMixture(torch.ones(1), mean, variance), process)


def points(process):
    return gaussian(process, variance=0.0)


def exact_moments(sampler, denoiser):
    # With Gaussian data every sampler is affine in its draws z_0 (the start), z_1, z_2, ...: example k is
    # given z_k = 1 and all other draws 0, the last example only zeros. No Monte Carlo error is left.
    draws = sampler.num_steps + 1
    unit = iter(torch.eye(draws + 1, dtype=D)[:draws, :, None])
    out = sampler(denoiser, next(unit), noise_source=lambda like: next(unit)).flatten()
    return out[-1].item(), (out[:-1] - out[-1]).square().sum().item()


def limit_moments(process, denoise, stochastic):
    # what infinitely many steps give from N(0, sigma_T^2): the exact transition of the reverse SDE is the
    # Gaussian conditional of x_s given x_t, the exact map of the probability flow is sqrt(v_s/v_t)
    t, s = process.grid_levels(torch.tensor([process.t_max, process.t_min], dtype=D))
    v_t, v_s = (v.alpha**2 * VARIANCE + v.sigma**2 for v in (t, s))
    gain = t.alpha / s.alpha * v_s / v_t if stochastic else math.sqrt(v_s / v_t)
    mean = s.alpha * MEAN - gain * t.alpha * MEAN
    variance = gain**2 * (t.sigma**2 - v_t) + v_s
    shrink = s.alpha * VARIANCE / v_s  # E[x0 | x_s] = m + shrink (x_s - alpha_s m)
    return (MEAN + shrink * (mean - s.alpha * MEAN), shrink**2 * variance) if denoise else (mean, variance)


@every_process
@choose(ALL)
@with_or_without
@pytest.mark.parametrize("num_steps", [2, 7])
@pytest.mark.one_in(5)
def test_num_steps_is_the_number_of_states_and_the_last_is_the_sample(process, make, denoise, num_steps):
    sampler, noise = make(num_steps=num_steps, denoise=denoise), torch.ones(3, 1, dtype=D)
    states = list(sampler.sample_path(gaussian(process), noise, generator=PhiloxGenerator(0, range(3))))
    sample = sampler(gaussian(process), noise, generator=PhiloxGenerator(0, range(3)))
    assert len(states) == num_steps
    assert torch.equal(states[-1], sample)


@choose({k: v for k, v in (ALL | MULTISTEP | VARIANTS).items() if k not in (*TWO_EVALUATIONS, "Restart")})
@with_or_without
@pytest.mark.parametrize("num_steps", [2, 7])
@pytest.mark.one_in(4)
def test_one_evaluation_a_step(make, denoise, num_steps, generator):
    counted = CountingDenoiser(gaussian(VPSDE()))
    make(num_steps=num_steps, denoise=denoise)(counted, torch.ones(3, 1, dtype=D), generator=generator)
    assert counted.num_evaluations == num_steps


@choose({k: ALL[k] for k in TWO_EVALUATIONS})
@pytest.mark.parametrize(("denoise", "evaluations"), [(True, 13), (False, 14)])
def test_heun_takes_two_evaluations_a_step_and_one_to_denoise(make, denoise, evaluations, generator):
    counted = CountingDenoiser(gaussian(VPSDE()))
    make(num_steps=7, denoise=denoise)(counted, torch.ones(3, 1, dtype=D), generator=generator)
    assert counted.num_evaluations == evaluations


@every_process
@choose(ALL)
@pytest.mark.one_in(4)
def test_the_way_is_from_the_prior_at_t_max_to_the_posterior_mean_at_t_min(process, make, generator):
    recorder, noise = RecordingDenoiser(gaussian(process)), torch.ones(3, 1, dtype=D)
    *_, before, last = make(num_steps=25).sample_path(recorder, noise, generator=generator)
    assert (recorder.times[0], recorder.times[-1]) == (process.t_max, process.t_min)
    prior = process.sigma(torch.tensor(process.t_max, dtype=D))
    torch.testing.assert_close(recorder.states[0], prior * noise)
    torch.testing.assert_close(last, gaussian(process)(before, torch.tensor(process.t_min)).x0)


@choose({k: v for k, v in ALL.items() if k != "EDM with churn"})
@pytest.mark.parametrize("grid", [UniformGrid(), LogSNRGrid()], ids=lambda g: type(g).__name__)
def test_the_times_are_those_of_the_grid(make, grid, generator):
    recorder = RecordingDenoiser(gaussian(VPSDE()))
    make(num_steps=5, grid=grid)(recorder, torch.ones(3, 1, dtype=D), generator=generator)
    assert set(recorder.times) == set(grid(VPSDE(), 5).tolist())


@pytest.mark.parametrize("make", [Euler, Heun, DDIM, DPMSolverPP, UniPC])
def test_deterministic_samplers_step_evenly_in_log_snr_unless_told_otherwise(make):
    assert torch.equal(make().grid(VPSDE(), 9), LogSNRGrid()(VPSDE(), 9))


OWN = [(functools.partial(ExponentialAdams, 21), MixedGrid()), (EDMSampler, KarrasGrid())]
OWN += [(ExponentialAdams, TrailingGrid(MixedGrid()))]


@pytest.mark.parametrize(("make", "grid"), OWN, ids=["many", "karras", "few"])
def test_some_samplers_have_grids_of_their_own(make, grid):
    assert torch.equal(make().grid(VPSDE(), 9), grid(VPSDE(), 9))


@pytest.mark.parametrize("make", [EulerMaruyama, AncestralSampler, ReverseDiffusion])
def test_stochastic_samplers_step_evenly_in_time_unless_told_otherwise(make):
    assert torch.equal(make().grid(VPSDE(), 9), UniformGrid()(VPSDE(), 9))


@choose({k: v for k, v in ALL.items() if k != "EDM with churn"})
@pytest.mark.parametrize(
    "process", [DDPMProcess(60, "cosine"), SMLDProcess(24)], ids=lambda p: type(p).__name__
)
def test_on_a_table_only_its_levels_are_asked_unless_told_otherwise(make, process, generator):
    recorder = RecordingDenoiser(gaussian(process))
    make(num_steps=20)(recorder, torch.ones(3, 1, dtype=D), generator=generator)
    levels = process.num_timesteps * torch.tensor(recorder.times, dtype=D)
    assert (levels - levels.round()).abs().max() < 1e-9


@choose(ALL)
def test_conditions_reach_every_evaluation(make, generator):
    recorder, cond = RecordingDenoiser(gaussian(VPSDE())), {"label": torch.arange(3), "scale": 2.0}
    make(num_steps=4)(recorder, torch.ones(3, 1, dtype=D), generator=generator, **cond)
    assert recorder.conditions == [cond] * len(recorder.conditions)


@every_process
@choose(ALL)
@pytest.mark.parametrize("shape", [(2,), (3, 5), (1, 4, 6)], ids=str)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.one_in(5)
def test_samples_have_the_shape_and_type_of_the_noise(process, make, shape, mode, generator):
    denoiser = NetworkDenoiser(MLP(shape, width=8, depth=1), process, Epsilon())
    with mode():
        x = make(num_steps=3)(denoiser, torch.ones(4, *shape), generator=generator)
    assert x.shape == (4, *shape) and x.dtype == torch.float32
    assert x.isfinite().all()


@every_process
@choose(ALL)
@pytest.mark.one_in(4)
def test_with_a_generator_each_a_sample_does_not_depend_on_the_batch(process, make):
    sampler, noise = make(num_steps=6), torch.linspace(-2, 2, 8, dtype=D)[:, None]
    whole = sampler(gaussian(process), noise, generator=PhiloxGenerator(0, range(8)))
    for indices in ([5], [6, 1, 3]):
        part = sampler(gaussian(process), noise[indices], generator=PhiloxGenerator(0, indices))
        torch.testing.assert_close(part, whole[indices], rtol=1e-12, atol=1e-12)


@choose(DETERMINISTIC)
def test_deterministic_samplers_draw_nothing(make, generator):
    before = generator.get_state()
    make(num_steps=4)(gaussian(VPSDE()), torch.ones(3, 1, dtype=D), generator=generator)
    assert torch.equal(before, generator.get_state())


@choose(ALL)
@pytest.mark.parametrize("process", [*PROCESSES, VPSDE(t_min=1e-5), SubVPSDE(t_min=1e-5)], ids=repr)
@pytest.mark.parametrize("num_steps", slow_but([2, 10, 50, 1000], 2, 10, 50))
@pytest.mark.one_in(5)
def test_every_sampler_ends_at_the_only_point_of_the_data(make, process, num_steps, generator):
    noise = torch.randn(16, 1, dtype=D, generator=generator)
    x = make(num_steps=num_steps)(points(process), noise, generator=generator)
    assert (x - MEAN).abs().max() < 1e-6


@every_process
@pytest.mark.parametrize("num_steps", [1, 2, 10, 100])
@pytest.mark.parametrize("make", [DDIM, STOCHASTIC["DDIM eta=1"], AncestralSampler])
@pytest.mark.one_in(3)
def test_exact_transitions_leave_a_single_point_with_the_noise_of_t_min_only(process, make, num_steps):
    # no overshoot with however few steps; of the mean alpha_T m that the start lacks, `gain` is left
    sampler = make(num_steps=num_steps, denoise=False)
    mean, variance = exact_moments(sampler, points(process))
    t, s = process.grid_levels(torch.tensor([process.t_max, process.t_min], dtype=D))
    gain = s.sigma / t.sigma * (1 if make is DDIM else t.alpha * s.sigma / (s.alpha * t.sigma))
    assert mean == pytest.approx(s.alpha * MEAN - gain * t.alpha * MEAN, abs=1e-12)
    assert variance == pytest.approx(s.sigma**2, rel=1e-9)


@every_process_slowly
@choose(DETERMINISTIC | STOCHASTIC)
@pytest.mark.one_in(5)
def test_1000_steps_sample_gaussian_data_up_to_the_stated_bias(process, make):
    sampler = make(num_steps=1000)
    mean, variance = exact_moments(sampler, gaussian(process))
    expected = limit_moments(process, True, make in STOCHASTIC.values())
    # a step of VE is 1.7 % in log-SNR, and the bias is largest there: 5 % of the variance at first order,
    # and smaller by another factor of a step at second order
    bias = 0.05 * 0.017 ** (min(sampler.order, 2) - 1)
    assert abs(mean - expected[0]) < bias * math.sqrt(VARIANCE)
    assert abs(variance / expected[1] - 1) < bias


@pytest.mark.one_in(3)
@every_process_slowly
@choose(STOCHASTIC)
def test_the_bias_of_stochastic_samplers_falls_with_the_declared_order(process, make):
    expected = limit_moments(process, False, stochastic=True)[1]
    numbers = [150, 300, 600]
    samplers = [make(num_steps=n, denoise=False) for n in numbers]
    errors = [abs(exact_moments(s, gaussian(process))[1] - expected) for s in samplers]
    order = -np.polyfit(np.log(numbers), np.log(errors), 1)[0]
    assert order > samplers[0].order - 0.1


@pytest.mark.one_in(4)
@every_process
@choose(STOCHASTIC)
def test_random_draws_give_the_moments_of_independent_ones(process, make, generator):
    n, sampler = 20_000, make(num_steps=20)
    noise = torch.randn(n, 1, dtype=D, generator=generator)
    x = sampler(gaussian(process), noise, generator=generator)
    mean, variance = exact_moments(sampler, gaussian(process))
    assert abs(x.mean() - mean) < 5 * math.sqrt(variance / n)  # standard error of a mean
    assert abs(x.var() / variance - 1) < 5 * math.sqrt(2 / n)  # standard error of a normal variance


@functools.cache
def flow(index):
    """Denoiser, noise, and the end of the probability flow by SciPy: dx̄/dσ̄ = ε for x̄ = x/α, σ̄ = σ/α."""
    # two overlapping components, one mode: no trajectory comes near a boundary between basins
    means = torch.tensor([[1.0, 0.3], [-0.5, -0.6]])
    covariances = torch.tensor([[[0.5, 0.2], [0.2, 0.4]], [[0.6, -0.1], [-0.1, 0.3]]])
    density, process = GaussianMixture(torch.tensor([0.4, 0.6]), means, covariances), PROCESSES[index]
    noise = torch.randn(16, 2, dtype=D, generator=torch.Generator().manual_seed(0))
    first, last = process.grid_levels(torch.tensor([process.t_max, process.t_min], dtype=D))

    def slope(log_sigma, x):
        sigma = math.exp(log_sigma)
        return -(sigma**2) * density.score(torch.as_tensor(x).reshape(-1, 2), 1.0, sigma).flatten()

    span = math.log(first.sigma / first.alpha), math.log(last.sigma / last.alpha)
    start = (first.sigma / first.alpha * noise).flatten()
    end = solve_ivp(slope, span, start, "DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    return AnalyticDenoiser(density, process), noise, last.alpha * torch.as_tensor(end).reshape(-1, 2)


every_flow = pytest.mark.parametrize(
    "index",
    slow_but(range(len(PROCESSES)), 0),
    ids=lambda i: type(PROCESSES[i]).__name__,
)


@every_flow
@choose(DETERMINISTIC | MULTISTEP | VARIANTS)
@pytest.mark.one_in(3)
def test_the_error_of_deterministic_samplers_falls_with_the_declared_order(index, make):
    denoiser, noise, reference = flow(index)
    numbers = [60, 120, 240] if make().order < 4 else [40, 80, 160]
    errors = [
        (make(num_steps=n, denoise=False)(denoiser, noise) - reference).square().mean() for n in numbers
    ]
    order = -np.polyfit(np.log(numbers), np.log(errors) / 2, 1)[0]
    assert order > make().order - 0.1


class PublishedThirdOrder(Sampler):
    """DPM-Solver++ 3M as published: the quadratic term of (18), φ₃ h² x̂0'', with x̂0''/2 for x̂0''."""

    half = 0.5

    def __init__(self, num_steps, denoise):
        super().__init__(num_steps, LogSNRGrid(), denoise)

    def trajectory(self, predict, x, levels, noise):
        place, points = [level.log_snr / 2 for level in levels], []
        for i, (t, s) in enumerate(itertools.pairwise(levels)):
            points.insert(0, (place[i], predict(x, t).x0))
            h, (at, y), slope, bend = place[i + 1] - place[i], points[0], 0.0, 0.0
            if i == 1:
                slope = (y - points[1][1]) / (at - points[1][0])
            if i > 1:
                (b, y_b), (c, y_c) = points[1:3]
                first, second = (y - y_b) / (at - b), (y_b - y_c) / (b - c)
                bend = 2 * (first - second) / (at - c)
                slope = first + (at - b) * bend / 2
            phi_1 = -math.expm1(-h)
            phi_2 = 1 - phi_1 / h
            phi_3 = 0.5 - phi_2 / h
            change = phi_1 * y + phi_2 * h * slope + phi_3 * h**2 * self.half * bend
            x = s.sigma / t.sigma * x + s.alpha * change
            yield x


class FullQuadraticTerm(PublishedThirdOrder):
    half = 1.0


def test_the_published_third_order_has_not_three_and_ours_has():
    def order(make):
        denoiser, noise, reference = flow(0)
        errors = [(make(n, denoise=False)(denoiser, noise) - reference).norm() for n in (60, 240)]
        return math.log(errors[0] / errors[1], 4)

    assert order(PublishedThirdOrder) < 2.4
    assert order(FullQuadraticTerm) > 2.9
    ours = functools.partial(DPMSolverPP, order=3)
    assert order(ours) > 2.9


@every_flow
@choose(DETERMINISTIC | MULTISTEP | VARIANTS)
@pytest.mark.one_in(9)
def test_the_way_back_leads_to_the_noise_of_the_exact_flow_with_the_declared_order(index, make):
    denoiser, noise, end = flow(index)
    last = denoiser.process.grid_levels(torch.tensor([denoiser.process.t_min], dtype=D))[0]
    numbers = [480, 960] if make().order == 1 else [60, 120] if make().order < 4 else [40, 80]
    errors = [
        (make(num_steps=n, denoise=False).encode(denoiser, end / last.alpha) - noise).square().mean()
        for n in numbers
    ]
    assert math.log2(errors[0] / errors[1]) / 2 > make().order - 0.1


@choose({k: v for k, v in ALL.items() if k in STOCHASTIC or k in ("DDIM eta=0.5", "EDM with churn")})
def test_no_way_leads_back_through_noise(make):
    with pytest.raises(ConfigurationError, match="draws noise"):
        make(num_steps=5).encode(gaussian(VPSDE()), torch.ones(3, 1, dtype=D))


@choose(ALL)
@pytest.mark.parametrize(("num_steps", "denoise"), [(1, True), (0, False), (-3, False)])
@pytest.mark.one_in(3)
def test_too_few_steps_raise(make, num_steps, denoise):
    with pytest.raises(ConfigurationError, match=f"num_steps={num_steps}"):
        make(num_steps=num_steps, denoise=denoise)


@choose(STOCHASTIC | {"EDM with churn": ALL["EDM with churn"], "Restart": ALL["Restart"]})
@pytest.mark.parametrize("process", [VPSDE(), VESDE(), DDPMProcess(50)], ids=lambda p: type(p).__name__)
def test_prescribed_draws_are_those_of_the_generator(process, make, generator):
    """What a generator draws, recorded and given again, leads to the same samples to the bit."""
    noise, same, recorded = torch.ones(3, 1, dtype=D), generator.clone_state(), []
    sampler, denoiser = make(num_steps=7), gaussian(process)
    expected = sampler(denoiser, noise, generator=generator)

    def record(like):
        recorded.append(torch.randn(like.shape, generator=same, dtype=D))
        return recorded[-1]

    assert torch.equal(sampler(denoiser, noise, noise_source=record), expected)
    assert recorded and torch.equal(generator.get_state(), same.get_state())
    again = iter(recorded)
    *_, last = sampler.sample_path(denoiser, noise, noise_source=lambda like: next(again))
    assert torch.equal(last, expected) and next(again, None) is None


@choose(DETERMINISTIC)
def test_deterministic_samplers_draw_no_noise(make):
    def fail(like):
        raise AssertionError

    noise = torch.ones(3, 1, dtype=D)
    x = make(num_steps=5)(gaussian(VPSDE()), noise, noise_source=fail)
    assert torch.equal(x, make(num_steps=5)(gaussian(VPSDE()), noise))


def test_a_sampler_without_trajectory_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Sampler()
