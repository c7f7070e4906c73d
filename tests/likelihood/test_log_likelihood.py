"""Densities against closed forms: mixtures, Gaussian images, the flow of Gaussian data."""

import functools
import importlib
import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from support.denoisers import ConditionalGaussianDenoiser
from support.densities import gaussian, mixture
from support.draws import seeded
from support.marks import slow_but
from support.networks import random_denoiser
from support.oracles import marginal_at_t_max
from torch.distributions import Normal

from scorelight import (
    EDM,
    VESDE,
    VPSDE,
    AnalyticDenoiser,
    ConfigurationError,
    CosineVPSDE,
    DDPMProcess,
    DenoiserWrapper,
    Epsilon,
    KarrasVESDE,
    LearnedVPSDE,
    RectifiedFlow,
    SMLDProcess,
    SubVPSDE,
    Velocity,
    log_likelihood,
)
from scorelight.rng import PhiloxGenerator

D = torch.float64
PROCESSES = [VPSDE(), SubVPSDE(), VESDE(), CosineVPSDE(), RectifiedFlow(), KarrasVESDE()]
name = lambda p: f"{type(p).__name__}{p.num_timesteps or ''}"  # noqa: E731
TABLES = [DDPMProcess(), DDPMProcess(40), SMLDProcess(), SMLDProcess(30)]
every_process = pytest.mark.parametrize("process", PROCESSES + TABLES, ids=name)


def at_t_min(process):
    return process.grid_levels(torch.tensor([process.t_min], dtype=D))[0]


class Spy(DenoiserWrapper):
    """Counts the calls and the examples of another denoiser."""

    def __init__(self, denoiser):
        super().__init__(denoiser)
        self.calls, self.examples = 0, 0

    def predict(self, x_t, level, **cond):
        self.calls, self.examples = self.calls + 1, self.examples + len(x_t)
        return self.denoiser.predict(x_t, level, **cond)


# The exact trace


@every_process
@pytest.mark.parametrize("dim", slow_but([1, 2, 16], 2))
@pytest.mark.one_in(3)
def test_a_mixture_has_its_own_density_within_1e_4_nats_per_dimension(process, dim):
    density = mixture(dim)
    x0 = density.sample(16, seeded(1))
    found = log_likelihood(AnalyticDenoiser(density, process), x0, prior=marginal_at_t_max(density, process))
    # the correction (22) leaves σ̄⁴; the coarsest table here starts at σ̄ = 0.05 and loses most
    tolerance = 1e-4 if process.num_timesteps != 40 else 1e-3
    assert ((found.log_prob - density.log_prob(x0)).abs() / dim).max() < tolerance
    assert not found.standard_error.any() and found.log_prob.dtype == D


@pytest.mark.parametrize("process", [VPSDE(), VESDE(), SMLDProcess(), RectifiedFlow()], ids=name)
def test_images_of_8_by_8_within_1e_3_bits_per_dimension(process):
    density = gaussian((1, 8, 8), torch.logspace(-1.5, 0.5, 64), 0.3)
    x0 = density.sample(4, seeded(1)).float()
    denoiser, prior = AnalyticDenoiser(density, process), marginal_at_t_max(density, process)
    found = log_likelihood(denoiser, x0, divergence="exact", prior=prior, rtol=1e-5, atol=1e-5).log_prob
    error = (found - density.log_prob(x0)) / (64 * math.log(2))
    assert error.abs().max() < 1e-3


@every_process
@pytest.mark.one_in(12)
def test_the_default_is_the_density_of_what_is_sampled(process):
    """Gaussian data flow linearly: N(0, σ_T² I) arrives as a Gaussian that is not quite that of the data."""
    mean, variance = 0.7, 0.3
    t, s = process.grid_levels(torch.tensor([process.t_max, process.t_min], dtype=D))
    gain = math.sqrt((s.alpha**2 * variance + s.sigma**2) / (t.alpha**2 * variance + t.sigma**2))
    sampled = Normal(mean * (1 - gain * t.alpha / s.alpha), gain * t.sigma / s.alpha)
    x0 = torch.tensor([[-1.0, 0.5], [0.7, 2.0], [0.0, 0.0]], dtype=D)
    denoiser = AnalyticDenoiser(gaussian((2,), variance, mean), process)
    found = log_likelihood(denoiser, x0, truncation="smoothed", rtol=1e-7, atol=1e-7).log_prob
    torch.testing.assert_close(found, sampled.log_prob(x0).sum(1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, D], ids=str)
@pytest.mark.parametrize("shape", [(3,), (2, 5), (1, 2, 3)], ids=str)
@pytest.mark.one_in(3)
def test_any_shape_in_either_precision(shape, dtype):
    density, process = gaussian(shape, 0.4, 0.5), VPSDE()
    x0 = density.sample(5, seeded()).to(dtype)
    found = log_likelihood(AnalyticDenoiser(density, process), x0, prior=marginal_at_t_max(density, process))
    torch.testing.assert_close(found.log_prob, density.log_prob(x0), rtol=0, atol=1e-4 * math.prod(shape))


def test_the_trace_in_chunks_is_the_trace():
    x0 = mixture(16).sample(3, seeded())
    denoiser = AnalyticDenoiser(mixture(16), VPSDE())
    whole, parts = (log_likelihood(denoiser, x0, chunk_size=n).log_prob for n in (64, 5))
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=0)


# The truncation at t_min


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("truncation", "power"), [("smoothed", 2), ("corrected", 4)])
def test_the_error_of_the_truncation_is_of_the_stated_order(truncation, power):
    density, sigmas = mixture(2), [0.1, 0.05, 0.025]
    x0 = density.sample(64, seeded(1))
    errors = []
    for sigma_min in sigmas:
        process = VESDE(sigma_min=sigma_min)
        found = log_likelihood(
            AnalyticDenoiser(density, process),
            x0,
            truncation=truncation,
            prior=marginal_at_t_max(density, process),
            rtol=1e-8,
            atol=1e-8,
        )
        errors.append((found.log_prob - density.log_prob(x0)).abs().mean().item())
    assert np.polyfit(np.log(sigmas), np.log(errors), 1)[0] == pytest.approx(power, abs=0.3)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("process", [VPSDE(), VESDE(sigma_min=0.1), DDPMProcess(40)], ids=name)
def test_smoothed_is_exactly_the_density_of_data_with_the_noise_of_t_min(process):
    density, level = mixture(2), at_t_min(process)
    x0 = density.sample(16, seeded(1))
    found = log_likelihood(
        AnalyticDenoiser(density, process),
        x0,
        truncation="smoothed",
        prior=marginal_at_t_max(density, process),
        rtol=1e-8,
        atol=1e-8,
    )
    expected = density.log_prob(x0, sigma=level.sigma / level.alpha)
    torch.testing.assert_close(found.log_prob, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("process", [VPSDE(), VESDE(sigma_min=0.3), DDPMProcess(40)], ids=name)
def test_the_bound_is_in_the_mean_over_the_noise_what_it_should_be_and_below_the_log_p_of_its_model(process):
    """Gaussian data, by Gauss-Hermite quadrature: all of (23) is quadratic in ε."""
    mean, variance, level = 0.7, 0.3, at_t_min(process)
    denoiser, x0 = AnalyticDenoiser(gaussian((1,), variance, mean), process), torch.tensor(1.4, dtype=D)
    normal = lambda mean, variance: Normal(torch.as_tensor(mean, dtype=D), math.sqrt(variance))  # noqa: E731
    node, weight = np.polynomial.hermite_e.hermegauss(5)
    epsilon, weight = torch.tensor(node), torch.tensor(weight / weight.sum())
    x = level.alpha * x0 + level.sigma * epsilon
    total = level.alpha**2 * variance + level.sigma**2
    guess = mean + level.alpha * variance / total * (x - level.alpha * mean)
    terms = (
        normal(level.alpha * mean, total).log_prob(x)
        + normal(guess, (level.sigma / level.alpha) ** 2).log_prob(x0)
        - normal(level.alpha * x0, level.sigma**2).log_prob(x)
    )
    expected = (weight * terms).sum().item()
    marginal = level.alpha**2 * variance**2 / total + (level.sigma / level.alpha) ** 2  # of the model's x0
    assert expected < normal(mean, marginal).log_prob(x0).item()
    num = 4000
    found = log_likelihood(
        denoiser,
        x0.expand(num, 1),
        truncation="bound",
        prior=marginal_at_t_max(denoiser.density, process),
        generator=seeded(),
    ).log_prob
    assert found.mean().item() == pytest.approx(expected, abs=4 * found.std().item() / math.sqrt(num) + 1e-5)


# Hutchinson


def z_scores(probe, num_probes, num=600):
    """(estimate − exact)/standard error for many points and probes."""
    density = mixture(16)
    x0 = density.sample(num, seeded(2))
    denoiser = AnalyticDenoiser(density, VPSDE())
    exact = log_likelihood(denoiser, x0, rtol=1e-4, atol=1e-4).log_prob
    found = log_likelihood(
        denoiser,
        x0,
        divergence="hutchinson",
        num_probes=num_probes,
        probe=probe,
        rtol=1e-4,
        atol=1e-4,
        generator=seeded(3),
    )
    return ((found.log_prob - exact) / found.standard_error).numpy()


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
@pytest.mark.slow
def test_the_standard_error_covers_the_truth_as_often_as_it_should(probe):
    """For K probes the score is Student's t with K − 1 degrees of freedom, but for the probes' own tails."""
    k = 12
    z = z_scores(probe, k)
    n, student = len(z), stats.t(k - 1)
    assert abs(z.mean()) < 4 * student.std() / math.sqrt(n) + 0.05  # a skewed sum leaves O(1/√K) behind
    assert z.var() == pytest.approx(student.var(), rel=0.2)
    for level in (0.5, 0.8, 0.95):
        covered = (abs(z) < student.ppf(0.5 + level / 2)).mean()
        assert covered == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / n) + 0.01)


@pytest.mark.slow
def test_all_signs_together_are_the_exact_trace(monkeypatch):
    signs = iter(torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)), dtype=D))
    module = importlib.import_module("scorelight.likelihood.log_likelihood")
    monkeypatch.setattr(module, "rademacher_like", lambda x, g: next(signs).expand_as(x))
    x0 = mixture(3).sample(4, seeded())
    denoiser, options = AnalyticDenoiser(mixture(3), VPSDE()), dict(rtol=1e-8, atol=1e-8)
    exact = log_likelihood(denoiser, x0, **options).log_prob
    found = log_likelihood(denoiser, x0, divergence="hutchinson", num_probes=8, **options).log_prob
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-6)


def test_one_probe_has_no_standard_error_and_many_dimensions_get_probes():
    small, large = (gaussian((n,), 0.5) for n in (32, 33))
    exact, sliced = (
        log_likelihood(
            AnalyticDenoiser(d, VPSDE()), d.sample(2, seeded()), num_probes=1, rtol=1e-2, atol=1e-2
        )
        for d in (small, large)
    )
    assert not exact.standard_error.any() and sliced.standard_error.isnan().all()


# How it is computed


@pytest.mark.one_in(3)
@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
@pytest.mark.parametrize("truncation", ["smoothed", "corrected", "bound"])
def test_one_call_of_the_network_per_evaluation_and_every_one_is_counted(divergence, truncation):
    spy, x0 = (
        Spy(AnalyticDenoiser(mixture(2), VPSDE())),
        mixture(2).sample(8, seeded()),
    )
    found = log_likelihood(spy, x0, divergence=divergence, truncation=truncation, generator=seeded())
    assert spy.examples == found.num_evaluations.sum()
    assert spy.calls == found.num_evaluations.max()


@pytest.mark.parametrize("process", [VESDE(), DDPMProcess()], ids=name)
@pytest.mark.parametrize(("divergence", "truncation"), [("exact", "corrected"), ("hutchinson", "bound")])
@pytest.mark.one_in(3)
def test_an_example_does_not_depend_on_its_batch(process, divergence, truncation):
    denoiser, x0 = (
        AnalyticDenoiser(mixture(2), process),
        mixture(2).sample(6, seeded()),
    )
    run = functools.partial(log_likelihood, denoiser, divergence=divergence, truncation=truncation)
    whole = run(x0, generator=PhiloxGenerator(0, range(6)))
    for indices in ([4], [5, 0, 2]):
        part = run(x0[indices], generator=PhiloxGenerator(0, indices))
        torch.testing.assert_close(part.log_prob, whole.log_prob[indices], rtol=1e-11, atol=1e-11)
        assert torch.equal(part.num_evaluations, whole.num_evaluations[indices])


@pytest.mark.parametrize("truncation", ["smoothed", "corrected"])
@pytest.mark.slow
def test_equal_steps_cost_what_was_asked_for_and_come_to_the_same(truncation):
    denoiser, x0 = (
        AnalyticDenoiser(mixture(2), VPSDE()),
        mixture(2).sample(64, seeded()),
    )
    exact = log_likelihood(denoiser, x0, truncation=truncation, rtol=1e-8, atol=1e-8)
    errors = {}
    for num_steps in (50, 100, 200):
        found = log_likelihood(denoiser, x0, truncation=truncation, num_steps=num_steps)
        assert (found.num_evaluations == num_steps + 1 + (truncation == "corrected")).all()
        errors[num_steps] = (found.log_prob - exact.log_prob).square().mean().sqrt().item()
    assert errors[100] < 0.2 * errors[50] and errors[200] < 0.2 * errors[100] and errors[200] < 2e-4


@pytest.mark.parametrize("process", [VPSDE(), SMLDProcess(30)], ids=name)
@pytest.mark.parametrize(
    ("divergence", "parameterization"), [("exact", Velocity()), ("hutchinson", Epsilon())], ids=["exact", "h"]
)
def test_inference_mode_gives_the_same(process, divergence, parameterization):
    denoiser = random_denoiser((2, 3), process, parameterization)
    x0 = torch.randn(3, 2, 3, generator=seeded())
    run = functools.partial(
        log_likelihood, denoiser, divergence=divergence, num_probes=2, rtol=1e-3, atol=1e-3
    )
    expected = run(x0, generator=seeded()).log_prob
    with torch.inference_mode():
        found = run(x0.clone(), generator=seeded()).log_prob
    assert torch.equal(found, expected) and found.isfinite().all() and not found.requires_grad


def test_a_learned_process_is_followed_under_inference_mode_too():
    process, density = LearnedVPSDE(width=16), gaussian((2,), 0.4, 0.5)
    x0 = density.sample(3, seeded())
    with torch.inference_mode():
        found = log_likelihood(
            AnalyticDenoiser(density, process), x0, prior=marginal_at_t_max(density, process)
        ).log_prob
    torch.testing.assert_close(found.clone(), density.log_prob(x0), rtol=0, atol=2e-4)


def test_a_network_has_a_density_that_integrates_to_one():
    denoiser = random_denoiser((1,), VPSDE(), EDM()).double()
    x0 = torch.linspace(-12, 12, 601, dtype=D)[:, None]
    density = log_likelihood(denoiser, x0, truncation="smoothed", rtol=1e-4, atol=1e-4).log_prob.exp()
    assert torch.trapezoid(density, x0[:, 0]).item() == pytest.approx(1, abs=2e-3)


def test_conditions_go_with_their_examples():
    denoiser = ConditionalGaussianDenoiser(VPSDE())
    x0, mean = torch.randn(4, 2, generator=seeded(), dtype=D), torch.tensor([[-3.0], [0.0], [0.5], [4.0]])
    found = log_likelihood(denoiser, x0 * 0.1 + mean, mean=mean, std=0.1, rtol=1e-6, atol=1e-6).log_prob
    t, s = VPSDE().grid_levels(torch.tensor([1.0, VPSDE().t_min], dtype=D))
    gain = math.sqrt((s.alpha**2 * 0.01 + s.sigma**2) / (t.alpha**2 * 0.01 + t.sigma**2))
    sampled = Normal(mean * (1 - gain * t.alpha / s.alpha), gain * t.sigma / s.alpha)
    smoothed = log_likelihood(
        denoiser, x0 * 0.1 + mean, mean=mean, std=0.1, truncation="smoothed", rtol=1e-7, atol=1e-7
    )
    torch.testing.assert_close(smoothed.log_prob, sampled.log_prob(x0 * 0.1 + mean).sum(1), rtol=0, atol=1e-4)
    assert (found - smoothed.log_prob).abs().max() < 0.1


@pytest.mark.slow
def test_ranks_with_unequal_work_do_not_wait_for_each_other(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        """
import sys, torch
import torch.distributed as dist
from scorelight import AnalyticDenoiser, GaussianMixture, LikelihoodProtocol, VPSDE
from scorelight import bits_per_dim, log_likelihood, variational_bound
torch.set_num_threads(1)
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
density = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1))
denoiser = AnalyticDenoiser(density, VPSDE())
for _ in range(2 * rank):
    x0 = density.sample(1 + 4 * rank)
    log_likelihood(denoiser, x0, rtol=1e-2, atol=1e-2)
    bits_per_dim(denoiser, (x0 > 0).long(), LikelihoodProtocol(num_bins=2))
    variational_bound(denoiser, x0, num_slices=3)
total = torch.tensor([rank])
dist.all_reduce(total)
assert total.item() == 1
dist.destroy_process_group()
"""
    )
    command = [sys.executable, str(script)]
    ranks = [subprocess.Popen([*command, str(rank), str(tmp_path / "store")]) for rank in (0, 1)]
    assert [process.wait(timeout=60) for process in ranks] == [0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"divergence": "exakt"}, "divergence='exakt'; did you mean 'exact'"),
        ({"probe": "sphere"}, "probe='sphere'; allowed: gaussian, rademacher"),
        ({"truncation": "none"}, "truncation='none'"),
        ({"num_probes": 0}, "num_probes=0"),
        ({"rtol": -1.0}, "rtol=-1.0"),
        ({"num_steps": 0}, "num_steps=0"),
    ],
    ids=str,
)
def test_options_are_checked(options, message):
    with pytest.raises(ConfigurationError, match=message):
        log_likelihood(AnalyticDenoiser(mixture(2), VPSDE()), torch.zeros(1, 2), **options)


def test_integers_have_no_density():
    with pytest.raises(ConfigurationError, match="bits_per_dim"):
        log_likelihood(AnalyticDenoiser(mixture(2), VPSDE()), torch.zeros(1, 2, dtype=torch.uint8))
