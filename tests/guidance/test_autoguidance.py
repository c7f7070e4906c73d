"""Autoguidance: its formula, what it costs, its closed form on Gaussians, and which models fit together."""

import pytest
import torch
from support.densities import gaussian
from support.networks import random_denoiser

from scorelight import (
    EDM,
    VESDE,
    VPSDE,
    X0,
    AnalyticDenoiser,
    Autoguidance,
    ConfigurationError,
    CountingDenoiser,
    DDPMProcess,
    Epsilon,
    Heun,
    LogSNRGrid,
    RectifiedFlow,
    Score,
    Velocity,
    VPrediction,
)

D = torch.float64
name = lambda value: type(value).__name__  # noqa: E731


@pytest.mark.parametrize("process", [VPSDE(), VESDE(), RectifiedFlow(), DDPMProcess(50)], ids=name)
@pytest.mark.parametrize("other", [Epsilon(), X0(), Score(), VPrediction(), Velocity(), EDM(0.7)], ids=name)
def test_every_prediction_is_the_combination_of_the_two(process, other, generator):
    model = random_denoiser((3,), process, VPrediction()).to(D)
    weaker = random_denoiser((3,), process, other, std=0.4).to(D)
    x, times = torch.randn(5, 3, dtype=D, generator=generator), torch.linspace(0.2, 0.9, 5, dtype=D)
    for level in (process.grid_levels(times[2:3])[0], process.at(times, like=x)):
        good, bad = model.predict(x, level), weaker.predict(x, level)
        found = Autoguidance(model, weaker, 2.5).predict(x, level)
        for what in ("x0", "epsilon", "score", "velocity"):
            expected = getattr(bad, what) + 2.5 * (getattr(good, what) - getattr(bad, what))
            torch.testing.assert_close(getattr(found, what), expected, rtol=1e-6, atol=1e-6)


def test_outside_of_the_interval_and_at_scale_one_the_weaker_model_is_not_asked(generator):
    process = VESDE()
    counted = CountingDenoiser(random_denoiser((3,), process, Epsilon()).to(D))
    model, x = random_denoiser((3,), process, Epsilon(), 0.5).to(D), torch.randn(2, 3, dtype=D)
    levels = process.grid_levels(process.time_of_log_snr(-2 * torch.tensor([0.1, 1.0, 10.0], dtype=D).log()))
    for guided in (Autoguidance(model, counted, 3.0, (0.5, 2.0)), Autoguidance(model, counted, 1.0)):
        same = [torch.equal(guided.predict(x, at).output, model.predict(x, at).output) for at in levels]
        assert same == ([True, False, True] if guided.interval else [True, True, True])
    assert counted.num_evaluations == 1


@pytest.mark.parametrize("scale", [1.0, 1.5, 2.0, 3.0])
def test_the_probability_flow_ends_at_its_closed_form(scale):
    """Data N(0, c²), worse data N(0, c² + δ²); the flow is linear, and σ_max = 10⁴ stands for infinity."""
    process, c2, d2 = VESDE(sigma_min=1e-3, sigma_max=1e4), 0.7, 0.4
    good, bad = (AnalyticDenoiser(gaussian((1,), v), process) for v in (c2, c2 + d2))
    x = Heun(400, LogSNRGrid())(Autoguidance(good, bad, scale), torch.ones(1, 1, dtype=D))
    assert x.item() ** 2 == pytest.approx(c2 * (c2 / (c2 + d2)) ** (scale - 1), rel=0.01)


def test_a_model_of_another_process_is_refused():
    good, bad = (AnalyticDenoiser(gaussian((1,), 1.0), p) for p in (VPSDE(), VPSDE(beta_max=10.0)))
    with pytest.raises(
        ConfigurationError, match=r"Autoguidance: the process of weaker, .*of the same process"
    ):
        Autoguidance(good, bad)
    Autoguidance(good, AnalyticDenoiser(gaussian((1,), 1.0), VPSDE()))


def test_a_checkpoint_that_is_missing_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="nowhere"):
        Autoguidance(AnalyticDenoiser(gaussian((1,), 1.0), VPSDE()), tmp_path / "nowhere")


def test_the_weaker_model_does_not_learn_and_has_no_dropout():
    model = random_denoiser((3,), VPSDE(), Epsilon())
    weaker = random_denoiser((3,), VPSDE(), Epsilon()).train()
    guided = Autoguidance(model, weaker)
    assert not weaker.training and not any(p.requires_grad for p in guided.weaker.parameters())
