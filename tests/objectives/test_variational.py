"""The bounds against Gaussian KL divergences taken one by one, against entropies, and against 40 digits.

Expectations are quadratures wherever they can be: over x0 and ε with three Gauss-Hermite nodes each, exact
since the terms are quadratic in them, and over t with Gauss-Legendre nodes for the sampler's own u.
"""

import math
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from support.denoisers import ConstantDenoiser, PerturbedDenoiser
from support.draws import randn
from support.times import PrescribedTime
from torch.distributions import Normal, kl_divergence

from scorelight import (
    VESDE,
    VPSDE,
    X0,
    AnalyticDenoiser,
    ConfigurationError,
    CosineVPSDE,
    DDPMProcess,
    DenoisingScoreMatching,
    DiscreteTime,
    EmpiricalDenoiser,
    Epsilon,
    FixedTime,
    GaussianMixture,
    HybridObjective,
    ImportanceTime,
    KarrasVESDE,
    LearnedVPSDE,
    LikelihoodWeighting,
    LogitNormalTime,
    LogNormalTime,
    LossAwareTime,
    RectifiedFlow,
    SMLDProcess,
    StratifiedTime,
    SubVPSDE,
    UniformTime,
    VariationalBound,
    VPrediction,
)
from scorelight.likelihood.bounds import _log_bin_probability, negative_log_likelihood
from scorelight.rng import PhiloxGenerator

D = torch.float64
PROCESSES = [VPSDE(), SubVPSDE(), VESDE(), CosineVPSDE(), RectifiedFlow(), KarrasVESDE()]
TABLES = [
    DDPMProcess(50),
    DDPMProcess(20, "cosine"),
    DDPMProcess(keep=[1, 2, 30, 700, 1000]),
    SMLDProcess(20),
]
ON_LEVELS = [(p, None) for p in TABLES] + [(p, 12) for p in PROCESSES] + [(DDPMProcess(), 7)]
name = lambda value: type(value).__name__  # noqa: E731
every_process = pytest.mark.parametrize("process", PROCESSES, ids=name)
on_levels = pytest.mark.parametrize(
    ("process", "num_timesteps"), ON_LEVELS, ids=lambda v: v if isinstance(v, int | None) else name(v)
)


def every_level(num):
    """u that takes each of the levels once."""
    return (torch.arange(num, dtype=D) + 0.5) / num


def gaussian(mean, std, shape=(1,)):
    return GaussianMixture(torch.ones(1), torch.full((1, *shape), mean), torch.tensor([std**2], dtype=D))


def times_of(process, num_timesteps):
    number = num_timesteps or process.num_timesteps
    return torch.linspace(process.t_min, process.t_max, number, dtype=D)


def coefficients(process, t):
    return process.alpha(t)[:, None, None], process.sigma(t)[:, None, None]


def reverse(x0, x_t, t, s, fraction=None):
    """Ho et al. (2020), eq. 6 and 7, without α² + σ² = 1, as a distribution of x_s; t, s pairs (α, σ)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = t, s
    scale = alpha_t / alpha_s
    large = sigma_t**2 - scale**2 * sigma_s**2
    small = large * sigma_s**2 / sigma_t**2
    mean = (alpha_s * large * x0 + scale * sigma_s**2 * x_t) / sigma_t**2
    variance = small if fraction is None else small ** (1 - fraction) * large**fraction
    return Normal(mean, variance.sqrt())


def prior_term(process, x0):
    t = torch.full((len(x0),), process.t_max, dtype=D)
    alpha, sigma = coefficients(process, t)
    return kl_divergence(Normal(alpha * x0, sigma), Normal(torch.zeros_like(x0), sigma)).flatten(1).sum(1)


def terms_of_ho(process, num_timesteps, x0, epsilon, hat, fraction, learned, num_bins=None):
    """The terms of their eq. 5 but for the first, one for each example: example i at level i, from data."""
    times = times_of(process, num_timesteps)
    alpha, sigma = coefficients(process, times)
    x_t = alpha * x0 + sigma * epsilon
    t, s = (alpha[1:], sigma[1:]), (alpha[:-1], sigma[:-1])
    q = reverse(x0[1:], x_t[1:], t, s)
    p = reverse(hat[1:], x_t[1:], t, s, fraction[1:])
    std = sigma[0] / alpha[0]
    if learned:  # between the β of the first level and the β̃ of the second, which stands in for β̃₁ = 0
        r2 = (alpha[1] * sigma[0] / (alpha[0] * sigma[1])) ** 2
        std = sigma[0] * (1 - r2) ** ((1 - fraction[0]) / 2)
    if num_bins is None:
        likelihood = Normal(hat[0], std).log_prob(x0[0])
    else:
        likelihood = _log_bin_probability(x0[0], hat[0], std.expand_as(hat[0]), num_bins)
    return torch.cat([-likelihood.sum().reshape(1), kl_divergence(q, p).flatten(1).sum(1)])


def bound_on_every_level(process, num_timesteps, x0, hat, fraction, variance="small", num_bins=None):
    number = num_timesteps or process.num_timesteps
    sampler = PrescribedTime(DiscreteTime(num_timesteps), every_level(number))
    bound = VariationalBound(num_timesteps, variance, num_bins, time_sampler=sampler)
    denoiser = ConstantDenoiser(process, hat, X0(), fraction)
    return bound(denoiser, x0, generator=torch.Generator().manual_seed(7)).value


@pytest.mark.one_in(4)
@on_levels
@pytest.mark.parametrize("variance", ["small", "large", "learned"])
def test_every_term_is_the_divergence_of_two_gaussians(process, num_timesteps, variance):
    number = num_timesteps or process.num_timesteps
    x0, epsilon, hat = randn(number, 2, 3), randn(number, 2, 3, seed=7), 2 * randn(number, 2, 3, seed=1)
    hat = x0 + 0.3 * (hat - x0)
    fraction = {"small": 0.0, "large": 1.0}.get(variance, 0.0) + torch.zeros_like(x0)
    learned = variance == "learned"
    if learned:
        fraction = 0.5 + randn(number, 2, 3, seed=2)
        assert fraction.min() < -0.5 and fraction.max() > 1.5
    found = bound_on_every_level(
        process,
        num_timesteps,
        x0,
        hat,
        fraction if learned else None,
        "large" if variance == "large" else "small",
    )
    expected = terms_of_ho(process, num_timesteps, x0, epsilon, hat, fraction, learned)
    torch.testing.assert_close(found - prior_term(process, x0), number * expected, rtol=1e-9, atol=1e-9)


def test_a_learned_variance_takes_the_place_of_small_and_large():
    args = TABLES[0], None, randn(50, 2), randn(50, 2, seed=1)
    small, large = (bound_on_every_level(*args, randn(50, 2, seed=2), v) for v in ("small", "large"))
    assert torch.equal(small, large)


@pytest.mark.parametrize("space", [Epsilon(), VPrediction()], ids=name)
def test_the_bound_does_not_depend_on_what_the_network_outputs(space):
    process, x0, hat = TABLES[1], randn(20, 2, 3), randn(20, 2, 3, seed=1)
    alpha, sigma = coefficients(process, times_of(process, None))
    x_t = alpha * x0 + sigma * randn(20, 2, 3, seed=7)
    a, b = space.coefficients(process.at(times_of(process, None), like=x0))
    bound = VariationalBound(time_sampler=PrescribedTime(DiscreteTime(), every_level(20)))
    denoiser = ConstantDenoiser(process, a * hat + b * (x_t - alpha * hat) / sigma, space)
    found = bound(denoiser, x0, generator=torch.Generator().manual_seed(7)).value
    expected = bound_on_every_level(process, None, x0, hat, None)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@on_levels
def test_levels_with_bins_are_those_without_but_for_the_last_term(process, num_timesteps):
    number = num_timesteps or process.num_timesteps
    x0 = (randn(number, 2, 3) * 100).round().clamp(-127, 128) / 127.5 - 1 / 255
    epsilon, hat = randn(number, 2, 3, seed=7), x0 + 0.01 * randn(number, 2, 3, seed=1)
    expected = terms_of_ho(
        process, num_timesteps, x0, epsilon, hat, torch.zeros_like(x0), False, num_bins=256
    )
    found = bound_on_every_level(process, num_timesteps, x0, hat, None, num_bins=256)
    torch.testing.assert_close(found - prior_term(process, x0), number * expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", [DiscreteTime(10), LossAwareTime(10, history=1)], ids=name)
def test_the_single_term_is_an_unbiased_estimate_of_the_sum(sampler):
    """Σ_i p_i times the estimate at level i, the p_i far from equal for `LossAwareTime`."""
    process, probabilities = VPSDE(), torch.full((10,), 0.1, dtype=D)
    if isinstance(sampler, LossAwareTime):
        sampler.observe(process, times_of(process, 10), torch.arange(1.0, 11.0, dtype=D) ** 2)
        probabilities = sampler.probabilities(10)
        assert probabilities.max() > 50 * probabilities.min()
    u = probabilities.cumsum(0) - probabilities / 2
    x0, hat = randn(10, 2, 3), randn(1, 2, 3, seed=1).expand(10, 2, 3)
    bound = VariationalBound(10, time_sampler=PrescribedTime(sampler, u))
    value = bound(ConstantDenoiser(process, hat, X0()), x0, generator=torch.Generator().manual_seed(7)).value
    terms = terms_of_ho(
        process, 10, x0, randn(10, 2, 3, seed=7), hat, torch.zeros_like(hat), False
    )  # not times 10
    sum_of_estimates = (probabilities * (value - prior_term(process, x0))).sum()
    torch.testing.assert_close(sum_of_estimates, terms.sum(), rtol=1e-9, atol=0)


@every_process
def test_where_the_prediction_is_exact_a_term_is_zero_and_the_prior_is_left(
    process,
):
    x0 = randn(12, 2, 3)
    found = bound_on_every_level(process, 12, x0, x0, None)
    torch.testing.assert_close(found[1:], prior_term(process, x0)[1:], rtol=1e-12, atol=1e-14)


# The last term


def grey(num_bins):
    return torch.linspace(-1, 1, num_bins, dtype=D)


@pytest.mark.parametrize("num_bins", [2, 3, 16, 256])
@pytest.mark.parametrize("std", [1e-6, 1e-3, 0.01, 0.3, 5.0, 1e4])
@pytest.mark.parametrize("mean", [0.0, 0.00391, -1.0, 0.9997, -1.2, 3.0, 1e3])
@pytest.mark.one_in(20)
def test_the_probabilities_of_all_bins_add_up_to_one(num_bins, std, mean):
    x0 = grey(num_bins)
    log_p = _log_bin_probability(x0, torch.full_like(x0, mean), torch.full_like(x0, std), num_bins)
    assert (log_p <= 0).all() and log_p.isfinite().all()
    assert log_p.exp().sum().item() == pytest.approx(1, rel=1e-10)


@pytest.mark.parametrize(("mean", "std"), [(0.1, 0.02), (0.1, 0.3), (0.97, 1e-3), (-1.4, 0.05), (2.0, 0.01)])
def test_the_probability_of_every_bin_is_that_of_40_digits_far_into_both_tails(mean, std):
    num_bins = 256
    x0 = grey(num_bins)
    found = _log_bin_probability(x0, torch.full_like(x0, mean), torch.full_like(x0, std), num_bins).tolist()
    with mpmath.workdps(40):

        def above(z):  # the upper tail, which has all its digits; for z < 0 by symmetry below
            return mpmath.erfc(z / mpmath.sqrt(2)) / 2

        for k in range(0, num_bins, 5):
            low, high = ((x0[k].item() + sign / mpmath.mpf(num_bins - 1) - mean) / std for sign in (-1, 1))
            if k == 0:
                exact = above(-high)
            elif k == num_bins - 1:
                exact = above(low)
            else:
                exact = above(low) - above(high) if low > 0 else above(-high) - above(-low)
            assert found[k] == pytest.approx(float(mpmath.log(exact)), rel=1e-9, abs=1e-300)


def test_narrow_bins_are_the_density_times_their_width():
    x0, num_bins = grey(2001)[1:-1], 2001
    mean, log_variance = torch.full_like(x0, 0.2), torch.full_like(x0, 2 * math.log(0.5))
    binned, density = (
        negative_log_likelihood(mean[:, None], log_variance[:, None], x0[:, None], b)
        for b in (num_bins, None)
    )
    torch.testing.assert_close(binned, density - math.log(2 / (num_bins - 1)), rtol=0, atol=2e-6)


@pytest.mark.parametrize("num_bins", [None, 256])
@pytest.mark.parametrize("dtype", [torch.float32, D])
@pytest.mark.parametrize("std", [1e-6, 1e-2, 1.0, 1e4])
def test_gradients_of_the_last_term_are_finite_wherever_the_mean_is(num_bins, dtype, std):
    offsets = torch.tensor([-1e3, -1.0, -1e-7, 0.0, 0.3, 50.0], dtype=D)
    x0, offset = torch.meshgrid(grey(256)[::15], offsets, indexing="ij")
    mean = (x0 + offset).to(dtype).requires_grad_()
    log_variance = torch.full_like(mean, 2 * math.log(std)).detach().requires_grad_()
    loss = negative_log_likelihood(mean, log_variance, x0.to(dtype), num_bins)
    assert loss.dtype == dtype and loss.isfinite().all()
    loss.sum().backward()
    for gradient in (mean.grad, log_variance.grad):
        assert gradient.isfinite().all()
    away = (mean.grad * offset)[1:-1, [0, 1, 4, 5]]  # the end bins are content with a mean beyond them
    expected = offset[1:-1, [0, 1, 4, 5]] ** 2 / std**2
    assert ((away > 0.9 * expected) & (away < 1.1 * expected)).all()


@pytest.mark.parametrize("num_bins", [None, 256])
def test_gradients_of_the_last_term_agree_with_differences(num_bins):
    x0 = grey(256)[[0, 1, 100, 200, 255]].repeat(4, 1)
    mean = (x0 + torch.tensor([[-0.5], [0.0], [0.01], [0.7]], dtype=D)).requires_grad_()
    log_variance = torch.full_like(x0, 2 * math.log(0.02)).requires_grad_()
    torch.autograd.gradcheck(lambda m, v: negative_log_likelihood(m, v, x0, num_bins), (mean, log_variance))


def test_the_unused_likelihood_of_the_noisiest_levels_does_not_spoil_the_gradient():
    process = DDPMProcess(schedule="cosine")  # σ/α is 2e4 at the last
    hat = (100 * randn(1000, 4)).requires_grad_()
    fraction = randn(1000, 4, seed=1).requires_grad_()
    bound_on_every_level(process, None, randn(1000, 4), hat, fraction, num_bins=256).sum().backward()
    assert hat.grad.isfinite().all() and fraction.grad.isfinite().all()


# Gaussian data: everything in closed form

MEAN, STD = 0.4, 0.6
ENTROPY = 0.5 * math.log(2 * math.pi * math.e * STD**2)


def gaussian_kl(mean, variance, prior_variance):
    ratio = variance / prior_variance
    return 0.5 * (ratio + mean**2 / prior_variance - 1 - math.log(ratio))


def limit(process):
    """The bound without levels: entropy + KL(p_T ‖ prior) + E KL(p(x0 | x_tmin) ‖ N(x̂0, (σ/α)²))."""
    first, last = process.grid_levels(torch.tensor([process.t_min, process.t_max], dtype=D))
    signal = (last.alpha * STD) ** 2
    kl_prior = gaussian_kl(last.alpha * MEAN, signal + last.sigma**2, last.sigma**2)
    share = (first.alpha * STD) ** 2 / ((first.alpha * STD) ** 2 + first.sigma**2)
    return ENTROPY + kl_prior + 0.5 * (share - 1 - math.log(share))


@pytest.fixture
def expectation(monkeypatch):
    """E over x0 ~ N(MEAN, STD²), ε and the given u (with weights) of an objective's value."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(3))
    weights = weights / weights.sum()

    def expect(make, times, u, denoiser, weight_of_u=None):
        at_x0, at_epsilon, at_u = torch.meshgrid(nodes, nodes, u, indexing="ij")
        monkeypatch.setattr(
            "scorelight.objectives.base.randn_like", lambda x, generator: at_epsilon.reshape(-1, 1)
        )
        sampler = PrescribedTime(times, at_u.flatten())
        value = make(sampler)(denoiser, (MEAN + STD * at_x0).reshape(-1, 1)).value.reshape(3, 3, -1)
        if weight_of_u is None:
            weight_of_u = torch.full_like(u, 1 / len(u))
        return torch.einsum("i,j,k,ijk->", weights, weights, weight_of_u, value).item()

    return expect


def legendre(n):
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(n))
    return (nodes + 1) / 2, weights / 2


def discrete(expectation, process, num_timesteps, variance="small", number=None):
    number = number or num_timesteps or process.num_timesteps
    return expectation(
        lambda sampler: VariationalBound(num_timesteps, variance, time_sampler=sampler),
        DiscreteTime(num_timesteps),
        every_level(number),
        AnalyticDenoiser(gaussian(MEAN, STD), process),
    )


def closed_form_on_levels(process, num_timesteps, variance):
    """Σ of (12) with E(ε̂ − ε)² = α²S²/(α²S² + σ²), over Python floats."""
    levels = process.grid_levels(times_of(process, num_timesteps))
    share = [(v.alpha * STD) ** 2 / ((v.alpha * STD) ** 2 + v.sigma**2) for v in levels]
    first, last = levels[0], levels[-1]
    total = 0.5 * last.snr * (STD**2 + MEAN**2)
    total += 0.5 * (share[0] + math.log(2 * math.pi) - first.log_snr)
    for i in range(1, len(levels)):
        t, s = levels[i], levels[i - 1]
        rho = 1.0 if variance == "small" else s.sigma**2 / t.sigma**2
        total += 0.5 * (rho - 1 - math.log(rho) + rho * (s.snr / t.snr - 1) * share[i])
    return total


@pytest.mark.one_in(4)
@on_levels
@pytest.mark.parametrize("variance", ["small", "large"])
def test_with_the_exact_denoiser_of_gaussian_data_the_bound_is_a_closed_form_above_the_entropy(
    process, num_timesteps, variance, expectation
):
    found = discrete(expectation, process, num_timesteps, variance)
    assert found == pytest.approx(closed_form_on_levels(process, num_timesteps, variance), rel=1e-9)
    assert found > ENTROPY


@every_process
@pytest.mark.parametrize("times", [UniformTime(), ImportanceTime()], ids=name)
def test_in_continuous_time_the_bound_is_the_entropy_plus_what_its_ends_cost(process, times, expectation):
    u, weights = legendre(300)
    denoiser = AnalyticDenoiser(gaussian(MEAN, STD), process)
    found = expectation(lambda s: VariationalBound(time_sampler=s), times, u, denoiser, weights)
    assert found == pytest.approx(limit(process), abs=1e-7)
    assert found > ENTROPY


CLOSING = [VPSDE(t_min=0.05), SubVPSDE(t_min=0.1), VESDE(), CosineVPSDE(t_min=0.05, t_max=0.95)]
CLOSING += [RectifiedFlow(0.05, 0.95), KarrasVESDE()]


@pytest.mark.parametrize("process", CLOSING, ids=name)
@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_gap_to_the_continuous_bound_falls_as_one_over_the_number_of_levels(
    process, variance, expectation
):
    numbers = (10, 30, 100, 300, 1000, 3000)
    gaps = [discrete(expectation, process, n, variance) - limit(process) for n in numbers]
    assert all(a > b > 0 for a, b in pairwise(gaps))
    assert 3000 * gaps[-1] == pytest.approx(1000 * gaps[-2], rel=0.02)


@pytest.mark.parametrize(("variance", "left"), [("small", 0.28861), ("large", 0.0)])
def test_the_gap_of_ddpm_falls_as_one_over_n_to_half_of_eulers_constant_or_to_nothing(
    variance, left, expectation
):
    """SNR_i/SNR_{i+1} → (i + 1)/i at its first levels, for any N: with c² they never close up, and

    Σ ½ [1/i − log(1 + 1/i)] = ½ γ_E = 0.2886 nats per dimension remain. With σ²_{t|s} nothing does."""
    low, high = (
        discrete(expectation, p, None, variance) - limit(p) - left for p in map(DDPMProcess, (1000, 10_000))
    )
    assert high == pytest.approx(low / 10, rel=0.7 if left else 0.01)
    assert abs(high) < (0.03 if left else 1e-4)


@pytest.mark.parametrize("times", [UniformTime(), StratifiedTime(), ImportanceTime()], ids=name)
@pytest.mark.parametrize("process", [VPSDE(), RectifiedFlow(), VESDE()], ids=name)
def test_every_unbiased_sampler_gives_the_same_bound_on_average(process, times):
    """30 batches of 400 random draws: their mean to 5 standard errors, for strata too."""
    bound = VariationalBound(time_sampler=times)
    density, source = gaussian(MEAN, STD), torch.Generator().manual_seed(5)
    denoiser = AnalyticDenoiser(density, process)
    means = torch.stack(
        [bound(denoiser, density.sample(400, source), generator=source).value.mean() for _ in range(30)]
    )
    error = means.std() / math.sqrt(30)
    assert abs(means.mean() - limit(process)) < 5 * error
    assert error < 0.5


def test_strata_and_importance_make_the_estimate_less_noisy():
    density, source = gaussian(MEAN, STD), torch.Generator().manual_seed(5)
    denoiser, x0 = AnalyticDenoiser(density, VPSDE()), density.sample(200 * 64, source)

    def spread(times):
        value = VariationalBound(time_sampler=times)(denoiser, x0, generator=source).value
        return value.reshape(200, 64).mean(1).std()

    uniform = spread(UniformTime())
    assert spread(ImportanceTime()) < uniform / 2


# Mixtures: the bound is one, and close

MIXTURE = GaussianMixture(
    torch.tensor([0.3, 0.7]), torch.tensor([[-1.5, 1.5], [1.0, 1.0]]), torch.tensor([0.09, 0.25])
)


@pytest.mark.parametrize(
    ("process", "num_timesteps", "most"),
    [(p, None, 1e-3) for p in PROCESSES] + [(VESDE(), 1000, 0.1), (SMLDProcess(1000), None, 0.1)],
    ids=lambda v: name(v) if isinstance(v, torch.nn.Module) else str(v),
)
@pytest.mark.one_in(3)
def test_on_a_mixture_the_bound_lies_above_minus_log_p_and_close_to_it_for_the_exact_score(
    process, num_timesteps, most
):
    """500 points, each at 1,000 times; most: what the ends (1e-3) and the levels (0.1) can cost."""
    n, k = 500, 1000
    x0 = MIXTURE.sample(n, torch.Generator().manual_seed(5))
    levels = num_timesteps or process.num_timesteps
    times = PrescribedTime(
        DiscreteTime(num_timesteps) if levels else ImportanceTime(), every_level(k).repeat(n)
    )
    bound, source = VariationalBound(num_timesteps, time_sampler=times), torch.Generator().manual_seed(1)
    value = bound(AnalyticDenoiser(MIXTURE, process), x0.repeat_interleave(k, 0), generator=source).value
    gap = value.reshape(n, k).mean(1) + MIXTURE.log_prob(x0)
    error = gap.std() / math.sqrt(n)
    assert error < 0.06
    assert -5 * error < gap.mean() < 5 * error + most


def test_a_wrong_score_raises_the_bound():
    exact, x0 = AnalyticDenoiser(MIXTURE, VPSDE()), MIXTURE.sample(20_000, torch.Generator().manual_seed(5))
    seeded = lambda d: VariationalBound()(d, x0, generator=torch.Generator().manual_seed(1)).value  # noqa: E731
    excess = seeded(PerturbedDenoiser(exact, lambda x_t: 0.1 * torch.cos(3 * x_t))) - seeded(exact)
    assert excess.mean() > 5 * excess.std() / math.sqrt(20_000)


@pytest.mark.parametrize("num_timesteps", [None, 1000])
def test_with_bins_the_bound_of_grey_levels_is_their_entropy(num_timesteps):
    """Four equally likely values and the exact denoiser: log 4 nats; both to 5 standard errors."""
    process = VESDE(0.01, 50.0)
    n, k = 100, 1000
    times = PrescribedTime(
        DiscreteTime(num_timesteps) if num_timesteps else ImportanceTime(), every_level(k).repeat(n)
    )
    bound, source = (
        VariationalBound(num_timesteps, num_bins=4, time_sampler=times),
        torch.Generator().manual_seed(1),
    )
    x0 = grey(4).repeat(n // 4).repeat_interleave(k)[:, None]
    value = bound(EmpiricalDenoiser(grey(4)[:, None], process), x0, generator=source).value
    value = value.reshape(n, k).mean(1)
    error = value.std() / math.sqrt(n)
    assert error < 0.02
    assert -5 * error < value.mean() - math.log(4) < 5 * error + (0.02 if num_timesteps else 1e-3)


# The likelihood weighting

WRONG = 1.1, 0.9


@every_process
@pytest.mark.parametrize("times", [UniformTime(), ImportanceTime()], ids=name)
def test_the_likelihood_weighted_loss_of_a_wrong_gaussian_is_its_divergence(process, times, expectation):
    """KL(p_0‖q_0) − KL(p_T‖q_T) = ½ D (t_max − t_min) (loss − least loss), theorem 1 with equality, D = 1."""
    u, weights = legendre(300)
    wrong, exact = (
        expectation(
            lambda s: DenoisingScoreMatching(weighting=LikelihoodWeighting(), time_sampler=s),
            times,
            u,
            AnalyticDenoiser(gaussian(*moments), process),
            weights,
        )
        for moments in (WRONG, (MEAN, STD))
    )

    def divergence(t):
        level = process.grid_levels(torch.tensor([t], dtype=D))[0]
        p, q = ((level.alpha * s) ** 2 + level.sigma**2 for s in (STD, WRONG[1]))
        return gaussian_kl(level.alpha * (MEAN - WRONG[0]), p, q)

    expected = divergence(process.t_min) - divergence(process.t_max)
    found = 0.5 * (process.t_max - process.t_min) * (wrong - exact)
    assert found == pytest.approx(expected, rel=1e-6)


@every_process
def test_theorem_1_holds_for_images_to_five_standard_errors(process):
    n, shape = 20_000, (2, 1, 3)
    density, source = gaussian(MEAN, STD, shape), torch.Generator().manual_seed(5)
    x0 = density.sample(n, source)
    objective = DenoisingScoreMatching(weighting=LikelihoodWeighting(), time_sampler=ImportanceTime())
    wrong, exact = (
        objective(AnalyticDenoiser(d, process), x0, generator=torch.Generator().manual_seed(1)).value
        for d in (gaussian(*WRONG, shape), density)
    )
    divergences = []
    for level in process.grid_levels(torch.tensor([process.t_min, process.t_max], dtype=D)):
        p, q = (
            Normal(level.alpha * m, math.hypot(level.alpha * s, level.sigma)) for m, s in ((MEAN, STD), WRONG)
        )
        divergences.append(6 * kl_divergence(p, q).item())
    excess = 0.5 * 6 * (process.t_max - process.t_min) * (wrong - exact)
    assert abs(excess.mean() - (divergences[0] - divergences[1])) < 5 * excess.std() / math.sqrt(n)


@every_process
def test_the_continuous_bound_is_the_likelihood_weighted_loss_plus_its_ends(process):
    x0 = randn(50, 2, 3)
    exact = AnalyticDenoiser(gaussian(MEAN, STD, (2, 3)), process)
    seeded = lambda objective: objective(exact, x0, generator=torch.Generator().manual_seed(1))  # noqa: E731
    loss = seeded(DenoisingScoreMatching(weighting=LikelihoodWeighting(), time_sampler=ImportanceTime()))
    bound = seeded(VariationalBound())
    torch.manual_seed(0)
    first = process.at(torch.full((50,), process.t_min, dtype=D), like=x0)
    source = torch.Generator().manual_seed(1)
    ImportanceTime()(process, 50, generator=source, device=x0.device)
    x_t = first.alpha * x0 + first.sigma * torch.randn(x0.shape, generator=source, dtype=D)
    last = -Normal(exact.predict(x_t, first).x0, first.sigma / first.alpha).log_prob(x0).flatten(1).sum(1)
    expected = 0.5 * 6 * (process.t_max - process.t_min) * loss.value + prior_term(process, x0) + last
    torch.testing.assert_close(bound.value, expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(bound.t, loss.t)


# Everything around it


@pytest.mark.parametrize("bound", [VariationalBound(), VariationalBound(10), VariationalBound(num_bins=16)])
@pytest.mark.parametrize("shape", [(2,), (3, 5), (3, 4, 6)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_there_is_one_bound_and_one_time_per_example(bound, shape, dtype):
    x0 = randn(5, *shape).clamp(-1, 1).to(dtype)
    loss = bound(AnalyticDenoiser(gaussian(0.0, 1.0, shape), VPSDE()), x0, generator=torch.Generator())
    assert loss.value.shape == loss.t.shape == (5,)
    assert loss.value.dtype == dtype


@pytest.mark.one_in(4)
@pytest.mark.parametrize("num_timesteps", [None, 1000])
@pytest.mark.parametrize("num_bins", [None, 256])
@every_process
def test_single_precision_is_that_of_the_data_and_not_of_the_bound(process, num_timesteps, num_bins):
    x0 = grey(256)[torch.randint(256, (500, 4), generator=torch.Generator().manual_seed(3))]
    bound = VariationalBound(num_timesteps, num_bins=num_bins)
    denoiser, number = AnalyticDenoiser(gaussian(MEAN, STD, (4,)), process), num_timesteps or 500
    noise = randn(500, 4)

    def value(dtype):
        times = DiscreteTime(num_timesteps) if num_timesteps else ImportanceTime()
        bound.time_sampler = PrescribedTime(times, every_level(number)[:: number // 500])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("scorelight.objectives.base.randn_like", lambda x, g: noise.to(dtype))
            return bound(denoiser, x0.to(dtype)).value.double()

    torch.testing.assert_close(value(torch.float32), value(D), rtol=2e-4, atol=2e-3)


@pytest.mark.parametrize("bound", [VariationalBound(), VariationalBound(10)])
def test_with_a_generator_each_the_bound_of_an_example_does_not_depend_on_the_batch(bound):
    denoiser, x0 = AnalyticDenoiser(MIXTURE, VPSDE()), randn(8, 2)
    whole = bound(denoiser, x0, generator=PhiloxGenerator(0, range(8)))
    part = bound(denoiser, x0[[6, 1, 3]], generator=PhiloxGenerator(0, [6, 1, 3]))
    assert torch.equal(part.t, whole.t[[6, 1, 3]])
    torch.testing.assert_close(part.value, whole.value[[6, 1, 3]], rtol=1e-12, atol=0)


@pytest.mark.parametrize("bound", [VariationalBound, HybridObjective])
@pytest.mark.parametrize("times", [LogNormalTime(), LogitNormalTime(), FixedTime(0.5)], ids=name)
@pytest.mark.parametrize("wrap", [lambda t: t, StratifiedTime])
def test_a_biased_time_sampler_is_refused_with_those_that_will_do(bound, times, wrap):
    with pytest.raises(ConfigurationError, match=r"Time.*DiscreteTime or LossAwareTime"):
        bound(time_sampler=wrap(times))


MISFITS = [
    (VariationalBound(10, time_sampler=DiscreteTime(11)), VPSDE(), "has 11 timesteps, the bound 10"),
    (
        VariationalBound(10, time_sampler=UniformTime()),
        VPSDE(),
        "no timesteps.*DiscreteTime or LossAwareTime",
    ),
    (VariationalBound(time_sampler=DiscreteTime(11)), VPSDE(), "num_timesteps=11.*ImportanceTime"),
    (VariationalBound(time_sampler=StratifiedTime(DiscreteTime(11))), VPSDE(), "num_timesteps=11"),
    (VariationalBound(time_sampler=DiscreteTime()), VPSDE(), "give DiscreteTime num_timesteps"),
    (VariationalBound(time_sampler=ImportanceTime()), TABLES[0], "no timesteps.*DiscreteTime"),
    (VariationalBound(time_sampler=DiscreteTime(11)), TABLES[0], "has 11 timesteps, the bound 50"),
    (VariationalBound(0), VPSDE(), "num_timesteps=0: at least 2"),
    (VariationalBound(0), TABLES[0], "num_timesteps=0: at least 2"),
    (VariationalBound(1), VPSDE(), "num_timesteps=1: at least 2"),
    (HybridObjective(), VPSDE(), "give HybridObjective num_timesteps"),
    (HybridObjective(num_timesteps=1), TABLES[0], "num_timesteps=1: at least 2"),
    (HybridObjective(num_timesteps=10, time_sampler=LossAwareTime(11)), VPSDE(), "has 11 timesteps"),
    (HybridObjective(num_timesteps=10, time_sampler=UniformTime()), VPSDE(), "DiscreteTime or LossAwareTime"),
]


@pytest.mark.parametrize(("objective", "process", "message"), MISFITS)
def test_levels_that_do_not_match_are_refused_before_training_with_the_remedy(objective, process, message):
    with pytest.raises(ConfigurationError, match=message):
        objective.check(process)


@pytest.mark.parametrize(("process", "num_timesteps"), [*ON_LEVELS, (VPSDE(), None), (LearnedVPSDE(4), None)])
def test_what_fits_is_accepted(process, num_timesteps):
    VariationalBound(num_timesteps).check(process)


@pytest.mark.parametrize("wrong", [dict(variance="medium"), dict(num_bins=1)], ids=str)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        VariationalBound(**wrong)
