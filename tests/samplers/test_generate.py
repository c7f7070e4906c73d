"""Sample i is a function of (seed, i): `generate` against the sampler by hand, and in other batches."""

import functools
from collections.abc import Iterator

import pytest
import torch
from support.denoisers import ConditionalGaussianDenoiser, ZeroDenoiser
from support.densities import mixture
from support.networks import random_denoiser

from scorelight import (
    DDIM,
    RK45,
    VESDE,
    VPSDE,
    AnalyticDenoiser,
    AncestralSampler,
    AnnealedLangevin,
    CountingDenoiser,
    DDPMProcess,
    DPMSolverPP,
    Epsilon,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
    generate,
)
from scorelight.rng import PhiloxGenerator, randn_like

PROCESSES = [VPSDE(), VESDE(), DDPMProcess(50)]
name = lambda value: type(value).__name__  # noqa: E731
every_process = pytest.mark.parametrize("process", PROCESSES, ids=name)
SAMPLERS = [
    DDIM(6),
    Heun(6),
    RK45(rtol=1e-3, atol=1e-3),
    AncestralSampler(6),
    EulerMaruyama(6),
    DDIM(6, eta=1.0),
    DPMSolverPP(6, stochastic=True),
    PredictorCorrector(6),
]
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: f"{name(s)}{s.order}")


def last(states):
    *_, state = states
    return state


@pytest.mark.one_in(4)
@every_process
@every_sampler
def test_it_is_the_sampler_on_the_noise_of_the_generators(process, sampler):
    denoiser, indices = random_denoiser((3, 2), process, Epsilon()), [4, 0, 2**31]
    generators = PhiloxGenerator(7, indices)
    noise = randn_like(torch.empty(3, 3, 2), generators)
    with torch.no_grad():
        expected = list(sampler.sample_path(denoiser, noise, generator=generators))
    states = list(generate(denoiser, sampler, (3, 2), 7, indices))
    assert len(states) == sampler.num_steps
    for state, other in zip(states, expected, strict=True):
        assert torch.equal(state, other) and state.dtype == torch.float32


@pytest.mark.one_in(4)
@every_process
@every_sampler
def test_sample_i_is_the_same_in_every_batch(process, sampler):
    denoiser = AnalyticDenoiser(mixture(2), process)
    draw = lambda indices: last(generate(denoiser, sampler, (2,), 3, indices))  # noqa: E731
    together = draw(range(6))
    for indices in ([4], [5, 0, 2]):
        torch.testing.assert_close(draw(indices), together[indices], rtol=1e-4, atol=1e-4)
    assert len(together.unique(dim=0)) == 6


@pytest.mark.parametrize("sampler", [DDIM(4), AncestralSampler(4), AnnealedLangevin(4)], ids=name)
def test_sample_i_is_the_same_to_the_bit_if_the_denoiser_is(sampler):
    draw = lambda seed, indices: last(generate(ZeroDenoiser(VESDE()), sampler, (3,), seed, indices))  # noqa: E731
    together = draw(0, range(5))
    assert torch.equal(draw(0, [3, 1]), together[[3, 1]])
    assert not torch.equal(draw(1, range(5)), together)


def test_seeds_of_64_bits_are_told_apart():
    draw = lambda seed: last(generate(ZeroDenoiser(VPSDE()), DDIM(2), (3,), seed, [0]))  # noqa: E731
    assert not torch.equal(draw(1), draw(1 + 2**32)) and not torch.equal(draw(2**64 - 1), draw(2**32 - 1))


def test_states_come_one_at_a_time_and_without_gradients():
    counting = CountingDenoiser(random_denoiser((2,), VPSDE(), Epsilon()))
    states = generate(counting, DDIM(5), (2,), 0, [0, 1])
    assert isinstance(states, Iterator) and counting.num_evaluations == 0
    for n, state in enumerate(states, 1):
        assert counting.num_evaluations == n and state.shape == (2, 2) and not state.requires_grad
    assert n == 5 and torch.is_grad_enabled()


def test_conditions_belong_to_their_samples():
    """A standard deviation of 0.01 leaves each sample at its own mean."""
    mean = torch.tensor([[-3.0], [0.0], [7.0]])
    cond = {"mean": mean, "std": torch.tensor(0.01)}
    draw = functools.partial(generate, ConditionalGaussianDenoiser(VESDE()), AncestralSampler(50), (2,), 0)
    together = last(draw([0, 1, 2], cond))
    assert (together - mean).abs().max() < 0.1
    alone = last(draw([2], {"mean": mean[2:], "std": torch.tensor(0.01)}))
    torch.testing.assert_close(alone, together[2:], rtol=1e-5, atol=1e-5)
