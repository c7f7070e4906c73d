"""Classifier guidance: with the exact classifier it gives p(x | c), in every space and by every sampler."""

import math

import pytest
import torch
from support.densities import classes
from support.networks import random_denoiser
from support.processes import every_kind_of_process

from scorelight import (
    DDIM,
    EDM,
    VESDE,
    VPSDE,
    X0,
    AnalyticDenoiser,
    BayesClassifier,
    Classifier,
    ClassifierGuidance,
    ConfigurationError,
    Epsilon,
    EulerMaruyama,
    GaussianMixture,
    Heun,
    RectifiedFlow,
    Score,
    Velocity,
    VPrediction,
)
from scorelight.conditions import NO_CLASS
from scorelight.metrics import sliced_wasserstein

D = torch.float64
PROCESSES = every_kind_of_process()
name = lambda value: type(value).__name__  # noqa: E731
every_process = pytest.mark.parametrize("process", PROCESSES, ids=name)


def levels_of(process, x):
    times = torch.linspace(process.t_min, process.t_max, len(x) + 2, dtype=D)[1:-1]
    return process.grid_levels(times[2:3])[0], process.at(times, like=x)


@every_process
def test_the_exact_classifier_at_scale_one_gives_the_conditional_score(process, generator):
    density = classes()
    guided = ClassifierGuidance(AnalyticDenoiser(density, process), BayesClassifier(density, process))
    x, label = torch.randn(6, 2, dtype=D, generator=generator), torch.tensor([0, 1, 0, 1, NO_CLASS, 1])
    for level in levels_of(process, x):
        found = guided.predict(x, level, label=label)
        expected = AnalyticDenoiser(density, process).predict(x, level, label=label)
        for what in ("x0", "epsilon", "score", "velocity"):
            torch.testing.assert_close(getattr(found, what), getattr(expected, what), rtol=1e-6, atol=1e-6)


@every_process
@pytest.mark.parametrize("space", [Epsilon(), X0(), Score(), VPrediction(), Velocity(), EDM(0.7)], ids=name)
def test_the_gradient_is_added_to_the_score_in_every_space(process, space, generator):
    density = classes()
    model, classifier = random_denoiser((2,), process, space).to(D), BayesClassifier(density, process)
    x, label = torch.randn(6, 2, dtype=D, generator=generator), torch.tensor([0, 1, 0, 1, 0, 1])
    for level in levels_of(process, x):
        found = ClassifierGuidance(model, classifier, 2.5).predict(x, level, label=label)
        at = (x, level.alpha, level.sigma)
        gradient = density.score(*at, label) - density.score(*at)  # of log p(c | x_t), by Bayes
        expected = model.predict(x, level).score + 2.5 * gradient
        torch.testing.assert_close(found.score, expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(level.alpha * found.x0 + level.sigma * found.epsilon, x)


@pytest.mark.parametrize("sampler", [Heun(100), DDIM(300), EulerMaruyama(500)], ids=name)
@pytest.mark.parametrize("process", [VPSDE(), RectifiedFlow()], ids=name)
def test_samplers_draw_of_the_class(process, sampler, generator):
    """2,000 samples: not farther from exact ones than three other exact sets are from each other, by 1.5."""
    density = classes()
    guided = ClassifierGuidance(AnalyticDenoiser(density, process), BayesClassifier(density, process))
    of = density.classes == 1
    part = GaussianMixture(density.weights[of], density.means[of], density.eigenvalues[of][:, 0])
    noise = torch.randn(2000, 2, dtype=D, generator=generator)
    label = torch.ones(2000, dtype=torch.long)
    with torch.no_grad():
        x = sampler(guided, noise, generator=generator, label=label)
    exact = [part.sample(2000, generator) for _ in range(4)]
    floor = max(sliced_wasserstein(exact[0], other) for other in exact[1:])
    assert sliced_wasserstein(exact[0], x) < 1.5 * floor


def test_outside_of_the_interval_there_is_no_guidance(generator):
    process, density = VESDE(), classes()
    model = AnalyticDenoiser(density, process)
    guided = ClassifierGuidance(model, BayesClassifier(density, process), 3.0, (0.5, 2.0))
    x, label = torch.randn(3, 2, dtype=D, generator=generator), torch.tensor([0, 1, 1])
    times = process.time_of_log_snr(-2 * torch.tensor([0.2, 1.0, 4.0], dtype=D).log())
    plain = [torch.equal(guided.predict(x, at, label=label).output, model.predict(x, at).output)
             for at in process.grid_levels(times)]  # fmt: skip
    assert plain == [True, False, True]
    level = process.at(times, like=x)
    same = (guided.predict(x, level, label=label).output - model.predict(x, level).output).abs().sum(1) == 0
    assert same.tolist() == plain


class Linear(Classifier):
    """log-odds a·x/σ, whatever the process."""

    def __init__(self, process):
        super().__init__()
        self.process, self.num_classes = process, 2
        self.a = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=D))

    def log_prob(self, x_t, level):
        odds = (x_t @ self.a)[:, None] / level.sigma
        return torch.cat([odds, -odds], 1).log_softmax(1)


def test_it_works_in_inference_mode_and_its_weights_do_not_learn():
    process = VPSDE()
    model, classifier = random_denoiser((2,), process, Epsilon()).to(D), Linear(process)
    guided = ClassifierGuidance(model, classifier, 2.0)
    assert not classifier.training and not classifier.a.requires_grad
    label = torch.zeros(4, dtype=torch.long)
    with torch.inference_mode():
        noise = torch.randn(4, 2, dtype=D)
        assert DDIM(5)(guided, noise, label=label).isfinite().all()


def test_finite_differences_have_the_gradient(generator):
    process = VPSDE()
    guided = ClassifierGuidance(random_denoiser((2,), process, Epsilon()).to(D), Linear(process))
    x, label = torch.randn(4, 2, dtype=D, generator=generator), torch.tensor([0, 1, 0, 1])
    level, h = process.grid_levels(torch.tensor([0.4]))[0], 1e-6
    found = guided.predict(x, level, label=label).score - guided.denoiser.unconditional(x, level).score
    for d in range(2):
        e = h * torch.eye(2, dtype=D)[d]
        up, down = (guided.classifier.log_prob_of(v, level, label) for v in (x + e, x - e))
        torch.testing.assert_close(found[:, d], (up - down) / (2 * h), rtol=1e-6, atol=1e-8)


def test_what_cannot_be_is_refused():
    process, density = VPSDE(), classes()
    model, classifier = AnalyticDenoiser(density, process), BayesClassifier(density, process)
    x, level = torch.zeros(2, 2, dtype=D), process.grid_levels(torch.tensor([0.4]))[0]
    with pytest.raises(ConfigurationError, match="which class"):
        ClassifierGuidance(model, classifier).predict(x, level)
    with pytest.raises(ConfigurationError, match="label 2 is no class"):
        ClassifierGuidance(model, classifier).predict(x, level, label=torch.tensor([2, 0]))
    with pytest.raises(ConfigurationError, match="scale=nan"):
        ClassifierGuidance(model, classifier, math.nan)
