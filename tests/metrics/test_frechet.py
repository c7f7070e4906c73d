"""The Fréchet distance against closed forms, SciPy, torch-fidelity, and an exact form for few examples."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from scorelight import ConfigurationError, FeatureSet, FrechetDistance
from scorelight.metrics import frechet_distance

D = torch.float64


def features(n, d, generator, shift=0.0):
    """Correlated, of very different scales."""
    mixing = torch.randn(d, d, dtype=D, generator=generator) * torch.logspace(0, -3, d, dtype=D)
    return torch.randn(n, d, dtype=D, generator=generator) @ mixing + shift


def distance(x, y):
    return FrechetDistance()(FeatureSet.of(x), FeatureSet.of(y))["frechet_distance"]


def by_gram(x, y):
    """tr (S₁S₂)^½ is the nuclear norm of X Yᵀ/√((n−1)(m−1)), centred: n by m, without a root of rounding."""
    a, b = ((v - v.mean(0)) / (len(v) - 1) ** 0.5 for v in (x, y))
    cross = torch.linalg.svdvals(a @ b.T).sum()
    return ((x.mean(0) - y.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2 * cross).item()


def test_axis_aligned_gaussians():
    """Σ (m₁ − m₂)² + Σ (s₁ − s₂)² for standard deviations s."""
    m, n = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([0.5, 1.0, 7.0])
    s, t = torch.tensor([1.0, 3.0, 0.0]), torch.tensor([2.0, 0.25, 4.0])
    expected = ((m - n).square().sum() + (s - t).square().sum()).item()
    assert frechet_distance(m, s.square().diag(), n, t.square().diag()) == pytest.approx(expected, rel=1e-12)


def test_any_gaussians_against_scipy(generator):
    x, y = FeatureSet.of(features(99, 8, generator)), FeatureSet.of(features(99, 8, generator, 0.1))
    root = scipy.linalg.sqrtm((x.cov @ y.cov).numpy())
    expected = ((x.mean - y.mean).square().sum() + x.cov.trace() + y.cov.trace()).item() - 2 * root.trace()
    assert frechet_distance(x.mean, x.cov, y.mean, y.cov) == pytest.approx(expected.real, rel=1e-9)


@pytest.mark.parametrize("size", [50, 400])
def test_equals_torch_fidelity(size, generator):
    x, y = features(size, 40, generator), features(size + 10, 40, generator, 0.3)
    theirs = fid_statistics_to_metric(*map(fid_features_to_statistics, (x, y)), verbose=False)
    assert distance(x, y) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (5, 30), (30, 500), (64, 65)])
def test_fewer_examples_than_dimensions(n, m, generator):
    x, y = features(n, 64, generator), features(m, 64, generator, 0.01)
    assert distance(x, y) == pytest.approx(by_gram(x, y), rel=1e-9)


@pytest.mark.parametrize("n", [2, 10, 1000])
def test_a_set_is_at_distance_zero_from_itself(n, generator):
    x = features(n, 30, generator)
    assert 0 <= distance(x, x) < 1e-10 * x.square().sum(1).mean()


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_scales_with_the_square_of_the_features(scale, generator):
    x, y = features(20, 10, generator), features(20, 10, generator)
    assert distance(scale * x, scale * y) == pytest.approx(scale**2 * distance(x, y), rel=1e-9)


def test_symmetric_even_if_one_is_singular(generator):
    x, y = features(6, 20, generator), features(100, 20, generator)
    assert distance(x, y) == pytest.approx(distance(y, x), rel=1e-12)


def test_constant_features():
    x, y = torch.zeros(5, 3), torch.ones(4, 3)
    assert distance(x, x) == 0 and distance(x, y) == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_that_are_not_finite_are_refused_and_their_moments_infinitely_far(generator, value):
    x = features(20, 3, generator)
    y = x.clone()
    y[3, 1] = value
    with pytest.raises(ConfigurationError, match="1 of 20 rows of the features are NaN or infinite"):
        distance(x, y)
    assert frechet_distance(x.mean(0), x.T.cov(), y.mean(0), y.T.cov()) == np.inf


def test_other_dimensions_are_an_error(generator):
    with pytest.raises(ConfigurationError, match="3 and of 4 dimensions"):
        distance(features(9, 3, generator), features(9, 4, generator))
