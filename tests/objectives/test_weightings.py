"""Weightings against their formulas, written out by hand in each process's own closed form."""

import math

import pytest
import torch
from scipy import integrate, special

from scorelight import (
    EDM,
    MLP,
    VESDE,
    VPSDE,
    X0,
    AnalyticDenoiser,
    ConfigurationError,
    CosineVPSDE,
    DDPMProcess,
    DenoisingScoreMatching,
    EDMWeighting,
    Epsilon,
    EpsilonPrediction,
    FixedTime,
    GaussianMixture,
    ImportanceTime,
    KarrasVESDE,
    LearnedVPSDE,
    LikelihoodWeighting,
    MinSNRWeighting,
    NetworkDenoiser,
    RectifiedFlow,
    Score,
    SigmaSquaredWeighting,
    SigmoidWeighting,
    SMLDProcess,
    SubVPSDE,
    UniformWeighting,
    VPrediction,
    Weighting,
)

D = torch.float64
LEARNED = LearnedVPSDE(8).double().requires_grad_(False)
PROCESSES = [
    VPSDE(),
    SubVPSDE(),
    VESDE(),
    CosineVPSDE(),
    KarrasVESDE(),
    RectifiedFlow(),
    LEARNED,
    DDPMProcess(20, "cosine"),
    SMLDProcess(20),
]
TIMES = [0.05, 0.3, 0.6, 0.95]  # levels of both tables
name = lambda value: type(value).__name__  # noqa: E731
every_process = pytest.mark.parametrize("process", PROCESSES, ids=name)
every_time = pytest.mark.parametrize("t", TIMES)


def linear(t):
    """β and B with the default ends 0.1 and 20."""
    return 0.1 + 19.9 * t, 0.1 * t + 9.95 * t**2


def vp(t):
    beta, b = linear(t)
    return math.exp(-b / 2), math.sqrt(-math.expm1(-b)), beta


def subvp(t):
    beta, b = linear(t)
    return math.exp(-b / 2), -math.expm1(-b), beta * -math.expm1(-2 * b)


def ve(t):
    sigma = 0.01 * 5000**t
    return 1.0, sigma, 2 * math.log(5000) * sigma**2


def cosine(t):
    a = math.pi / 2 * (t + 0.008) / 1.008
    alpha = math.cos(a) / math.cos(math.pi / 2 * 0.008 / 1.008)
    return alpha, math.sqrt(1 - alpha**2), math.pi / 1.008 * math.tan(a)


def karras(t):
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    root = low + t * (high - low)
    return 1.0, root**7, 14 * root**13 * (high - low)


def flow(t):
    return 1 - t, t, 2 * t / (1 - t)


def learned(t):
    t = torch.tensor(t, dtype=D, requires_grad=True)
    gamma = LEARNED.gamma(t)
    (slope,) = torch.autograd.grad(gamma, t)
    variance = special.expit(gamma.item())
    return math.sqrt(special.expit(-gamma.item())), math.sqrt(variance), variance * slope.item()


def ddpm(t):
    """g² = −N log(1 − β_i) in the step that ends at level i."""
    bar = [math.cos((i / 20 + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(21)]
    betas = [min(1 - bar[i + 1] / bar[i], 0.999) for i in range(round(20 * t))]
    product = math.prod(1 - beta for beta in betas)
    return math.sqrt(product), math.sqrt(1 - product), -20 * math.log1p(-betas[-1])


def smld(t):
    """20 levels with 19 steps in between, each of length 1/20."""
    sigma = 0.01 * 5000 ** ((round(20 * t) - 1) / 19)
    return 1.0, sigma, 2 * math.log(5000) * 20 / 19 * sigma**2


BY_HAND = {
    "VPSDE": vp,
    "SubVPSDE": subvp,
    "VESDE": ve,
    "CosineVPSDE": cosine,
    "KarrasVESDE": karras,
    "RectifiedFlow": flow,
    "LearnedVPSDE": learned,
    "DDPMProcess": ddpm,
    "SMLDProcess": smld,
}


def edm(alpha, sigma, g2, s=0.5):
    """(r² + s²)/(r s)² with r = σ/α."""
    r = sigma / alpha
    return (r**2 + s**2) / (r * s) ** 2


def sigmoid(alpha, sigma, g2, bias=2.0):
    log_snr = 2 * math.log(alpha / sigma)
    return special.expit(bias - log_snr) * g2 / sigma**2


SCORE, EPSILON, CLEAN = (
    lambda alpha, sigma: 1 / sigma,
    lambda alpha, sigma: 1.0,
    lambda alpha, sigma: sigma / alpha,
)
# each with its formula and the size of a residual of its space relative to epsilon's
WEIGHTINGS = [
    (UniformWeighting(), lambda alpha, sigma, g2: 1.0, SCORE),
    (SigmaSquaredWeighting(), lambda alpha, sigma, g2: sigma**2, SCORE),
    (LikelihoodWeighting(), lambda alpha, sigma, g2: g2, SCORE),
    (MinSNRWeighting(), lambda alpha, sigma, g2: min((alpha / sigma) ** 2, 5.0), CLEAN),
    (MinSNRWeighting(0.3), lambda alpha, sigma, g2: min((alpha / sigma) ** 2, 0.3), CLEAN),
    (EDMWeighting(), edm, CLEAN),
    (EDMWeighting(1.5), lambda *level: edm(*level, s=1.5), CLEAN),
    (SigmoidWeighting(), sigmoid, EPSILON),
    (SigmoidWeighting(-1.0), lambda *level: sigmoid(*level, bias=-1.0), EPSILON),
]
every_weighting = pytest.mark.parametrize(
    ("weighting", "formula", "relative"),
    WEIGHTINGS,
    ids=lambda v: name(v) if isinstance(v, Weighting) else "",
)


@every_process
@every_weighting
@pytest.mark.one_in(4)
def test_weights_are_those_of_the_formula_for_levels_of_floats_and_of_tensors(
    process, weighting, formula, relative
):
    t = torch.tensor(TIMES, dtype=D)
    exact = [formula(*BY_HAND[name(process)](time)) for time in TIMES]
    for level, expected in zip(process.grid_levels(t), exact, strict=True):
        found = weighting(level)
        assert isinstance(found, float)
        assert found == pytest.approx(expected, rel=1e-11)
    for dtype, rtol in ((D, 1e-11), (torch.float32, 2e-5)):
        like = torch.zeros(len(t), 3, 1, dtype=dtype)
        found = torch.as_tensor(weighting(process.at(t, like)), dtype=dtype)
        assert found.shape in ((4, 1, 1), ())
        expected = torch.tensor(exact, dtype=dtype).reshape(-1, 1, 1)
        torch.testing.assert_close(found.expand(4, 1, 1), expected, rtol=rtol, atol=0)


def network(process, dtype=D):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MLP((3, 2), width=16, depth=1)
        torch.nn.init.normal_(net.last.weight, std=0.1)
    return NetworkDenoiser(net.to(dtype), process, Epsilon())


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


def losses(process, *objectives):
    x0 = torch.randn(20, 3, 2, generator=seeded(2), dtype=D)
    return [objective(network(process), x0, generator=seeded()).value for objective in objectives]


@every_process
@every_weighting
@every_time
@pytest.mark.one_in(25)
def test_the_loss_is_in_the_units_that_the_paper_states(process, weighting, formula, relative, t):
    found, epsilon = losses(
        process, DenoisingScoreMatching(None, weighting, FixedTime(t)), EpsilonPrediction(FixedTime(t))
    )
    alpha, sigma, g2 = BY_HAND[name(process)](t)
    expected = formula(alpha, sigma, g2) * relative(alpha, sigma) ** 2 * epsilon
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


@every_weighting
def test_in_a_space_of_ones_own_the_weight_is_taken_as_it_is(weighting, formula, relative):
    found, epsilon = losses(
        VPSDE(),
        DenoisingScoreMatching(Epsilon(), weighting, FixedTime(0.3)),
        EpsilonPrediction(FixedTime(0.3)),
    )
    torch.testing.assert_close(found, formula(*vp(0.3)) * epsilon, rtol=1e-9, atol=0)


SAME = [
    (EDMWeighting(0.5), EDM(0.5), UniformWeighting()),
    (EDMWeighting(2.0), EDM(2.0), UniformWeighting()),
    (SigmaSquaredWeighting(), Epsilon(), UniformWeighting()),
    (MinSNRWeighting(math.inf), Epsilon(), UniformWeighting()),
    (EDMWeighting(math.inf), Epsilon(), UniformWeighting()),
    (SigmoidWeighting(700.0), Score(), LikelihoodWeighting()),
]


@every_process
@pytest.mark.parametrize(("weighting", "space", "plain"), SAME, ids=lambda v: name(v))
@pytest.mark.one_in(3)
def test_a_weighting_is_the_loss_of_another_space_with_a_simpler_one(process, weighting, space, plain):
    found, expected = losses(
        process, DenoisingScoreMatching(None, weighting), DenoisingScoreMatching(space, plain)
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("process", [VPSDE(), CosineVPSDE(), LEARNED, DDPMProcess(20, "cosine")], ids=name)
def test_where_the_variance_is_preserved_edm_weights_of_unit_data_are_those_of_v_prediction(process):
    found, expected = losses(
        process,
        DenoisingScoreMatching(None, EDMWeighting(1.0)),
        DenoisingScoreMatching(VPrediction(), UniformWeighting()),
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


HIGH, LOW = 6.0, -4.0


def between(cls, **kwargs):
    """The process of this class, cut off where log SNR is 6 and −4."""
    t_min, t_max = cls(**kwargs).time_of_log_snr(torch.tensor([HIGH, LOW], dtype=D)).tolist()
    return cls(t_min=t_min, t_max=t_max, **kwargs)


CUT = [
    between(VPSDE),
    between(VPSDE, beta_min=2.0, beta_max=9.0),
    between(SubVPSDE),
    between(VESDE),
    between(CosineVPSDE),
    between(KarrasVESDE),
    between(RectifiedFlow),
    LearnedVPSDE(8, HIGH, LOW).double().requires_grad_(False),
]
cut = pytest.mark.parametrize("process", CUT[1:], ids=name)


def at_uniform_log_snr(process, weighting):
    """(t_max − t_min) times the loss of each example: its expectation is an integral over [t_min, t_max]."""
    (loss,) = losses(process, DenoisingScoreMatching(None, weighting, ImportanceTime()))
    return (process.t_max - process.t_min) * loss


@cut
@pytest.mark.parametrize("weighting", [SigmoidWeighting(), LikelihoodWeighting()], ids=name)
def test_weights_of_log_snr_give_every_process_the_same_objective_example_by_example(process, weighting):
    first, other = (at_uniform_log_snr(p, weighting) for p in (CUT[0], process))
    torch.testing.assert_close(other, first, rtol=1e-5 if isinstance(process, LearnedVPSDE) else 1e-9, atol=0)


@cut
@pytest.mark.parametrize("weighting", [SigmaSquaredWeighting(), EDMWeighting(), MinSNRWeighting()], ids=name)
def test_weights_of_the_level_at_uniform_t_do_not(process, weighting):
    first, other = (at_uniform_log_snr(p, weighting) for p in (CUT[0], process))
    assert (other / first - 1).abs().max() > 0.1


@pytest.mark.one_in(4)
@pytest.mark.parametrize("process", CUT, ids=name)
@pytest.mark.parametrize("bias", [-2.0, 0.0, 2.0])
def test_the_sigmoid_weighting_is_a_sigmoid_of_log_snr_after_the_change_of_variables(process, bias):
    """∫ λ(t) R dt = ∫ sigmoid(bias − l) R(l) dl for a residual R that depends on l = log SNR."""
    residual = lambda log_snr: 1 / (1 + math.exp(0.7 * log_snr - 0.3))  # noqa: E731

    def integrand(t):
        (level,) = process.grid_levels(torch.tensor([t], dtype=D))
        return SigmoidWeighting(bias)(level) * residual(level.log_snr)

    over_t, _ = integrate.quad(integrand, process.t_min, process.t_max, epsrel=1e-8, limit=200)
    over_log_snr, _ = integrate.quad(lambda x: special.expit(bias - x) * residual(x), LOW, HIGH)
    assert over_t == pytest.approx(over_log_snr, rel=1e-6)


def test_half_the_weight_is_at_the_bias():
    process = between(VPSDE)
    (level,) = process.grid_levels(process.time_of_log_snr(torch.tensor([2.0], dtype=D)))
    assert SigmoidWeighting(2.0)(level) == pytest.approx(0.5 * level.g2 / level.sigma**2, rel=1e-12)


def kl(p, q):
    """KL(N(0, p) ‖ N(0, q)) in nats."""
    return 0.5 * (p / q - 1 - math.log(p / q))


@pytest.mark.parametrize("process", [p for p in PROCESSES if p.num_timesteps is None], ids=name)
@pytest.mark.parametrize("wrong", [0.3, 4.0])
def test_half_of_the_likelihood_weighted_excess_over_all_dimensions_is_the_kl_divergence_it_bounds(
    process, wrong
):
    """Song et al. (2021), theorem 1: an equality for the score of a Gaussian of the wrong variance.

    ½ D (t_max − t_min) (L − L_best) = KL(p ‖ q) at t_min less that at t_max.
    """
    n, dim, variance = 20_000, 3, 1.2
    x0 = math.sqrt(variance) * torch.randn(n, dim, generator=seeded(3), dtype=D)
    objective = DenoisingScoreMatching(None, LikelihoodWeighting(), ImportanceTime())
    right, false = (
        objective(AnalyticDenoiser(gaussian(v, dim), process), x0, generator=seeded()).value
        for v in (variance, wrong)
    )
    excess = 0.5 * dim * (process.t_max - process.t_min) * (false - right)
    first, last = process.grid_levels(torch.tensor([process.t_min, process.t_max], dtype=D))
    bound = [
        dim * kl(v.alpha**2 * variance + v.sigma**2, v.alpha**2 * wrong + v.sigma**2) for v in (first, last)
    ]
    assert abs(excess.mean() - (bound[0] - bound[1])) < 5 * excess.std() / math.sqrt(n)
    assert bound[0] - bound[1] > 10 * excess.std() / math.sqrt(n)


def gaussian(variance, dim):
    return GaussianMixture(torch.ones(1), torch.zeros(1, dim), torch.tensor([variance], dtype=D))


def test_the_spaces_are_those_of_the_papers():
    spaces = {name(weighting): name(weighting.space) for weighting, *_ in WEIGHTINGS}
    assert spaces == {
        "UniformWeighting": "Score",
        "SigmaSquaredWeighting": "Score",
        "LikelihoodWeighting": "Score",
        "MinSNRWeighting": "X0",
        "EDMWeighting": "X0",
        "SigmoidWeighting": "Epsilon",
    }
    assert isinstance(DenoisingScoreMatching(None, MinSNRWeighting()).space, X0)


WRONG = [
    (MinSNRWeighting, dict(gamma=0.0), "gamma=0.0: must be positive"),
    (MinSNRWeighting, dict(gamma=math.nan), "gamma=nan: must be positive"),
    (EDMWeighting, dict(sigma_data=-0.5), "sigma_data=-0.5: must be positive"),
    (EDMWeighting, dict(sigma_data=math.nan), "sigma_data=nan: must be positive"),
    (SigmoidWeighting, dict(bias=math.nan), "bias=nan: a log SNR from -700 to 700 is needed"),
    (SigmoidWeighting, dict(bias=-701.0), "bias=-701.0: a log SNR from -700 to 700 is needed"),
]


@pytest.mark.parametrize(("cls", "arguments", "message"), WRONG, ids=str)
def test_what_cannot_be_is_refused(cls, arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        cls(**arguments)
