"""Times on a continuum: their distributions against scipy and closed forms in 50 digits."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate, stats

from scorelight import (
    MLP,
    VESDE,
    VPSDE,
    ConfigurationError,
    CosineVPSDE,
    DDPMProcess,
    DenoisingScoreMatching,
    DiscreteTime,
    Epsilon,
    FixedTime,
    ImportanceTime,
    KarrasVESDE,
    LearnedVPSDE,
    LikelihoodWeighting,
    LogitNormalTime,
    LogNormalTime,
    NetworkDenoiser,
    RectifiedFlow,
    SMLDProcess,
    StratifiedTime,
    SubVPSDE,
    UniformTime,
)
from scorelight.rng import PhiloxGenerator
from scorelight.storage.component import spec

D = torch.float64
CPU = torch.device("cpu")
PROCESSES = [VPSDE(), SubVPSDE(), VESDE(), VPSDE(t_min=1e-5, t_max=0.7), VESDE(t_min=0.1, t_max=0.9)]
ALL = [
    *PROCESSES,
    CosineVPSDE(),
    KarrasVESDE(),
    RectifiedFlow(),
    LearnedVPSDE(8),
    DDPMProcess(),
    SMLDProcess(50),
]
named = lambda p: f"{type(p).__name__}{list(p._init_args.values())}"  # noqa: E731
every_process = pytest.mark.parametrize("process", PROCESSES, ids=named)
all_processes = pytest.mark.parametrize("process", ALL, ids=named)
per_example = pytest.mark.parametrize("per_example", [False, True])
U = torch.cat(
    [
        torch.logspace(-12, -2, 41, dtype=D),
        torch.linspace(0.02, 0.98, 49, dtype=D),
        1 - torch.logspace(-2, -8, 7),
    ]
)


def follows(values, cdf):
    return stats.kstest(values.numpy(), cdf).pvalue > 6e-7  # 5 standard errors, two-sided


def ends(process):
    with torch.no_grad():
        return process.at(torch.tensor([process.t_min, process.t_max], dtype=D))


def draw(sampler, process, num, generator):
    with torch.no_grad():
        return sampler(process, num, generator=generator, device=CPU)


# uniform


@every_process
@per_example
def test_uniform_times_are_uniform_between_t_min_and_t_max(process, per_example, generator):
    source = PhiloxGenerator(0, range(4000)) if per_example else generator
    t, weight = UniformTime()(process, 4000, generator=source, device=CPU)
    assert t.shape == weight.shape == (4000,) and t.dtype == weight.dtype == D
    assert process.t_min <= t.min() and t.max() <= process.t_max
    assert follows(t, stats.uniform(process.t_min, process.t_max - process.t_min).cdf)


def test_uniform_times_are_not_reweighted(generator):
    _, weight = UniformTime()(VPSDE(), 100, generator=generator, device=CPU)
    assert (weight == 1).all()


# stratified


@pytest.mark.parametrize("process", [VPSDE(), VESDE(t_min=0.1, t_max=0.9)], ids=named)
@pytest.mark.parametrize("num", [1, 2, 7, 1000])
def test_each_of_as_many_slices_as_examples_is_hit_once(process, num, generator):
    for _ in range(20):
        t, weight = draw(StratifiedTime(), process, num, generator)
        share = (t - process.t_min) / (process.t_max - process.t_min)
        assert torch.equal((share * num).long().sort().values, torch.arange(num))
        assert (weight == 1).all()


@pytest.mark.parametrize("num", [4, 50])
def test_with_as_many_examples_as_levels_each_level_is_hit_once(num, generator):
    process = SMLDProcess(num)
    for _ in range(20):
        t, _ = draw(StratifiedTime(DiscreteTime()), process, num, generator)
        assert torch.equal((t * num).round().long().sort().values, torch.arange(1, num + 1))


def test_slices_of_importance_sampled_times_are_slices_of_log_snr(generator):
    process = SubVPSDE()
    t, weight = draw(StratifiedTime(ImportanceTime()), process, 100, generator)
    first, last = ends(process).log_snr
    share = (first - process.at(t).log_snr) / (first - last)
    assert torch.equal((share * 100).long().sort().values, torch.arange(100))
    share = share.clamp(0, 1)
    torch.testing.assert_close(weight, ImportanceTime().quantile(process, share)[1], rtol=1e-9, atol=0)


@pytest.mark.parametrize("times", [None, LogNormalTime()], ids=["uniform", "log-normal"])
def test_the_time_of_each_place_in_the_batch_is_distributed_as_without_slices(times, generator):
    process, sampler = VESDE(t_max=0.8), StratifiedTime(times)
    batches = torch.stack([draw(sampler, process, 3, generator)[0] for _ in range(2000)])
    grid = torch.linspace(0, 1, 4001, dtype=D)
    quantile = (times or UniformTime()).quantile(process, grid)[0]
    for place in batches.T:
        assert follows(place, lambda t: np.interp(t, quantile.numpy(), grid.numpy()))


@pytest.mark.parametrize("num", [4, 32])
def test_the_mean_of_a_stratified_batch_varies_less_by_the_number_of_its_examples(num, generator):
    """Var = 1/(12 B²) against 1/(12 B) (t_max − t_min)²; the variance of a uniform has s.e. sqrt(0.8/n)."""
    process, repeats = VESDE(t_min=0.2, t_max=0.7), 2000
    for sampler, expected, excess in (
        (UniformTime(), 1 / (12 * num), 2 - 1.2 / num),
        (StratifiedTime(), 1 / (12 * num**2), 0.8),
    ):
        means = torch.stack([draw(sampler, process, num, generator)[0].mean() for _ in range(repeats)])
        ratio = means.var().item() / (0.25 * expected)
        assert abs(ratio - 1) < 5 * math.sqrt(excess / repeats)


def test_with_a_generator_each_stratified_times_are_those_without_slices():
    draws = [draw(s, VPSDE(), 9, PhiloxGenerator(3, range(9))) for s in (StratifiedTime(), UniformTime())]
    assert torch.equal(draws[0][0], draws[1][0])


def test_stratified_times_are_written_with_what_they_wrap():
    written = spec(StratifiedTime(LogNormalTime(std=2.0)))["init_args"]["times"]
    assert written == {"class_path": "scorelight.LogNormalTime", "init_args": {"std": 2.0}}


# log-normal, logit-normal, fixed


def truncated(mean, std, low, high):
    return stats.truncnorm((low - mean) / std, (high - mean) / std, mean, std)


@all_processes
@pytest.mark.parametrize(("mean", "std"), [(-1.2, 1.2), (0.5, 0.3), (-6.0, 2.0), (0.0, 30.0)])
@pytest.mark.one_in(3)
def test_the_log_of_sigma_over_alpha_is_the_truncated_normal_of_scipy(process, mean, std):
    low, high = (-0.5 * ends(process).log_snr).tolist()
    with torch.no_grad():
        t, _ = LogNormalTime(mean, std).quantile(process, U)
        found = -0.5 * process.at(t).log_snr
    torch.testing.assert_close(
        found, torch.from_numpy(truncated(mean, std, low, high).ppf(U)), rtol=0, atol=1e-9
    )


@all_processes
def test_random_log_normal_times_pass_the_test_of_kolmogorov_and_smirnov(process, generator):
    low, high = (-0.5 * ends(process).log_snr).tolist()
    t, _ = draw(LogNormalTime(), process, 2000, generator)
    with torch.no_grad():
        assert follows(-0.5 * process.at(t).log_snr, truncated(-1.2, 1.2, low, high).cdf)


@all_processes
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.5, 0.5), (-3.0, 4.0)])
def test_the_logit_of_t_is_the_truncated_normal_of_scipy(process, mean, std, generator):
    limits = (
        math.log(t / (1 - t)) if 0 < t < 1 else (2 * t - 1) * math.inf for t in (process.t_min, process.t_max)
    )
    exact = truncated(mean, std, *limits)
    t, _ = LogitNormalTime(mean, std).quantile(process, U)
    torch.testing.assert_close(t, torch.from_numpy(exact.ppf(U)).sigmoid(), rtol=1e-9, atol=0)
    assert follows(draw(LogitNormalTime(mean, std), process, 2000, generator)[0].logit(), exact.cdf)


def test_the_defaults_are_those_of_karras_and_of_esser():
    assert (LogNormalTime().mean, LogNormalTime().std) == (-1.2, 1.2)
    median, _ = LogNormalTime().quantile(KarrasVESDE(), torch.tensor([0.5], dtype=D))
    assert KarrasVESDE().sigma(median).item() == pytest.approx(
        math.exp(-1.2), rel=1e-3
    )  # the tails are cut off
    assert LogitNormalTime().quantile(VESDE(), torch.tensor([0.5], dtype=D))[0].item() == pytest.approx(0.5)


@all_processes
def test_one_noise_level_is_the_time_or_the_ratio_asked_for(process):
    u = torch.rand(5, dtype=D)
    with torch.no_grad():
        assert (FixedTime(t=0.4).quantile(process, u)[0] == 0.4).all()
        t, weight = FixedTime(sigma=0.7).quantile(process, u)
        level = process.at(t)
    torch.testing.assert_close(level.sigma / level.alpha, torch.full_like(u, 0.7), rtol=1e-12, atol=0)
    assert (weight == 1).all()


@all_processes
def test_the_ends_of_the_process_are_noise_levels_too(process):
    level = ends(process)
    u = torch.rand(2, dtype=D)
    for t, ratio in zip(level.time.tolist(), (level.sigma / level.alpha).tolist(), strict=True):
        assert (FixedTime(t=t).quantile(process, u)[0] == t).all()
        found, _ = FixedTime(sigma=ratio).quantile(process, u)
        torch.testing.assert_close(found, torch.full_like(u, t), rtol=1e-9, atol=1e-12)


WRONG = [
    (FixedTime, dict(), "give one of the two"),
    (FixedTime, dict(t=0.1, sigma=0.1), "give one of the two"),
    (FixedTime, dict(sigma=0.0), "sigma=0.0: must be positive"),
    (FixedTime, dict(sigma=math.nan), "sigma=nan: must be positive"),
    (LogNormalTime, dict(std=0.0), "std=0.0: must be positive"),
    (LogitNormalTime, dict(std=-1.0), "std=-1.0: must be positive"),
    (LogitNormalTime, dict(std=math.nan), "std=nan: must be positive"),
]


@pytest.mark.parametrize(("cls", "arguments", "message"), WRONG, ids=str)
def test_what_cannot_be_is_refused(cls, arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        cls(**arguments)


# importance


LINEAR = [VPSDE(t_min=1e-5), SubVPSDE(t_min=1e-5), VPSDE(3.0, 3.0, t_min=1e-5), SubVPSDE(1.0, 5.0, t_max=0.9)]
linear = pytest.mark.parametrize("process", LINEAR, ids=named)


def log_odds(process, t):
    """∫ g²/σ² in 50 digits, up to a constant: log(e^B − 1) for VP and 2 log sinh(B/2) for sub-VP."""
    low, high = mpmath.mpf(process.beta_min), mpmath.mpf(process.beta_max)
    integral = low * t + (high - low) * mpmath.mpf(t) ** 2 / 2
    if type(process) is VPSDE:
        return mpmath.log(mpmath.expm1(integral))
    return 2 * mpmath.log(mpmath.sinh(integral / 2))


def rate(process, t):
    """g²/σ² in 50 digits: β/(1 − e^−B) for VP and β (1 − e^−2B)/(1 − e^−B)² for sub-VP."""
    low, high = mpmath.mpf(process.beta_min), mpmath.mpf(process.beta_max)
    beta = low + (high - low) * t
    kept = mpmath.exp(-(low * t + (high - low) * mpmath.mpf(t) ** 2 / 2))
    return beta / (1 - kept) if type(process) is VPSDE else beta * (1 - kept**2) / (1 - kept) ** 2


@linear
def test_importance_sampled_times_and_weights_have_twelve_digits_down_to_the_smallest(process):
    u = U[::3]
    t, weight = ImportanceTime().quantile(process, u)
    with mpmath.workdps(50):
        first, last = log_odds(process, process.t_min), log_odds(process, process.t_max)
        for share, time, found in zip(u.tolist(), t.tolist(), weight.tolist(), strict=True):
            cdf = (log_odds(process, time) - first) / (last - first)
            assert float(cdf) == pytest.approx(share, abs=2e-13)
            exact = (last - first) / (rate(process, time) * (mpmath.mpf(process.t_max) - process.t_min))
            assert found == pytest.approx(float(exact), rel=1e-11)


@linear
def test_random_importance_sampled_times_follow_the_closed_form(process, generator):
    t, _ = draw(ImportanceTime(), process, 1000, generator)
    first, last = log_odds(process, process.t_min), log_odds(process, process.t_max)
    assert follows(t, np.vectorize(lambda x: float((log_odds(process, x) - first) / (last - first))))


@pytest.mark.parametrize(("make", "z"), [(VPSDE, 23.864), (SubVPSDE, 37.679)])
def test_the_normalizing_constant_is_the_published_one(make, z):
    """w p (t_max − t_min) = 1 with p = (g²/σ²)/Z."""
    process = make(t_min=1e-5)
    t, weight = ImportanceTime().quantile(process, U)
    level = process.at(t)
    found = weight * level.g2 / level.sigma**2 * (1 - 1e-5)
    torch.testing.assert_close(found, torch.full_like(found, z), rtol=0, atol=5e-4)


@pytest.mark.parametrize(
    "process", [VESDE(), VESDE(0.2, 3.0, t_min=0.1, t_max=0.9), SMLDProcess(50)], ids=named
)
def test_where_sigma_is_geometric_importance_sampled_times_are_the_uniform_ones(process):
    for found, expected in zip(
        ImportanceTime().quantile(process, U), UniformTime().quantile(process, U), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)


HAND_MADE = {
    "CosineVPSDE": lambda t: math.pi / 1.008 * math.tan(a := math.pi / 2 * (t + 0.008) / 1.008)
    / (1 - (math.cos(a) / math.cos(math.pi / 2 * 0.008 / 1.008)) ** 2),
    "KarrasVESDE": lambda t: 14 / (t + 0.002 ** (1 / 7) / (80 ** (1 / 7) - 0.002 ** (1 / 7))),
    "RectifiedFlow": lambda t: 2 / (t * (1 - t)),
}  # fmt: skip


@pytest.mark.parametrize("process", [CosineVPSDE(), KarrasVESDE(), RectifiedFlow()], ids=named)
def test_the_share_of_g_squared_over_sigma_squared_before_a_time_is_its_quantile(process):
    """By quadrature of g²/σ² written out by hand."""
    u = torch.tensor([1e-6, 0.01, 0.2, 0.5, 0.9, 0.999], dtype=D)
    t, weight = ImportanceTime().quantile(process, u)
    density = HAND_MADE[type(process).__name__]

    def mass(end):
        start = process.t_min
        pieces = np.geomspace(start, end, 12) if start else np.linspace(start, end, 12)
        parts = (
            integrate.quad(density, a, b, epsabs=1e-14, epsrel=1e-13)[0]
            for a, b in itertools.pairwise(pieces)
        )
        return math.fsum(parts)

    whole = mass(process.t_max)
    for share, time, found in zip(u.tolist(), t.tolist(), weight.tolist(), strict=True):
        assert mass(time) / whole == pytest.approx(share, abs=1e-11)
        assert found == pytest.approx(whole / density(time) / (process.t_max - process.t_min), rel=1e-10)


@pytest.mark.parametrize("process", [LearnedVPSDE(8), DDPMProcess(20, "cosine")], ids=named)
def test_log_snr_is_uniform_under_a_learned_schedule_and_under_a_table(process, generator):
    t, _ = draw(ImportanceTime(), process, 2000, generator)
    with torch.no_grad():
        last, first = ends(process).log_snr.flip(0).tolist()
        assert follows(process.at(t).log_snr, stats.uniform(last, first - last).cdf)


# what importance sampling is for


class Zero(torch.nn.Module):
    def forward(self, x, noise_label, **cond):
        return torch.zeros_like(x)


LIKELIHOOD = {
    s: DenoisingScoreMatching(None, LikelihoodWeighting(), s()) for s in (UniformTime, ImportanceTime)
}


@pytest.mark.parametrize("process", [VPSDE(), SubVPSDE(), CosineVPSDE(), RectifiedFlow()], ids=named)
def test_the_variance_of_the_loss_of_a_zero_output_is_the_closed_form(process, generator):
    """The loss is w r mean_d ε² with r = g²/σ², w = 1 at uniform t and w r constant with importance."""
    num, dim = 100_000, 4
    process = type(process)(t_min=0.02, t_max=0.98)
    t = process.t_min + (process.t_max - process.t_min) * (torch.arange(100_000, dtype=D) + 0.5) / 100_000
    level = process.at(t)
    r = level.g2 / level.sigma**2
    mean, square = r.mean(), (1 + 2 / dim) * r.square().mean()
    denoiser, x0 = NetworkDenoiser(Zero(), process, Epsilon()), torch.zeros(num, dim, dtype=D)
    exact = {UniformTime: square - mean**2, ImportanceTime: mean**2 * 2 / dim}
    for sampler, objective in LIKELIHOOD.items():
        loss = objective(denoiser, x0, generator=generator).value
        assert abs(loss.mean() - mean) < 5 * loss.std() / math.sqrt(num)
        squared = (loss - mean).square()
        assert abs(squared.mean() - exact[sampler]) < 5 * squared.std() / math.sqrt(num)
    assert exact[UniformTime] > 1.5 * exact[ImportanceTime]


def network(process):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MLP((2,), width=16, depth=1)
        torch.nn.init.normal_(net.last.weight, std=0.1)
    return NetworkDenoiser(net, process, Epsilon())


def variance_of_the_gradient(objective, denoiser, generator, num=100_000):
    """Trace of the covariance of an example's gradient in the last bias, and its standard error."""
    outputs = []
    hook = denoiser.network.last.register_forward_hook(lambda *call: outputs.append(call[-1]))
    x0 = torch.randn(num, 2, generator=generator).sign() + 0.3 * torch.randn(num, 2, generator=generator)
    (gradient,) = torch.autograd.grad(objective(denoiser, x0, generator=generator).value.sum(), outputs)
    hook.remove()
    squared = (gradient - gradient.mean(0)).double().square().sum(1)
    return squared.mean().item(), (squared.std() / math.sqrt(num)).item()


@pytest.mark.parametrize("process", [VPSDE(), SubVPSDE(), CosineVPSDE(), RectifiedFlow()], ids=named)
def test_importance_sampling_makes_the_variance_of_the_gradient_three_times_smaller(process, generator):
    """The factors are 5 to 12; 3 is exceeded by 5 standard errors."""
    denoiser = network(process)
    (uniform, a), (importance, b) = (
        variance_of_the_gradient(o, denoiser, generator) for o in LIKELIHOOD.values()
    )
    assert uniform - 3 * importance > 5 * math.hypot(a, 3 * b)


def test_under_ve_importance_sampling_changes_nothing():
    losses = [
        o(network(VESDE()), torch.ones(9, 2), generator=PhiloxGenerator(0, range(9)))
        for o in LIKELIHOOD.values()
    ]
    torch.testing.assert_close(losses[0].value, losses[1].value, rtol=1e-5, atol=0)
    torch.testing.assert_close(losses[0].t, losses[1].t, rtol=1e-12, atol=0)
