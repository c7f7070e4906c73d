import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from scorelight import VESDE, VPSDE, AnalyticDenoiser, ConfigurationError, GaussianMixture, SubVPSDE
from scorelight.seeding import generators

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
    level = process.levels(torch.tensor([t], dtype=D))[0]
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
    alone = torch.cat([mixture.sample(1, generators(0, [i])) for i in range(5)])
    assert torch.equal(mixture.sample(5, generators(0, range(5))), alone)


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
    for i, level in enumerate(process.levels(t)):
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
