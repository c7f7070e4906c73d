"""x̂0 stays in the range of the data, and x_t = α x̂0 + σ ε̂ still holds."""

import math

import pytest
import torch
from support.densities import gaussian, mixture
from support.networks import random_mlp

from scorelight import (
    DDIM,
    EDM,
    RK45,
    VESDE,
    VPSDE,
    X0,
    AnalyticDenoiser,
    AncestralSampler,
    ClippedDenoiser,
    ConfigurationError,
    DDPMProcess,
    DPMSolverPP,
    Epsilon,
    EulerMaruyama,
    Heun,
    NetworkDenoiser,
    Prediction,
    RectifiedFlow,
    Velocity,
)
from scorelight.storage.component import spec

D = torch.float64
PROCESSES = [VPSDE(), VESDE(), RectifiedFlow(), DDPMProcess(50)]
name = lambda value: type(value).__name__  # noqa: E731
every_process = pytest.mark.parametrize("process", PROCESSES, ids=name)
DENSITY = mixture(2)


def drawn(process, generator, num=40):
    """x_t of data that leave [−0.5, 0.5], at times from t_min to t_max."""
    t = torch.linspace(process.t_min, process.t_max, num, dtype=D)
    noise = torch.randn(num, 2, dtype=D, generator=generator)
    return process.perturb(DENSITY.sample(num, generator), noise, t), t


@every_process
@pytest.mark.parametrize("space", [Epsilon(), X0(), Velocity(), EDM(0.5)], ids=name)
def test_x0_is_in_the_range_and_x_t_is_the_sum_of_its_parts(process, space, generator):
    denoiser = NetworkDenoiser(random_mlp((2,)), process, space)
    x_t, t = drawn(process, generator)
    pred, inner, level = (
        ClippedDenoiser(denoiser, -0.5, 0.3)(x_t, t),
        denoiser(x_t, t),
        process.at(t, like=x_t),
    )
    assert torch.equal(pred.x0, inner.x0.clamp(-0.5, 0.3)) and (pred.x0 != inner.x0).any()
    parts = level.alpha * pred.x0, level.sigma * pred.epsilon
    size = parts[0].abs() + parts[1].abs() + x_t.abs()  # rounding is relative to the terms of the sum
    assert ((parts[0] + parts[1] - x_t).abs() < 1e-14 * size).all()
    torch.testing.assert_close(
        pred.score, (level.alpha * pred.x0 - x_t) / level.sigma**2, rtol=1e-9, atol=1e-9
    )


@every_process
def test_where_nothing_is_clipped_it_is_the_other_denoiser(process, generator):
    denoiser, (x_t, t) = AnalyticDenoiser(DENSITY, process), drawn(process, generator)
    pred, inner = ClippedDenoiser(denoiser, -1e3, 1e3)(x_t, t), denoiser(x_t, t)
    for quantity in ("x0", "epsilon", "score", "velocity"):
        scale = getattr(inner, quantity).abs().amax(1, keepdim=True)
        assert ((getattr(pred, quantity) - getattr(inner, quantity)).abs() < 1e-9 * (scale + 1)).all()


def test_the_learned_variance_is_kept(generator):
    denoiser = NetworkDenoiser(random_mlp((2,), learned_variance=True), VPSDE(), Epsilon())
    x_t, t = drawn(VPSDE(), generator)
    fraction = ClippedDenoiser(denoiser)(x_t, t).variance_fraction
    assert torch.equal(fraction, denoiser(x_t, t).variance_fraction)


def test_the_unconditional_prediction_is_clipped_too(generator):
    denoiser = NetworkDenoiser(random_mlp((2,), num_classes=3), VPSDE(), Epsilon())
    x_t, _ = drawn(VPSDE(), generator, 4)
    level, label = VPSDE().at(torch.tensor(0.9), like=x_t), torch.tensor([0, 1, 2, 0])
    expected = denoiser.unconditional(x_t, level, label=label).x0.clamp(-0.1, 0.1)
    assert torch.equal(
        ClippedDenoiser(denoiser, -0.1, 0.1).unconditional(x_t, level, label=label).x0, expected
    )


SAMPLERS = [
    DDIM(10),
    Heun(10),
    AncestralSampler(10),
    EulerMaruyama(10),
    DPMSolverPP(10),
    RK45(rtol=1e-3, atol=1e-3),
]


@pytest.mark.one_in(4)
@every_process
@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_samples_end_in_the_range(process, sampler, generator):
    denoiser = ClippedDenoiser(AnalyticDenoiser(gaussian((2,), 4.0), process))
    x = sampler(denoiser, torch.randn(64, 2, dtype=D, generator=generator), generator=generator)
    assert x.abs().max() <= 1 and (x.abs() == 1).any()


def test_ddim_on_a_single_point_outside_the_range_ends_at_its_projection():
    """x̂0 is constant then, and DDIM is exact: every state is α x̂0 + σ times the start noise."""
    denoiser = ClippedDenoiser(AnalyticDenoiser(gaussian((2,), 0.0, 3.0), VPSDE()))
    noise = torch.tensor([[0.3, -1.2]], dtype=D)
    (*_, state, last), levels = [*DDIM(8).sample_path(denoiser, noise)], DDIM(8).levels(VPSDE())
    first, at = levels[0], levels[-1]
    epsilon = noise - first.alpha / first.sigma  # x_t is σ times the noise, and not α + σ ε
    torch.testing.assert_close(state, at.alpha + at.sigma * epsilon)
    assert torch.equal(last, torch.ones(1, 2, dtype=D))


@pytest.mark.parametrize(("low", "high"), [(1.0, -1.0), (0.5, 0.5), (math.nan, 1.0)])
def test_the_range_is_checked(low, high):
    with pytest.raises(ConfigurationError, match="low < high is needed"):
        ClippedDenoiser(AnalyticDenoiser(DENSITY, VPSDE()), low, high)


def test_it_is_named_by_its_options():
    network = random_mlp((2,))
    entry = spec(ClippedDenoiser(NetworkDenoiser(network, VPSDE(), Epsilon()), high=0.5))
    assert entry["class_path"] == "scorelight.ClippedDenoiser"
    assert entry["init_args"]["high"] == 0.5
    assert entry["init_args"]["denoiser"]["class_path"] == "scorelight.NetworkDenoiser"
    assert isinstance(
        ClippedDenoiser(NetworkDenoiser(network, VPSDE(), X0()))(torch.zeros(1, 2), torch.ones(1)), Prediction
    )


def test_a_dynamic_threshold_scales_what_is_beyond_the_range(generator):
    """By the definition of Saharia et al. (2022), sec. 2.3, written out for data in [0, 4]."""
    process, x = VPSDE(), torch.randn(5, 40, dtype=D, generator=generator)
    x[:2] *= 0.1  # within the range
    network = random_mlp((40,), std=3.0)
    denoiser = NetworkDenoiser(network, process, X0())
    level = process.grid_levels(torch.tensor([0.5]))[0]
    plain = denoiser.predict(x, level).x0
    found = ClippedDenoiser(denoiser, 0.0, 4.0, quantile=0.9).predict(x, level).x0
    for row, value in zip(plain, found, strict=True):
        u = (row - 2) / 2
        r = max(1.0, u.abs().quantile(0.9).item())
        torch.testing.assert_close(value, 2 + 2 * u.clamp(-r, r) / r)
    assert not torch.equal(found, plain.clamp(0, 4))


@pytest.mark.parametrize("quantile", [0.0, 1.1, math.nan])
def test_a_quantile_out_of_range_is_refused(quantile):
    denoiser = AnalyticDenoiser(DENSITY, VPSDE())
    with pytest.raises(ConfigurationError, match="0 < quantile <= 1"):
        ClippedDenoiser(denoiser, quantile=quantile)
