"""The error of a score where both scores are closed forms."""

import pytest
import torch

from scorelight import VESDE, VPSDE, AnalyticDenoiser, ConfigurationError, GaussianMixture, score_error

D = torch.float64
T = torch.tensor([0.05, 0.4, 1.0])


def gaussian(variance, mean=0.0):
    return GaussianMixture(torch.ones(1), torch.full((1, 3), mean), torch.tensor([variance]))


@pytest.fixture
def x0(generator):
    return gaussian(2.0).sample(20_000, generator)


@pytest.mark.parametrize("process", [VPSDE(), VESDE()], ids=lambda p: type(p).__name__)
def test_of_two_gaussians(process, x0, generator):
    """Scores −x/v and −x/w: E‖·‖² = D v (1/v − 1/w)², v = α² 2 + σ² and w = α² ½ + σ²; 4 standard errors."""
    model, exact = (AnalyticDenoiser(gaussian(s), process) for s in (0.5, 2.0))
    found = score_error(model, exact, x0, T, generator=generator)
    alpha2, sigma2 = process.alpha(T.double()) ** 2, process.sigma(T.double()) ** 2
    v, w = alpha2 * 2 + sigma2, alpha2 * 0.5 + sigma2
    expected = 3 * v * (1 / v - 1 / w) ** 2
    assert ((found.weighted - sigma2 * expected).abs() < 4 * found.uncertainty).all()
    torch.testing.assert_close(found.fisher * sigma2, found.weighted)
    assert (found.uncertainty < 0.02 * found.weighted).all()
    assert found.rms == pytest.approx((sigma2 * expected / 3).mean().sqrt().item(), rel=0.02)


def test_the_exact_score_has_no_error(x0, generator):
    exact = AnalyticDenoiser(gaussian(2.0), VPSDE())
    assert score_error(exact, exact, x0, T, generator=generator).rms == 0


def test_batches_do_not_change_it(x0):
    model, exact = (AnalyticDenoiser(gaussian(s), VPSDE()) for s in (0.5, 2.0))
    one, other = (
        score_error(model, exact, x0[:50], T, generator=torch.Generator().manual_seed(3), batch_size=n)
        for n in (7, 50)
    )
    torch.testing.assert_close(one.weighted, other.weighted, rtol=1e-12, atol=0)


def test_scores_of_two_processes_are_not_compared(x0):
    model, exact = (AnalyticDenoiser(gaussian(1.0), p) for p in (VPSDE(), VESDE()))
    with pytest.raises(ConfigurationError, match="VPSDE and VESDE"):
        score_error(model, exact, x0, T)
    with pytest.raises(ConfigurationError, match="at least 2"):
        score_error(model, model, x0[:1], T)
