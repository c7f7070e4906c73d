import dataclasses
import math

import pytest
import torch
from scipy.integrate import quad
from support.times import PrescribedGrid

from scorelight import (
    DDIM,
    VESDE,
    VPSDE,
    AnalyticDenoiser,
    AncestralSampler,
    ConfigurationError,
    GaussianMixture,
    LogSNRGrid,
    SubVPSDE,
    UniformGrid,
)
from scorelight.rng import PhiloxGenerator

D = torch.float64
PROCESSES = [VPSDE(), SubVPSDE(), VESDE()]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
STEPS = pytest.mark.parametrize(
    ("t", "s"), [(0.6, 0.5), (1.0, 0.001), (0.9, 0.1), (0.011, 0.01), (0.5, 0.4999)]
)
ETAS = pytest.mark.parametrize("eta", [0.0, 0.3, 0.8, 1.0])
MIXTURE = GaussianMixture(
    torch.tensor([0.4, 0.6]), torch.tensor([[1.0, 0.3], [-0.5, -0.6]]), torch.tensor([0.5, 0.3])
)


def affine_step(sampler, denoiser):
    """The sample of no start and draw, of a unit start and of a unit draw."""
    start, draw = torch.tensor([[[0.0], [1.0], [0.0]], [[0.0], [0.0], [1.0]]], dtype=D)
    return sampler(denoiser, start, noise_source=lambda like: draw).flatten().tolist()


def one_step(make, process, t, s, mean=0.0, variance=0.0):
    """The map x_s = offset + slope x_t + std z for data N(mean, variance), read off at three points."""
    given = torch.tensor([[mean]], dtype=D), torch.tensor([variance], dtype=D)
    denoiser = AnalyticDenoiser(GaussianMixture(torch.ones(1), *given), process)
    sampler = make(num_steps=1, grid=PrescribedGrid(t, s), denoise=False)
    offset, first, second = affine_step(sampler, denoiser)
    return offset, (first - offset) / process.sigma(torch.tensor(t, dtype=D)).item(), second - offset


def ddim(eta):
    return lambda **options: DDIM(eta=eta, **options)


def large(**options):
    return AncestralSampler(variance="large", **options)


def levels(process, *times):
    return process.grid_levels(torch.tensor(times, dtype=D))


@pytest.mark.one_in(3)
@every_process
@STEPS
@pytest.mark.parametrize("make", [AncestralSampler, ddim(1.0)], ids=["ancestral", "ddim eta=1"])
def test_a_step_to_a_known_point_is_the_gaussian_conditional(process, t, s, make):
    # given x0, (x_s, x_t) is Gaussian with covariance [[ss^2, k ss^2], [k ss^2, st^2]], k = alpha_t/alpha_s
    at, to = levels(process, t, s)
    covariance = at.alpha / to.alpha * to.sigma**2
    slope = covariance / at.sigma**2
    offset, measured, std = one_step(make, process, t, s, mean=0.7)
    assert measured == pytest.approx(slope, rel=1e-9)
    assert offset == pytest.approx(to.alpha * 0.7 - slope * at.alpha * 0.7, rel=1e-9, abs=1e-12)
    assert std**2 == pytest.approx(to.sigma**2 - slope * covariance, rel=1e-9)


@every_process
@STEPS
def test_the_large_variance_is_that_which_the_forward_process_adds_from_s_to_t(process, t, s):
    # integral of (alpha_t/alpha_u)^2 g^2(u) from s to t
    def added(u):
        level = process.at(torch.tensor(u, dtype=D))
        return (process.alpha(torch.tensor(t, dtype=D)) / level.alpha).item() ** 2 * level.g2.item()

    std = one_step(large, process, t, s)[2]
    assert std**2 == pytest.approx(quad(added, s, t, epsrel=1e-11, limit=200)[0], rel=1e-9)


@STEPS
def test_the_large_variance_is_exact_for_unit_gaussian_data_under_vp(t, s):
    offset, slope, std = one_step(large, VPSDE(), t, s, variance=1.0)
    assert offset == 0
    assert slope**2 + std**2 == pytest.approx(1, abs=1e-12)


@every_process
@STEPS
@pytest.mark.parametrize("make", [AncestralSampler, large, ddim(1.0)], ids=["small", "large", "ddim eta=1"])
@pytest.mark.one_in(3)
def test_the_mean_of_a_step_is_exact_for_gaussian_data(process, t, s, make):
    at, to = levels(process, t, s)
    v_t, v_s = (v.alpha**2 * 0.3 + v.sigma**2 for v in (at, to))
    slope = at.alpha / to.alpha * v_s / v_t
    offset, measured, _ = one_step(make, process, t, s, mean=0.7, variance=0.3)
    assert measured == pytest.approx(slope, rel=1e-9)
    assert offset == pytest.approx(to.alpha * 0.7 - slope * at.alpha * 0.7, rel=1e-9, abs=1e-12)


@every_process
@STEPS
@ETAS
@pytest.mark.one_in(3)
def test_ddim_keeps_the_marginal_of_a_known_point_for_every_eta(process, t, s, eta):
    at, to = levels(process, t, s)
    offset, slope, std = one_step(ddim(eta), process, t, s, mean=0.7)
    assert offset + slope * at.alpha * 0.7 == pytest.approx(to.alpha * 0.7, rel=1e-12)
    assert (slope * at.sigma) ** 2 + std**2 == pytest.approx(to.sigma**2, rel=1e-12)


@STEPS
@ETAS
def test_ddim_is_equation_12_of_song_meng_and_ermon_under_vp(t, s, eta, generator):
    noise = torch.randn(5, 2, dtype=D, generator=generator)
    same = generator.clone_state()
    sampler = DDIM(num_steps=1, grid=PrescribedGrid(t, s), denoise=False, eta=eta)
    out = sampler(AnalyticDenoiser(MIXTURE, VPSDE()), noise, generator=generator)
    bar_t, bar_s = (
        math.exp(-(0.1 * u + 19.9 * u**2 / 2)) for u in (t, s)
    )  # their alpha, Ho et al.'s alpha bar
    x = math.sqrt(1 - bar_t) * noise
    epsilon = -math.sqrt(1 - bar_t) * MIXTURE.score(x, math.sqrt(bar_t), math.sqrt(1 - bar_t))
    std = eta * math.sqrt((1 - bar_s) / (1 - bar_t) * (1 - bar_t / bar_s))
    x0 = (x - math.sqrt(1 - bar_t) * epsilon) / math.sqrt(bar_t)
    z = torch.randn(5, 2, dtype=D, generator=same)
    expected = math.sqrt(bar_s) * x0 + math.sqrt(1 - bar_s - std**2) * epsilon + std * z
    torch.testing.assert_close(out, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ancestral_sampling_is_algorithm_2_of_ho_et_al_under_vp(variance, generator):
    t, s = 0.6, 0.55
    noise = torch.randn(5, 2, dtype=D, generator=generator)
    same = generator.clone_state()
    sampler = AncestralSampler(num_steps=1, grid=PrescribedGrid(t, s), denoise=False, variance=variance)
    out = sampler(AnalyticDenoiser(MIXTURE, VPSDE()), noise, generator=generator)
    bar_t, bar_s = (math.exp(-(0.1 * u + 19.9 * u**2 / 2)) for u in (t, s))
    beta = 1 - bar_t / bar_s
    x = math.sqrt(1 - bar_t) * noise
    epsilon = -math.sqrt(1 - bar_t) * MIXTURE.score(x, math.sqrt(bar_t), math.sqrt(1 - bar_t))
    mean = (x - beta / math.sqrt(1 - bar_t) * epsilon) / math.sqrt(1 - beta)
    std = math.sqrt(beta if variance == "large" else beta * (1 - bar_s) / (1 - bar_t))
    torch.testing.assert_close(
        out, mean + std * torch.randn(5, 2, dtype=D, generator=same), rtol=1e-10, atol=1e-10
    )


@pytest.mark.one_in(4)
@every_process
@pytest.mark.parametrize("grid", [UniformGrid(), LogSNRGrid()], ids=lambda g: type(g).__name__)
@pytest.mark.parametrize("num_steps", [2, 20, 300])
def test_ddim_with_full_noise_is_ancestral_sampling(process, grid, num_steps, generator):
    noise, denoiser = torch.randn(5, 2, dtype=D, generator=generator), AnalyticDenoiser(MIXTURE, process)
    one, other = (
        sampler(denoiser, noise, generator=PhiloxGenerator(0, range(5)))
        for sampler in (DDIM(num_steps, grid, eta=1.0), AncestralSampler(num_steps, grid))
    )
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("make", [AncestralSampler, large, ddim(1.0)], ids=["small", "large", "ddim eta=1"])
@pytest.mark.parametrize("process", [VESDE(1e-3, 1e6), VESDE(1e-6, 1e6), VPSDE(beta_max=300.0)], ids=str)
@pytest.mark.parametrize("num_steps", [1, 2, 3, 10])
def test_states_stay_real_where_the_noise_of_two_levels_differs_by_more_digits_than_a_float_has(
    make, process, num_steps, generator
):
    noise = torch.randn(5, 2, dtype=D, generator=generator)
    x = make(num_steps=num_steps, denoise=False)(
        AnalyticDenoiser(MIXTURE, process), noise, generator=generator
    )
    assert x.dtype == D
    assert x.isfinite().all()


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_an_eta_out_of_range_raises(eta):
    with pytest.raises(ConfigurationError, match="eta="):
        DDIM(eta=eta)


def test_an_unknown_variance_raises():
    with pytest.raises(ConfigurationError, match="small, large or learned"):
        AncestralSampler(variance="medium")


class Learned(AnalyticDenoiser):
    """The exact mean, and a fraction of the variance as a network would learn it."""

    fraction = 0.0

    def predict(self, x_t, level, **cond):
        pred = super().predict(x_t, level, **cond)
        return dataclasses.replace(pred, variance_fraction=torch.full_like(x_t, self.fraction))


@every_process
@STEPS
@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0])
@pytest.mark.one_in(3)
def test_with_the_exact_learned_variance_a_step_of_any_length_is_exact_on_gaussian_data(
    process, t, s, spread
):
    """Var(x_s | x_t) = 1/(1/Var x_s + a²/σ²_{t|s}) with a = α_t/α_s; x_s then has its variance."""
    density = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.tensor([spread**2], dtype=D))
    begin, end = process.grid_levels(torch.tensor([t, s], dtype=D))
    a = begin.alpha / end.alpha
    step = begin.sigma**2 - (a * end.sigma) ** 2
    before, after = ((v.alpha * spread) ** 2 + v.sigma**2 for v in (begin, end))
    small = step * (end.sigma / begin.sigma) ** 2
    denoiser = Learned(density, process)
    denoiser.fraction = math.log(1 / (1 / after + a**2 / step) / small) / math.log(step / small)
    sampler = AncestralSampler(num_steps=1, grid=PrescribedGrid(t, s), denoise=False, variance="learned")
    offset, first, second = affine_step(sampler, denoiser)
    slope = (first - offset) / begin.sigma
    assert slope**2 * before + (second - offset) ** 2 == pytest.approx(after, rel=1e-7)


@every_process
def test_a_learned_variance_lies_between_small_and_large(process, generator):
    noise, states = torch.randn(4, 2, dtype=D, generator=generator), {}
    for variance, fraction in (("small", 0.7), ("large", 0.7), ("learned", 0.0), ("learned", 1.0)):
        denoiser = Learned(MIXTURE, process)
        denoiser.fraction = fraction
        sampler = AncestralSampler(9, variance=variance)
        states[variance, fraction] = sampler(denoiser, noise, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(states["learned", 0.0], states["small", 0.7], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(states["learned", 1.0], states["large", 0.7], rtol=1e-12, atol=1e-12)


def test_a_variance_that_was_not_learned_is_refused():
    with pytest.raises(ConfigurationError, match=r"variance='learned'.*learned_variance"):
        AncestralSampler(3, variance="learned")(AnalyticDenoiser(MIXTURE, VPSDE()), torch.zeros(1, 2))
