"""Classifier-free guidance: its formula in every space, what it costs, and what samplers draw under it."""

import math

import pytest
import torch
from support.denoisers import GaussianPair
from support.densities import classes
from support.networks import random_mlp
from support.processes import every_kind_of_process

from scorelight import (
    DDIM,
    EDM,
    VESDE,
    VPSDE,
    X0,
    AncestralSampler,
    ClassifierFreeGuidance,
    ConfigurationError,
    CountingDenoiser,
    Epsilon,
    GaussianMixture,
    Heun,
    LogSNRGrid,
    NetworkDenoiser,
    Score,
    Velocity,
    VPrediction,
)
from scorelight.conditions import NO_CLASS

D = torch.float64
PROCESSES = every_kind_of_process()
PARAMETERIZATIONS = [Epsilon(), Score(), X0(), VPrediction(), Velocity(), EDM(0.7)]
name = lambda value: type(value).__name__  # noqa: E731
every_process = pytest.mark.parametrize("process", PROCESSES, ids=name)
every_parameterization = pytest.mark.parametrize("parameterization", PARAMETERIZATIONS, ids=name)
LABEL = torch.tensor([0, 2, 1, NO_CLASS, 2])


def conditional(process, parameterization, **options):
    network = random_mlp((3,), num_classes=3, std=0.5, **options)
    return NetworkDenoiser(network, process, parameterization).eval()


def x_and_levels(process, generator):
    """A batch, with a level of floats and one of a time for each example."""
    x = torch.randn(5, 3, dtype=D, generator=generator)
    times = torch.linspace(process.t_min, process.t_max, 7, dtype=D)[1:-1]
    return x, [process.grid_levels(times[2:3])[0], process.at(times, like=x)]


@every_process
@every_parameterization
def test_every_prediction_is_the_combination_of_the_two(process, parameterization, generator):
    denoiser = conditional(process, parameterization)
    guided, scale = ClassifierFreeGuidance(denoiser, 2.5), 2.5
    x, levels = x_and_levels(process, generator)
    for level in levels:
        c, u = denoiser.predict(x, level, label=LABEL), denoiser.unconditional(x, level, label=LABEL)
        found = guided.predict(x, level, label=LABEL)
        for what in ("x0", "epsilon", "score", "velocity"):
            one, other = getattr(c, what), getattr(u, what)
            expected = other + scale * (one - other)
            torch.testing.assert_close(getattr(found, what), expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(level.alpha * found.x0 + level.sigma * found.epsilon, x)


@every_process
def test_scale_one_is_the_conditional_model_to_the_bit(process, generator):
    denoiser = conditional(process, Epsilon())
    x, levels = x_and_levels(process, generator)
    for level in levels:
        one = ClassifierFreeGuidance(denoiser, 1.0).predict(x, level, label=LABEL)
        assert torch.equal(one.output, denoiser.predict(x, level, label=LABEL).output)


@pytest.mark.parametrize(
    "label", [1, torch.tensor(1), torch.tensor([1, 1, 1, 1, 1])], ids=["int", "0-d", "1-d"]
)
def test_both_predictions_are_one_evaluation_of_twice_the_batch(label, generator):
    denoiser = conditional(VPSDE(), Epsilon())
    sizes = []
    denoiser.network.register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
    x, levels = x_and_levels(VPSDE(), generator)
    for level in levels:
        both = denoiser.predict_both(x, level, label=label)
        apart = denoiser.predict(x, level, label=label), denoiser.unconditional(x, level, label=label)
        assert sizes == [10, 5, 5]
        sizes.clear()
        for one, other in zip(both, apart, strict=True):
            torch.testing.assert_close(one.output, other.output, rtol=1e-12, atol=1e-12)


def test_outside_of_the_interval_it_is_the_conditional_model_by_one_evaluation(generator):
    process = VESDE(sigma_min=0.01, sigma_max=50.0)
    counted = CountingDenoiser(conditional(process, Epsilon()))
    guided = ClassifierFreeGuidance(counted, 3.0, interval=(0.1, 2.0))
    x = torch.randn(5, 3, dtype=D, generator=generator)
    times = process.time_of_log_snr(-2 * torch.tensor([0.05, 0.1001, 1.9, 2.1, 40.0], dtype=D).log())
    costs, inside = [], []
    for level in process.grid_levels(times):
        counted.num_evaluations = 0
        found = guided.predict(x, level, label=LABEL).output
        costs.append(counted.num_evaluations)
        inside.append(not torch.equal(found, counted.predict(x, level, label=LABEL).output))
    assert costs == [1, 2, 2, 1, 1] and inside == [False, True, True, False, False]
    level = process.at(times, like=x)  # a time for each example
    found = guided.predict(x, level, label=LABEL).output
    alone = counted.predict(x, level, label=LABEL).output
    expected = torch.tensor(inside) & (LABEL != NO_CLASS)
    assert torch.equal((found - alone).abs().sum(1) > 1e-9, expected)


GAMMAS = [1.5, 2.0, 3.0, 5.0]


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("sampler", [DDIM(3000, LogSNRGrid()), Heun(500, LogSNRGrid())], ids=name)
def test_the_probability_flow_ends_at_its_closed_form(gamma, sampler):
    """The flow is linear: one example has the standard deviation. σ_max = 10⁴ stands for infinity."""
    process = VESDE(sigma_min=1e-3, sigma_max=1e4)
    x = sampler(ClassifierFreeGuidance(GaussianPair(process), gamma), torch.ones(1, 1, dtype=D))
    assert x.item() ** 2 == pytest.approx(2 ** (1 - gamma), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_reverse_sde_ends_at_its_closed_form(gamma, generator):
    """100,000 examples: the variance has a standard error of 0.45 %."""
    process = VESDE(sigma_min=1e-3, sigma_max=1e4)
    sampler = AncestralSampler(1500, LogSNRGrid())
    noise = torch.randn(100_000, 1, dtype=D, generator=generator)
    x = sampler(ClassifierFreeGuidance(GaussianPair(process), gamma), noise, generator=generator)
    assert x.var().item() == pytest.approx((2 - 2 ** (2 - 2 * gamma)) / (2 * gamma - 1), rel=0.02)


@every_process
def test_the_score_of_a_class_is_that_of_its_components(process, generator):
    density, x = classes(), torch.randn(6, 2, dtype=D, generator=generator)
    label = torch.tensor([0, 0, 1, 1, NO_CLASS, NO_CLASS])
    level = process.at(torch.tensor(0.3, dtype=D))
    found = density.score(x, level.alpha, level.sigma, label)
    for c, rows in ((0, slice(0, 2)), (1, slice(2, 4))):
        of = density.classes == c
        part = GaussianMixture(density.weights[of], density.means[of], density.eigenvalues[of][:, 0])
        torch.testing.assert_close(found[rows], part.score(x[rows], level.alpha, level.sigma))
        at, labels = (x, level.alpha, level.sigma), torch.full((6,), c)
        torch.testing.assert_close(density.log_prob(*at, labels), part.log_prob(*at))
    torch.testing.assert_close(found[4:], density.score(x[4:], level.alpha, level.sigma))


def test_the_class_probabilities_are_those_of_bayes(generator):
    density, x = classes(), torch.randn(6, 2, dtype=D, generator=generator)
    log_p = density.log_class_prob(x, 0.8, 0.5)
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(6, dtype=D))
    prior = torch.stack([density.weights[density.classes == c].sum() for c in (0, 1)])
    for c in (0, 1):
        label = torch.full((6,), c)
        expected = prior[c].log() + density.log_prob(x, 0.8, 0.5, label) - density.log_prob(x, 0.8, 0.5)
        torch.testing.assert_close(log_p[:, c], expected)


def test_a_rescaled_prediction_has_the_standard_deviation_of_the_conditional_one(generator):
    denoiser = conditional(VPSDE(), Epsilon())
    x, (level, _) = x_and_levels(VPSDE(), generator)
    std = lambda x: x.std(1)  # noqa: E731
    c = denoiser.predict(x, level, label=LABEL).x0
    plain = ClassifierFreeGuidance(denoiser, 4.0).predict(x, level, label=LABEL).x0
    for phi in (1.0, 0.7):
        found = ClassifierFreeGuidance(denoiser, 4.0, rescale=phi).predict(x, level, label=LABEL).x0
        torch.testing.assert_close(std(found), phi * std(c) + (1 - phi) * std(plain))


def test_without_the_parallel_part_the_step_is_orthogonal_to_the_conditional_prediction(generator):
    denoiser = conditional(VPSDE(), Epsilon())
    x, (level, _) = x_and_levels(VPSDE(), generator)
    c = denoiser.predict(x, level, label=LABEL).x0
    plain = ClassifierFreeGuidance(denoiser, 4.0).predict(x, level, label=LABEL).x0 - c
    step = ClassifierFreeGuidance(denoiser, 4.0, parallel=0.0).predict(x, level, label=LABEL).x0 - c
    assert (step * c).sum(1).abs().max() < 1e-10 * c.square().sum(1).max()
    rest = plain - step  # parallel to c
    torch.testing.assert_close((rest * c).sum(1) ** 2, rest.square().sum(1) * c.square().sum(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": math.inf}, "scale=inf: a finite number"),
        ({"interval": (2.0, 1.0)}, r"interval=\[2.0, 1.0\]: bounds of σ/α"),
        ({"interval": (-1.0, 1.0)}, "0 <= low < high"),
        ({"rescale": 1.5}, "rescale=1.5, parallel=1.0: from 0 to 1"),
        ({"parallel": -0.1}, "from 0 to 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        ClassifierFreeGuidance(conditional(VPSDE(), Epsilon()), **options)
