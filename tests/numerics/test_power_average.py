"""Power-function averages: their exponents, their inner products, and averages reconstructed from others."""

import itertools

import numpy as np
import pytest
from scipy.integrate import quad

from scorelight.numerics.power_average import Profile, _inner, coefficients, decay, exponent


@pytest.mark.parametrize("sigma_rel", [0.01, 0.05, 0.1, 0.2, 0.28])
def test_the_profile_has_the_standard_deviation(sigma_rel):
    gamma = exponent(sigma_rel)
    moment = lambda k: (gamma + 1) / (gamma + k + 1)  # noqa: E731  of t^k, T = 1
    assert np.sqrt(moment(2) - moment(1) ** 2) == pytest.approx(sigma_rel, rel=1e-9)


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_the_exponents_are_those_of_the_publication(sigma_rel, gamma):
    """Karras et al. (2024), sec. 3.1."""
    assert exponent(sigma_rel) == pytest.approx(gamma, abs=0.005)


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 0.2887, np.nan])
def test_other_widths_do_not_exist(sigma_rel):
    with pytest.raises(ValueError, match=r"between 0 and 0\.289"):
        exponent(sigma_rel)


@pytest.mark.parametrize(("a", "b"), [*itertools.product([(0.05, 10), (0.2, 7), (0.1, 10)], repeat=2)])
def test_inner_products_are_the_integrals(a, b):
    profile = lambda p, t: (exponent(p[0]) + 1) * t ** exponent(p[0]) / p[1] ** (exponent(p[0]) + 1)  # noqa: E731
    expected, _ = quad(lambda t: profile(a, t) * profile(b, t), 0, min(a[1], b[1]), epsabs=1e-12)
    assert _inner(Profile(*a), Profile(*b)) == pytest.approx(expected, rel=1e-9)


def tracked(path, sigma_rel, at=()):
    """The average at the end, and at some steps, by the recursion."""
    mean, kept = np.zeros(path.shape[1]), {}
    for step, theta in enumerate(path, 1):
        d = decay(sigma_rel, step)
        mean = d * mean + (1 - d) * theta
        if step in at:
            kept[step] = mean
    return mean, kept


@pytest.fixture(scope="module")
def path():
    """Weights of a training: a trend, a random walk, and noise at every step."""
    g = np.random.default_rng(0)
    steps = g.normal(size=(4000, 200))
    return g.normal(size=200) + 0.01 * steps.cumsum(0) + 0.05 * g.normal(size=steps.shape)


@pytest.mark.parametrize("num", [9, 16])
def test_any_average_follows_from_snapshots_of_two(path, num):
    """Relative error below 1e-3 from at most 16 snapshots of σ_rel = 0.05 and 0.25."""
    steps = [round(len(path) * (k + 1) / num) for k in range(num)]
    kept = {s: tracked(path, s, steps)[1] for s in (0.05, 0.25)}
    stored = {Profile(s, step): mean for s, means in kept.items() for step, mean in means.items()}
    for sigma_rel in (0.05, 0.06, 0.08, 0.1, 0.13, 0.17, 0.2, 0.25):
        c = coefficients(list(stored), Profile(sigma_rel, len(path)))
        assert sum(c) == pytest.approx(1, abs=1e-9)
        found, expected = (
            sum(a * b for a, b in zip(c, stored.values(), strict=True)),
            tracked(path, sigma_rel)[0],
        )
        assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)


def test_a_stored_average_is_its_own_reconstruction():
    stored = [Profile(s, t) for s in (0.05, 0.25) for t in (100, 200, 300)]
    np.testing.assert_allclose(coefficients(stored, Profile(0.25, 300)), [0, 0, 0, 0, 0, 1], atol=1e-9)
