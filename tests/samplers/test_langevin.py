import math

import pytest
import torch
from support.marks import slow
from support.times import PrescribedGrid

from scorelight import (
    VESDE,
    VPSDE,
    AnalyticDenoiser,
    AncestralSampler,
    AnnealedCorrector,
    AnnealedLangevin,
    ConfigurationError,
    CosineVPSDE,
    CountingDenoiser,
    DDPMProcess,
    Euler,
    GaussianMixture,
    LangevinCorrector,
    LangevinDynamics,
    PredictorCorrector,
    RectifiedFlow,
    SMLDProcess,
    SubVPSDE,
    UniformGrid,
)
from scorelight.processes.noise_levels import langevin_step, variance_ratio
from scorelight.rng import PhiloxGenerator

D = torch.float64
PROCESSES = [VPSDE(), SubVPSDE(), VESDE(), CosineVPSDE(), RectifiedFlow(), DDPMProcess(), SMLDProcess()]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
MIXTURE = GaussianMixture(
    torch.tensor([0.3, 0.7]), torch.tensor([[1.0, -0.5], [-1.0, 0.5]]), torch.tensor([0.1, 0.2])
)


def langevin(x, level, h, z):
    return x + h * MIXTURE.score(x, level.alpha, level.sigma) + math.sqrt(2 * h) * z


@every_process
def test_dynamics_at_one_level_take_the_steps_of_the_equation(process, generator):
    noise, same = torch.randn(5, 2, dtype=D, generator=generator), generator.clone_state()
    sampler = LangevinDynamics(num_steps=3, step=0.01, sigma=0.4, start_std=0.7, denoise=False)
    states = list(sampler.sample_path(AnalyticDenoiser(MIXTURE, process), noise, generator=generator))
    t = process.time_of_log_snr(torch.tensor([-2 * math.log(0.4)], dtype=D))
    (level,), x = process.grid_levels(t), 0.7 * noise
    assert level.sigma / level.alpha == pytest.approx(0.4, rel=1e-9)
    for state in states:
        x = langevin(x, level, 0.01, torch.randn(5, 2, dtype=D, generator=same))
        torch.testing.assert_close(state, x, rtol=1e-9, atol=1e-9)
    assert len(states) == 3


def test_dynamics_end_with_the_variance_of_their_recursion(generator):
    """N(0, v): the variance of (16) is (1 − h/v)^2 times the last plus 2h; five standard errors √(2/n)."""
    n, v, h, steps = 40_000, 0.25, 0.02, 30
    process = VPSDE()
    level = process.grid_levels(torch.tensor([process.t_min], dtype=D))[0]
    density = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.tensor([v], dtype=D))
    total, variance = v * level.alpha**2 + level.sigma**2, 1.0
    for _ in range(steps):
        variance = (1 - h / total) ** 2 * variance + 2 * h
    sampler = LangevinDynamics(steps, step=h, denoise=False)
    noise = torch.randn(n, 1, dtype=D, generator=generator)
    x = sampler(AnalyticDenoiser(density, process), noise, generator=generator)
    assert x.var().item() == pytest.approx(variance, rel=5 * math.sqrt(2 / n))


@every_process
def test_annealing_takes_the_published_steps_at_every_level(process, generator):
    times, steps, epsilon = (0.9, 0.6, 0.3), 2, 3e-3
    noise, same = torch.randn(4, 2, dtype=D, generator=generator), generator.clone_state()
    sampler = AnnealedLangevin(3, PrescribedGrid(*times), denoise=False, steps_per_level=steps, step=epsilon)
    with pytest.raises(AssertionError):  # without `denoise` three steps take four levels
        sampler(AnalyticDenoiser(MIXTURE, process), noise)
    sampler = AnnealedLangevin(2, PrescribedGrid(*times), denoise=False, steps_per_level=steps, step=epsilon)
    states = list(sampler.sample_path(AnalyticDenoiser(MIXTURE, process), noise, generator=generator))
    levels = process.grid_levels(torch.tensor(times, dtype=D))
    last = levels[-1].sigma / levels[-1].alpha
    x, expected = levels[0].sigma * noise, []
    for i, level in enumerate(levels):
        if i:
            x = x * level.alpha / levels[i - 1].alpha
        for _ in range(steps):
            z = torch.randn(4, 2, dtype=D, generator=same)
            x = langevin(x, level, epsilon * (level.sigma / last) ** 2, z)
        expected.append(x)
    assert len(states) == 2
    for state, x in zip(states, expected[1:], strict=True):
        torch.testing.assert_close(state, x, rtol=1e-9, atol=1e-9)


def test_the_step_of_the_advisor_leaves_the_variance_that_it_promises(generator):
    """A point as data, so that p_t = N(0, σ_t² I) as in Proposition 3 of Song & Ermon (2020)."""
    n, levels, steps = 40_000, 12, 3
    process = SMLDProcess(levels, 0.1, 1.0)
    ratio = 10 ** (1 / (levels - 1))
    epsilon = langevin_step(0.1, ratio, steps)
    density = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.zeros(1))
    sampler = AnnealedLangevin(levels - 1, UniformGrid(), denoise=False, steps_per_level=steps, step=epsilon)
    noise = torch.randn(n, 1, dtype=D, generator=generator)
    x = sampler(AnalyticDenoiser(density, process), noise, generator=generator)
    e, v = epsilon / 0.1**2, 1.0
    for level in range(levels):  # in units of the level: from the last level's, by the recursion of (16)
        v = v * ratio**2 if level else v
        for _ in range(steps):
            v = (1 - e) ** 2 * v + 2 * e
    assert v == pytest.approx(
        variance_ratio(e, ratio, steps), rel=0.2
    )  # it starts a level from 1, not from v
    assert x.var().item() / 0.1**2 == pytest.approx(v, rel=5 * math.sqrt(2 / n))


@every_process
@pytest.mark.parametrize("corrector", [LangevinCorrector(num_steps=0), AnnealedCorrector(num_steps=0)])
def test_without_a_correction_it_is_the_predictor(corrector, process, generator):
    noise, same = torch.randn(6, 2, dtype=D, generator=generator), generator.clone_state()
    denoiser = AnalyticDenoiser(MIXTURE, process)
    for predictor in (AncestralSampler(), Euler()):
        alone = type(predictor)(9, UniformGrid())(denoiser, noise, generator=same.clone_state())
        sampler = PredictorCorrector(9, UniformGrid(), predictor=predictor, corrector=corrector)
        together = sampler(denoiser, noise, generator=same.clone_state())
        torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


def test_the_corrector_takes_the_steps_of_the_paper(generator):
    process = VESDE()
    level = process.grid_levels(torch.tensor([0.5], dtype=D))[0]
    x, zs = torch.randn(2, 3, 2, dtype=D, generator=generator)[0], torch.randn(2, 3, 2, dtype=D)
    draws = iter(zs)
    denoiser = AnalyticDenoiser(MIXTURE, process)
    found = LangevinCorrector(0.3, 2)(denoiser.predict, x, level, lambda like: next(draws))
    for z in zs:
        score = MIXTURE.score(x, level.alpha, level.sigma)
        h = 2 * (0.3 * z.norm(dim=1, keepdim=True) / score.norm(dim=1, keepdim=True)) ** 2
        x = x + h * score + (2 * h).sqrt() * z
    torch.testing.assert_close(found, x, rtol=1e-12, atol=1e-12)


@every_process
def test_annealing_can_take_the_steps_of_a_corrector(process, generator):
    noise, same = torch.randn(5, 2, dtype=D, generator=generator), generator.clone_state()
    denoiser, corrector = AnalyticDenoiser(MIXTURE, process), LangevinCorrector(0.1)
    sampler = AnnealedLangevin(4, denoise=False, steps_per_level=2, corrector=corrector)
    levels = sampler.levels(process)
    found = list(sampler.sample_path(denoiser, noise, generator=generator))
    x, before = levels[0].sigma * noise, levels[0]
    states = []
    for level in levels:
        x, before = x * (level.alpha / before.alpha), level
        for _ in range(2):
            x = corrector(denoiser.predict, x, level, lambda like: torch.randn(5, 2, dtype=D, generator=same))
        states.append(x)
    for state, expected in zip(found, states[1:], strict=True):
        torch.testing.assert_close(state, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "sampler",
    [LangevinDynamics(5), AnnealedLangevin(4, steps_per_level=2), PredictorCorrector(4)],
    ids=lambda s: type(s).__name__,
)
def test_a_sample_does_not_depend_on_those_that_it_is_drawn_with(sampler):
    """Song et al.'s step takes the mean norm of the batch: an outlier would change the others."""
    denoiser = AnalyticDenoiser(MIXTURE, VPSDE())
    noise = torch.randn(3, 2, dtype=D, generator=torch.Generator().manual_seed(0))
    noise[2] *= 100
    whole = sampler(denoiser, noise, generator=PhiloxGenerator(0, [4, 5, 6]))
    alone = sampler(denoiser, noise[:1], generator=PhiloxGenerator(0, [4]))
    torch.testing.assert_close(whole[:1], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("sampler", "evaluations"),
    [
        (LangevinDynamics(7), 7),
        (LangevinDynamics(7, denoise=False), 7),
        (AnnealedLangevin(5, steps_per_level=3), 5 * 3 + 1),
        (PredictorCorrector(6), 2 * 5 + 1),
        (PredictorCorrector(6, corrector=LangevinCorrector(num_steps=0)), 6),
        (AnnealedLangevin(6, steps_per_level=2, corrector=LangevinCorrector(num_steps=3)), 6 * 6 + 1),
        (PredictorCorrector(6, corrector=LangevinCorrector(num_steps=3)), 4 * 5 + 1),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else type(value).__name__,
)
def test_the_number_of_evaluations_is_as_said(sampler, evaluations):
    denoiser = CountingDenoiser(AnalyticDenoiser(MIXTURE, VESDE()))
    assert len(list(sampler.sample_path(denoiser, torch.zeros(2, 2, dtype=D)))) == sampler.num_steps
    assert denoiser.num_evaluations == evaluations


@pytest.mark.parametrize(
    "process", [VPSDE(), slow(VESDE(sigma_max=10)), slow(SubVPSDE()), SMLDProcess(60, 0.05, 10.0)]
)
@pytest.mark.parametrize(
    "sampler",
    [
        "annealed",
        PredictorCorrector(60, corrector=AnnealedCorrector()),
        PredictorCorrector(60, predictor=Euler(), corrector=AnnealedCorrector()),
    ],
    ids=["annealed", "ancestral", "flow"],
)
@pytest.mark.one_in(3)
def test_samples_have_the_log_density_of_the_data(process, sampler, generator):
    """Up to a tenth of a nat of bias from the steps, and five standard errors."""
    n = 3000
    if sampler == "annealed":
        (last,) = process.grid_levels(torch.tensor([process.t_min], dtype=D))
        sampler = AnnealedLangevin(60, steps_per_level=10, step=0.2 / last.snr)
    noise = torch.randn(n, 2, dtype=D, generator=generator)
    x = sampler(AnalyticDenoiser(MIXTURE, process), noise, generator=generator)
    data = MIXTURE.sample(n, generator)
    found, exact = MIXTURE.log_prob(x), MIXTURE.log_prob(data)
    error = math.sqrt((found.var() + exact.var()) / n)
    assert abs(found.mean() - exact.mean()) < 5 * error + 0.1
    share = (x[:, 0] > 0).double().mean()
    assert abs(share - (data[:, 0] > 0).double().mean()) < 5 * math.sqrt(0.25 * 2 / n) + 0.03


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "process", [VPSDE(), VESDE(sigma_max=30), SubVPSDE()], ids=lambda p: type(p).__name__
)
def test_the_published_step_keeps_the_weights_of_modes_in_many_dimensions(process, generator):
    """Five standard errors of a share and a twentieth, a seventh of the spread, for the bias of 60 steps."""
    n, dim = 600, 64
    means = torch.stack([torch.full((dim,), 0.25), torch.full((dim,), -0.25)])
    density = GaussianMixture(torch.tensor([0.3, 0.7]), means, torch.tensor([0.04, 0.04]))
    noise = torch.randn(n, dim, dtype=D, generator=generator)
    x = PredictorCorrector(61)(AnalyticDenoiser(density, process), noise, generator=generator)
    assert abs((x.mean(1) > 0).double().mean() - 0.3) < 5 * math.sqrt(0.21 / n) + 0.05
    spread = (x - x.mean(1, keepdim=True)).std().item()
    assert spread == pytest.approx(0.2, rel=0.15)


def test_a_step_that_diverges_is_refused_with_the_largest_that_does_not():
    denoiser = AnalyticDenoiser(MIXTURE, VESDE(sigma_min=0.1))
    with pytest.raises(ConfigurationError, match=r"step=0.03.*from 0.02 on"):
        AnnealedLangevin(5, step=0.03)(denoiser, torch.zeros(1, 2, dtype=D))


WRONG = [
    (LangevinDynamics, dict(step=0.0)),
    (LangevinDynamics, dict(start_std=-1.0)),
    (AnnealedLangevin, dict(steps_per_level=0)),
    (AnnealedLangevin, dict(step=-1.0)),
    (LangevinCorrector, dict(snr=0.0)),
    (LangevinCorrector, dict(num_steps=-1)),
    (AnnealedCorrector, dict(num_steps=-1)),
]


@pytest.mark.parametrize(("make", "wrong"), WRONG, ids=str)
def test_what_cannot_be_is_refused(make, wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        make(**wrong)
