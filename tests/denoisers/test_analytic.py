import math

import mpmath
import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from scorelight import (
    VESDE,
    VPSDE,
    AnalyticDenoiser,
    ConfigurationError,
    EmpiricalDenoiser,
    GaussianMixture,
    SubVPSDE,
)
from scorelight.denoisers.analytic import posterior_mean
from scorelight.rng import PhiloxGenerator

D = torch.float64
PROCESSES = [VPSDE(), SubVPSDE(), VESDE()]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
SHAPES = pytest.mark.parametrize("shape", [(1,), (3,), (2, 3, 2)], ids=str)
LEVELS = pytest.mark.parametrize(("alpha", "sigma"), [(1.0, 0.0), (0.7, 0.4), (0.01, 1.0), (1.0, 20.0)])


def parameters(shape, generator, k=4):
    d = math.prod(shape)
    weights = torch.rand(k, dtype=D, generator=generator) + 0.1
    means = torch.randn(k, *shape, dtype=D, generator=generator)
    roots = torch.randn(k, d, d, dtype=D, generator=generator)
    return weights, means, roots @ roots.mT / d + 0.2 * torch.eye(d, dtype=D)


def torch_mixture(weights, means, covariances, alpha, sigma):
    noise = sigma**2 * torch.eye(covariances.shape[-1], dtype=D)
    components = MultivariateNormal(alpha * means.flatten(1), alpha**2 * covariances + noise)
    return MixtureSameFamily(Categorical(weights), components)


@SHAPES
@LEVELS
def test_log_prob_is_that_of_torch_distributions(shape, alpha, sigma, generator):
    given = parameters(shape, generator)
    x = alpha * torch.randn(20, *shape, dtype=D, generator=generator)
    expected = torch_mixture(*given, alpha, sigma).log_prob(x.flatten(1))
    torch.testing.assert_close(
        GaussianMixture(*given).log_prob(x, alpha, sigma), expected, rtol=1e-10, atol=1e-10
    )


@SHAPES
@LEVELS
def test_score_is_the_gradient_of_the_log_prob_of_torch_distributions(shape, alpha, sigma, generator):
    given = parameters(shape, generator)
    x = torch.randn(20, *shape, dtype=D, generator=generator).requires_grad_()
    log_prob = torch_mixture(*given, alpha, sigma).log_prob(x.flatten(1))
    (expected,) = torch.autograd.grad(log_prob.sum(), x)
    score = GaussianMixture(*given).score(x, alpha, sigma)
    torch.testing.assert_close(score, expected, rtol=1e-9, atol=1e-9)


def test_log_prob_of_the_data_is_the_default(generator):
    mixture = GaussianMixture(*parameters((2,), generator))
    x = torch.randn(5, 2, dtype=D, generator=generator)
    assert torch.equal(mixture.log_prob(x), mixture.log_prob(x, 1.0, 0.0))
    assert torch.equal(mixture.score(x), mixture.score(x, 1.0, 0.0))


@SHAPES
@pytest.mark.parametrize("quantity", ["log_prob", "score"])
def test_every_example_may_have_its_own_level(shape, quantity, generator):
    function = getattr(GaussianMixture(*parameters(shape, generator)), quantity)
    x = torch.randn(5, *shape, dtype=D, generator=generator)
    alpha, sigma = torch.rand(2, 5, dtype=D, generator=generator) + 0.1
    alone = [function(x[i : i + 1], alpha[i].item(), sigma[i].item()) for i in range(5)]
    torch.testing.assert_close(function(x, alpha, sigma), torch.cat(alone))


@SHAPES
def test_variances_stand_for_isotropic_covariances(shape, generator):
    weights, means, _ = parameters(shape, generator)
    variances = torch.tensor([0.1, 0.5, 1.0, 2.0], dtype=D)
    covariances = variances[:, None, None] * torch.eye(math.prod(shape), dtype=D)
    x = torch.randn(5, *shape, dtype=D, generator=generator)
    short, full = GaussianMixture(weights, means, variances), GaussianMixture(weights, means, covariances)
    torch.testing.assert_close(short.score(x), full.score(x))


def test_log_prob_integrates_to_one():
    mixture = GaussianMixture(
        torch.tensor([1.0, 3.0]), torch.tensor([[-1.0], [2.0]]), torch.tensor([0.2, 0.5])
    )
    x = torch.linspace(-10, 12, 4001, dtype=D)
    assert torch.trapezoid(mixture.log_prob(x[:, None]).exp(), x).item() == pytest.approx(1, abs=1e-12)


@every_process
@pytest.mark.parametrize("t", [0.05, 0.3, 0.8])
def test_posterior_mean_agrees_with_quadrature(process, t):
    weights, means, variances = torch.tensor([[0.2, 0.5, 0.3], [-1.0, 0.5, 2.0], [0.1, 0.4, 0.05]], dtype=D)
    level = process.grid_levels(torch.tensor([t], dtype=D))[0]
    x_t = level.alpha * torch.linspace(-2, 3, 11, dtype=D)[:, None]
    # sums over a grid much finer than the posterior, which is never narrower than 0.01, are exact
    x0 = torch.linspace(-8, 8, 16_001, dtype=D)
    prior = (weights / variances.sqrt() * torch.exp(-((x0[:, None] - means) ** 2) / (2 * variances))).sum(1)
    posterior = prior * torch.exp(-((x_t - level.alpha * x0) ** 2) / (2 * level.sigma**2))
    expected = (posterior * x0).sum(1, keepdim=True) / posterior.sum(1, keepdim=True)
    denoiser = AnalyticDenoiser(GaussianMixture(weights, means[:, None], variances), process)
    torch.testing.assert_close(denoiser.predict(x_t, level).x0, expected, rtol=0, atol=1e-9)


@SHAPES
def test_samples_have_the_moments_of_the_mixture(shape, generator):
    weights, means, covariances = parameters(shape, generator)
    n, w, m = 50_000, weights / weights.sum(), means.flatten(1)
    x = GaussianMixture(weights, means, covariances).sample(n, generator)
    assert x.shape == (n, *shape) and x.dtype == D
    mean = w @ m
    covariance = torch.einsum("k,kij->ij", w, covariances + (m - mean)[:, :, None] * (m - mean)[:, None, :])
    first = x.flatten(1)
    second = torch.einsum("ni,nj->nij", first - mean, first - mean).flatten(1)
    for values, expected in ((first, mean), (second, covariance.flatten())):
        standard_error = values.std(0) / math.sqrt(n)
        assert ((values.mean(0) - expected).abs() < 5 * standard_error).all()


def test_samples_fall_on_the_components_in_proportion_to_the_weights(generator):
    weights = torch.tensor([1.0, 2.0, 5.0])
    points = GaussianMixture(weights, torch.tensor([[0.0], [1.0], [2.0]]), torch.zeros(3))
    counts = torch.bincount(points.sample(20_000, generator).flatten().long(), minlength=3)
    share = weights / weights.sum()
    assert ((counts / 20_000 - share).abs() < 5 * (share * (1 - share) / 20_000).sqrt()).all()


def test_a_sample_does_not_depend_on_the_samples_drawn_with_it(generator):
    mixture = GaussianMixture(*parameters((2, 3), generator))
    alone = torch.cat([mixture.sample(1, PhiloxGenerator(0, [i])) for i in range(5)])
    assert torch.equal(mixture.sample(5, PhiloxGenerator(0, range(5))), alone)


@every_process
@SHAPES
@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_the_prediction_adds_up_to_x_t_and_has_its_type(process, shape, dtype, generator):
    denoiser = AnalyticDenoiser(GaussianMixture(*parameters(shape, generator)), process)
    t = torch.linspace(0.01, 1, 6, dtype=D)
    x_t = (10 * torch.randn(6, *shape, dtype=D, generator=generator)).to(dtype)
    pred = denoiser(x_t, t)
    parts = pred.level.alpha * pred.x0, pred.level.sigma * pred.epsilon
    assert pred.x0.dtype == pred.epsilon.dtype == dtype
    assert (
        (parts[0] + parts[1] - x_t).abs() <= 8 * torch.finfo(dtype).eps * (x_t.abs() + parts[1].abs())
    ).all()


@every_process
def test_the_predicted_score_is_that_of_the_perturbed_density(process, generator):
    given = parameters((2, 3, 2), generator)
    x_t, t = torch.randn(6, 2, 3, 2, dtype=D, generator=generator), torch.linspace(0.01, 1, 6, dtype=D)
    pred = AnalyticDenoiser(GaussianMixture(*given), process)(x_t, t)
    for i, level in enumerate(process.grid_levels(t)):
        x = x_t[i : i + 1].clone().requires_grad_()
        log_prob = torch_mixture(*given, level.alpha, level.sigma).log_prob(x.flatten(1))
        (expected,) = torch.autograd.grad(log_prob.sum(), x)
        torch.testing.assert_close(pred.score[i : i + 1], expected, rtol=1e-8, atol=1e-8)


def test_the_posterior_mean_of_a_single_point_is_that_point(generator):
    point = torch.tensor([[[0.3, -0.8, 2.0]]], dtype=D)
    denoiser = AnalyticDenoiser(GaussianMixture(torch.ones(1), point, torch.zeros(1)), VPSDE())
    x_t = 100 * torch.randn(4, 1, 3, dtype=D, generator=generator)
    x0 = denoiser(x_t, torch.linspace(0.001, 0.5, 4)).x0
    torch.testing.assert_close(x0, point.expand(4, 1, 3), rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("weights", "means", "covariances"),
    [
        ((2,), (3, 2), (3, 2, 2)),
        ((3,), (3, 2), (2,)),
        ((3,), (3, 2), (3, 3, 3)),
        ((3, 1), (3, 2), (3,)),
        ((3,), (3, 2), (1,)),
    ],
)
def test_shapes_that_do_not_fit_raise(weights, means, covariances):
    with pytest.raises(ConfigurationError, match=r"expected \(3,\), \(3, \.\.\.\), \(3, 2, 2\)"):
        GaussianMixture(torch.ones(weights), torch.ones(means), torch.ones(covariances))


@pytest.mark.parametrize(
    "covariance", [[[1.0, 3.0], [3.0, 1.0]], [[1.0, 0.5], [0.0, 1.0]], [[-1.0, 0.0], [0.0, 1.0]]]
)
def test_what_is_not_a_covariance_raises(covariance):
    with pytest.raises(ConfigurationError, match="covariances"):
        GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([covariance]))


def test_rounding_of_a_singular_covariance_is_forgiven():
    root = torch.tensor([[0.1, 0.7, 0.3]])
    covariance = (root.mT @ root)[None]
    assert torch.linalg.eigvalsh(covariance.double()).min() < 0
    assert GaussianMixture(torch.ones(1), torch.zeros(1, 3), covariance).sample(5).isfinite().all()


@pytest.mark.parametrize("weights", [[1.0, -0.5], [0.0, 0.0], [1.0, math.nan]])
def test_what_is_not_a_weight_raises(weights):
    with pytest.raises(ConfigurationError, match="weights"):
        GaussianMixture(torch.tensor(weights), torch.zeros(2, 1), torch.ones(2))


def softmax_mean(bank, x_t, alpha, sigma):
    # sum_n softmax_n(-|x_t - alpha x_n|^2 / 2 sigma^2) x_n, to 50 digits
    with mpmath.workdps(50):
        points = [[mpmath.mpf(v) for v in p] for p in bank.tolist()]
        means = []
        for x in x_t.tolist():
            energies = [mpmath.fsum((u - alpha * v) ** 2 for u, v in zip(x, p, strict=True)) for p in points]
            weights = [mpmath.exp((min(energies) - e) / (2 * mpmath.mpf(sigma) ** 2)) for e in energies]
            means.append(
                [float(mpmath.fdot(weights, c) / mpmath.fsum(weights)) for c in zip(*points, strict=True)]
            )
    return torch.tensor(means, dtype=D)


def clusters(alpha, sigma, generator, offset=0.0):
    # four threes of points as near to each other as the noise, so that no posterior is a single point
    centres = torch.randn(4, 1, 3, dtype=D, generator=generator) + offset
    bank = (centres + sigma / alpha * torch.randn(4, 3, 3, dtype=D, generator=generator)).flatten(0, 1)
    return bank, alpha * bank[::2] + sigma * torch.randn(6, 3, dtype=D, generator=generator)


@pytest.mark.parametrize("sigma", [1e-6, 1e-3, 0.1, 1.0, 30.0, 1e3])
@pytest.mark.parametrize("alpha", [1.0, 0.3, 1e-3])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_the_posterior_mean_over_a_bank_is_the_softmax_of_50_digits(sigma, alpha, offset, generator):
    bank, x_t = clusters(alpha, sigma, generator, offset)
    expected = softmax_mean(bank, x_t, alpha, sigma)
    rounding = 1e-14 * (1 + (alpha / sigma) ** 2) + 1e-14 * alpha * offset / sigma
    for chunk_size in (1, 5, 12, 4096):
        mean = posterior_mean(bank, x_t, alpha, sigma, chunk_size=chunk_size)
        assert ((mean - expected).abs() * alpha / sigma).max() < rounding  # as the error of epsilon


@pytest.mark.parametrize("sigma", [1e-6, 1e-3, 0.5, 1e3])
def test_points_apart_are_told_apart_whatever_the_noise(sigma, generator):
    bank = torch.randn(12, 3, dtype=D, generator=generator)
    x_t = bank[:5] + min(sigma, 1) * torch.randn(5, 3, dtype=D, generator=generator)
    expected = softmax_mean(bank, x_t, 1.0, sigma)
    torch.testing.assert_close(posterior_mean(bank, x_t, 1.0, sigma), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("chunk_size", [1, 4, 7, 100])
@pytest.mark.parametrize("sigma", [1e-6, 0.5, 1e3])
def test_the_posterior_mean_given_a_class_is_that_over_its_points(chunk_size, sigma, generator):
    bank, x_t = torch.randn(2, 10, 3, dtype=D, generator=generator)
    theirs = torch.tensor([0, 2, 2, 0, 2, 0, 4, 4, 2, 0])
    mine = torch.tensor([0, 2, 4, 5, 3, -1, 4, 2, 0, 0])  # 5, 3 and -1 are of no point: all points
    mean = posterior_mean(bank, x_t, 1.0, sigma, (mine, theirs), chunk_size)
    for i, label in enumerate(mine):
        points = bank[theirs == label] if label in theirs else bank
        torch.testing.assert_close(mean[i : i + 1], posterior_mean(points, x_t[i : i + 1], 1.0, sigma))


def test_every_example_of_any_shape_and_type_has_a_posterior_mean_of_its_own(generator):
    bank, x_t = torch.randn(2, 6, 2, 3, 2, generator=generator)
    alpha, sigma = torch.rand(2, 6, 1, 1, 1, generator=generator) + 0.1
    mean = posterior_mean(bank, x_t, alpha, sigma, chunk_size=4)
    assert mean.dtype == torch.float32 and mean.shape == x_t.shape
    for i in range(6):
        alone = softmax_mean(bank.flatten(1), x_t[i : i + 1].flatten(1), alpha[i].item(), sigma[i].item())
        torch.testing.assert_close(mean[i], alone.float().reshape(2, 3, 2), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sigma", [1e-3, 0.3, 1.0, 1e3])
@pytest.mark.parametrize("chunk_size", [5, 4096])
def test_the_derivative_of_the_posterior_mean_is_the_posterior_covariance(sigma, chunk_size, generator):
    # dE[x0|x_t]/dx_t = (alpha / sigma^2) Cov[x0|x_t]
    bank, x_t = clusters(0.7, sigma, generator)
    x_t.requires_grad_()
    mean = posterior_mean(bank, x_t, 0.7, sigma, chunk_size=chunk_size)
    rows = [torch.autograd.grad(mean[:, d].sum(), x_t, retain_graph=True)[0] for d in range(3)]
    weights = (-(torch.cdist(x_t.detach(), 0.7 * bank) ** 2) / (2 * sigma**2)).softmax(1)
    away = bank - mean.detach()[:, None]
    covariance = torch.einsum("bn,bnd,bne->bde", weights, away, away)
    torch.testing.assert_close(torch.stack(rows, 1), 0.7 / sigma**2 * covariance, rtol=1e-6, atol=1e-6)


@every_process
@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_the_empirical_denoiser_is_that_of_a_mixture_of_points(process, dtype, generator):
    bank, x_t = torch.randn(2, 8, 2, 2, dtype=D, generator=generator)
    t = torch.linspace(0.05, 1, 8, dtype=D)
    exact = AnalyticDenoiser(GaussianMixture(torch.ones(8), bank, torch.zeros(8)), process)(x_t, t)
    pred = EmpiricalDenoiser(bank.to(dtype), process, chunk_size=3)(x_t.to(dtype), t)
    tolerance = 1e-9 if dtype == D else 1e-4  # x0 = (x_t - sigma epsilon) / alpha, alpha down to 0.0066
    assert pred.score.dtype == dtype
    for name in ("x0", "epsilon", "score", "velocity"):
        found, expected = getattr(pred, name).double(), getattr(exact, name)
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * expected.abs().max())


def test_the_empirical_denoiser_can_be_differentiated_twice(generator):
    denoiser = EmpiricalDenoiser(torch.randn(6, 2, dtype=D, generator=generator), VPSDE(), chunk_size=4)
    x_t = torch.randn(3, 2, dtype=D, generator=generator).requires_grad_()
    t = torch.tensor([0.1, 0.3, 0.8], dtype=D)
    score = lambda x: denoiser(x, t).score  # noqa: E731
    assert torch.autograd.gradcheck(score, x_t) and torch.autograd.gradgradcheck(score, x_t)


def test_the_bank_of_the_empirical_denoiser_goes_where_the_module_goes():
    denoiser = EmpiricalDenoiser(torch.zeros(3, 2), VPSDE()).double()
    assert denoiser.state_dict()["bank"].dtype == D


def test_a_chunk_holds_at_least_one_point():
    with pytest.raises(ConfigurationError, match="chunk_size=0"):
        EmpiricalDenoiser(torch.zeros(3, 2), VPSDE(), chunk_size=0)
