"""ExactGuidance: its law is p(x) p(y | x)^s, where guided scores end elsewhere."""

import math

import pytest
import torch
from support.densities import gaussian

from scorelight import (
    DDIM,
    VESDE,
    VPSDE,
    AnalyticDenoiser,
    AncestralSampler,
    BayesClassifier,
    ClassLikelihood,
    ConfigurationError,
    ExactGuidance,
    ExponentialAdams,
    GaussianMixture,
    Likelihood,
)
from scorelight.samplers import generate
from scorelight.samplers.base import final_state

D = torch.float64


class Pull(Likelihood):
    """log p(y | x) = −‖x‖²/4, which makes N(0, 1) of N(0, 2)."""

    def log_prob(self, x0, **cond):
        return -x0.flatten(1).square().sum(1) / 4


@pytest.mark.parametrize("use_gradient", [False, True])
@pytest.mark.parametrize("gamma", [1.5, 2.0, 3.0, 5.0])
def test_the_variance_is_the_closed_form_where_guided_scores_are_too_narrow(gamma, use_gradient, generator):
    """2/(1 + γ) within 2 %: 40,000 chains have a standard error of 0.7 %."""
    denoiser = AnalyticDenoiser(gaussian((1,), 2.0), VESDE(sigma_min=1e-3, sigma_max=100.0))
    flow = ExponentialAdams(30, prediction="v", order=4)
    sampler = ExactGuidance(Pull(), gamma, flow, 24, (1.0, 0.6), 4, use_gradient)
    noise = torch.randn(40_000, 1, dtype=D, generator=generator)
    x = sampler(denoiser, noise, generator=generator)
    assert x.var().item() == pytest.approx(2 / (1 + gamma), rel=0.02)
    found = sampler.diagnose()
    assert 0.2 < found.acceptance < 1 and found.r_hat < 1.15 and found.effective_size > 3


def mixture():
    means = torch.tensor([[-1.0, 0.0], [0.6, 0.8], [1.0, -0.6]], dtype=D)
    return GaussianMixture(
        torch.tensor([0.4, 0.35, 0.25]), means, 0.15 * torch.ones(3), torch.tensor([0, 1, 1])
    )


@pytest.mark.parametrize("label", [0, 1])
def test_with_a_classifier_it_draws_of_the_class(label, generator):
    """Means within 5 standard errors of 4,000 chains."""
    process, density = VPSDE(t_min=1e-4), mixture()
    classifier = ClassLikelihood(BayesClassifier(density, process))
    sampler = ExactGuidance(classifier, flow=ExponentialAdams(30), num_iterations=30, warmup=6)
    noise = torch.randn(4000, 2, dtype=D, generator=generator)
    labels = torch.full((4000,), label)
    x = sampler(AnalyticDenoiser(density, process), noise, generator=generator, label=labels)
    of = density.classes == label
    part = GaussianMixture(density.weights[of], density.means[of], 0.15 * torch.ones(int(of.sum())))
    exact = part.sample(400_000, generator)
    assert ((x.mean(0) - exact.mean(0)).abs() < 5 * exact.std(0) / math.sqrt(4000)).all()
    assert ((x.var(0) / exact.var(0)).log().abs() < 5 * math.sqrt(2 / 4000)).all()


def test_sample_i_is_a_function_of_the_seed_and_i(generator):
    denoiser = AnalyticDenoiser(gaussian((3,), 2.0), VPSDE())
    sampler = ExactGuidance(Pull(), 2.0, DDIM(5), 8, warmup=2)
    whole = final_state(generate(denoiser, sampler, (3,), 7, range(6)))
    part = final_state(generate(denoiser, sampler, (3,), 7, [4, 1]))
    torch.testing.assert_close(part, whole[[4, 1]])


def test_chains_that_have_not_mixed_are_noticed(generator):
    """Two narrow modes and proposals that are too small to pass between them."""

    class Modes(Likelihood):
        def log_prob(self, x0, **cond):
            return torch.logsumexp(torch.stack([-((x0[:, 0] - m) ** 2) / 0.002 - m for m in (-1.0, 1.0)]), 0)

    denoiser = AnalyticDenoiser(gaussian((1,), 2.0), VPSDE())
    noise = torch.randn(40, 1, dtype=D, generator=generator)
    sampler = ExactGuidance(Modes(), flow=DDIM(10), num_iterations=60, betas=(0.02,), warmup=10)
    sampler(denoiser, noise, generator=generator)
    assert sampler.diagnose().r_hat > 1.2
    assert "the chains have not mixed" in sampler.report()[1]
    assert "--sampler.num_iterations 120 or more" in sampler.report()[1]


def test_the_chains_of_each_class_are_diagnosed_by_themselves(generator):
    """Classes of other log-likelihoods, whose chains mix: together they would look as if they did not."""

    class Levels(Likelihood):
        def log_prob(self, x0, label):
            return -x0.flatten(1).square().sum(1) / 4 + 100.0 * label

    denoiser = AnalyticDenoiser(gaussian((2,), 2.0), VPSDE())
    sampler = ExactGuidance(Levels(), flow=DDIM(10), num_iterations=120, betas=(1.0, 0.6), warmup=20)
    for begin in (0, 100):
        noise = torch.randn(100, 2, dtype=D, generator=generator)
        sampler(denoiser, noise, generator=generator, label=torch.arange(begin, begin + 100) % 3)
    found, lines = sampler.diagnose(), sampler.report()
    assert found.r_hat < 1.05 and found.effective_size > 20
    assert len(lines) == 1 and f"split R̂ {found.r_hat:.3f}" in lines[0] and "in 100 iterations" in lines[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"betas": ()}, "betas=.*some are needed"),
        ({"betas": (1.5,)}, "0 < beta <= 1"),
        ({"warmup": 99}, "warmup=99: from 0 to num_iterations - 4 = 96"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        ExactGuidance(Pull(), **options)


def test_a_sampler_that_draws_noise_and_a_missing_class_are_refused(generator):
    density, process = mixture(), VPSDE()
    denoiser, noise = AnalyticDenoiser(density, process), torch.zeros(2, 2, dtype=D)
    with pytest.raises(ConfigurationError, match="flow=AncestralSampler draws noise; take a deterministic"):
        ExactGuidance(Pull(), flow=AncestralSampler(5), num_iterations=10, warmup=2)(denoiser, noise)
    sampler = ExactGuidance(ClassLikelihood(BayesClassifier(density, process)), num_iterations=10, warmup=2)
    with pytest.raises(ConfigurationError, match="ClassLikelihood: which class"):
        sampler(denoiser, noise)
    with pytest.raises(ConfigurationError, match="has drawn no samples"):
        sampler.diagnose()
