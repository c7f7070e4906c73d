import math

import pytest
import torch
from support.densities import mixture
from support.oracles import marginal_at_t_max
from torch import nn

from scorelight import (
    EDM,
    MLP,
    RK45,
    VESDE,
    VPSDE,
    X0,
    AnalyticDenoiser,
    DDPMProcess,
    Epsilon,
    ForwardProcess,
    Heun,
    NetworkDenoiser,
    Parameterization,
    Score,
    ScoreNetwork,
    SubVPSDE,
    Velocity,
    VPrediction,
    log_likelihood,
)
from scorelight.conditions import NO_CLASS

D = torch.float64
PROCESSES = [VPSDE(), SubVPSDE(), VESDE()]
SPACES = [Epsilon(), Score(), X0(), VPrediction(), Velocity(), EDM(0.5)]
name = lambda value: type(value).__name__  # noqa: E731
every_process = pytest.mark.parametrize("process", PROCESSES, ids=name)
every_space = pytest.mark.parametrize("space", SPACES, ids=name)


class VarianceExplodingTwin(ForwardProcess):
    # the same noise-to-signal ratio with the data left unscaled: x_t / alpha of the other process

    def __init__(self, process):
        super().__init__(process.t_min, process.t_max)
        self.process = process

    def alpha(self, t):
        return torch.ones_like(t)

    def sigma(self, t):
        return self.process.sigma(t) / self.process.alpha(t)


class Recorder(nn.Module):
    def forward(self, x, noise_label, **cond):
        self.x, self.noise_label, self.cond = x, noise_label, cond
        return torch.zeros_like(x)


def network(dtype=D, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = MLP((3, 2), width=16, depth=1)
        nn.init.normal_(net.last.weight)
    return net.to(dtype)


@pytest.mark.parametrize("process", [VPSDE(), SubVPSDE()], ids=name)
@pytest.mark.parametrize("space", [Epsilon(), X0(), EDM(0.5)], ids=name)
def test_scaling_the_data_by_alpha_changes_nothing(process, space, generator):
    twin, net = VarianceExplodingTwin(process), network()
    x_t = torch.randn(9, 3, 2, dtype=D, generator=generator)
    t = torch.linspace(0.001, 0.9, 9, dtype=D)
    pred = NetworkDenoiser(net, process, space)(x_t, t)
    scaled = x_t / process.alpha(t)[:, None, None]
    other = NetworkDenoiser(net, twin, space)(scaled, t)
    torch.testing.assert_close(pred.x0, other.x0, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(pred.epsilon, other.epsilon, rtol=1e-10, atol=1e-10)


@every_process
@pytest.mark.parametrize("sigma_data", [0.25, 1.0, 2.0])
@pytest.mark.parametrize("t", [0.01, 0.3, 1.0])
def test_the_network_sees_unit_variance(process, sigma_data, t, generator):
    x0, epsilon = torch.randn(2, 20_000, 2, dtype=D, generator=generator)
    net, time = Recorder(), torch.tensor(t)
    x_t = process.perturb(sigma_data * x0, epsilon, time)
    NetworkDenoiser(net, process, EDM(sigma_data))(x_t, time)
    assert abs(net.x.var() - 1) < 5 * math.sqrt(2 / net.x.numel())  # standard error of a normal variance


@every_space
def test_data_of_unit_spread_is_assumed_unless_the_parameterization_says_otherwise(space):
    net, x_t, process = Recorder(), torch.ones(1, 2, dtype=D), VESDE(1.0, 10.0)
    NetworkDenoiser(net, process, space)(x_t, torch.zeros(1))
    assert net.x[0, 0].item() == pytest.approx((1 + space.sigma_data**2) ** -0.5)


@every_process
@pytest.mark.parametrize("t", [torch.linspace(0.01, 1, 4), torch.tensor(0.3)], ids=["per example", "one"])
def test_the_noise_label_is_the_log_of_sigma_over_alpha(process, t):
    net = Recorder()
    NetworkDenoiser(net, process, Epsilon())(torch.zeros(4, 3, 2, dtype=D), t)
    expected = (process.sigma(t.double()) / process.alpha(t.double())).log().expand(4)
    torch.testing.assert_close(net.noise_label, expected)


@every_process
def test_the_noise_label_of_a_level_of_floats_has_one_entry_per_example(process):
    net, level = Recorder(), process.grid_levels(torch.tensor([0.3]))[0]
    NetworkDenoiser(net, process, Epsilon()).predict(torch.zeros(4, 3, 2), level)
    assert net.noise_label.shape == (4,)
    assert net.noise_label.tolist() == pytest.approx([math.log(level.sigma / level.alpha)] * 4, rel=1e-6)


@pytest.mark.parametrize("seen", [torch.float32, D])
@pytest.mark.parametrize("own", [torch.float32, D])
def test_the_prediction_has_the_type_of_the_data_whatever_the_network_computes_in(seen, own):
    x_t = torch.ones(4, 3, 2, dtype=seen)
    pred = NetworkDenoiser(network(own), VPSDE(), EDM(0.5))(x_t, torch.linspace(0.1, 1, 4))
    assert {pred.output.dtype, pred.x0.dtype, pred.epsilon.dtype, pred.velocity.dtype} == {seen}


@every_process
@every_space
def test_levels_of_floats_and_of_tensors_give_the_same_prediction(process, space, generator):
    denoiser = NetworkDenoiser(network(), process, space)
    x_t = torch.randn(4, 3, 2, dtype=D, generator=generator)
    single = denoiser.predict(x_t, process.grid_levels(torch.tensor([0.3], dtype=D))[0])
    torch.testing.assert_close(single.x0, denoiser(x_t, torch.tensor(0.3, dtype=D)).x0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_predictions_need_no_autograd(mode, generator):
    denoiser, x_t = NetworkDenoiser(network(), VPSDE(), Epsilon()), torch.ones(4, 3, 2, dtype=D)
    t = torch.linspace(0.1, 1, 4)
    expected = denoiser(x_t, t).score
    with mode():
        assert torch.equal(denoiser(x_t, t).score, expected)


def test_conditions_reach_the_network():
    net, label = Recorder(), torch.arange(4)
    cond = {"label": label, "text": "a cat"}
    NetworkDenoiser(net, VPSDE(), Epsilon())(torch.zeros(4, 2), torch.full((4,), 0.5), **cond)
    assert net.cond == cond
    assert net.cond["label"] is label


def test_the_output_of_the_network_is_taken_in_the_units_of_the_parameterization(generator):
    x_t, net = torch.randn(4, 3, 2, dtype=D, generator=generator), network()
    t = torch.linspace(0.1, 1, 4)
    x0, epsilon = (NetworkDenoiser(net, VPSDE(), space)(x_t, t) for space in (X0(), Epsilon()))
    torch.testing.assert_close(x0.x0, epsilon.epsilon)


def test_gradients_reach_every_weight():
    denoiser = NetworkDenoiser(network(), VPSDE(), Epsilon())
    denoiser(torch.ones(4, 3, 2, dtype=D), torch.linspace(0.1, 1, 4)).x0.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in denoiser.parameters())


class TimestepEpsilon(Parameterization):
    """ε of a network that was trained elsewhere: on unscaled x_t and labels 999 t."""

    def coefficients(self, level):
        return 0.0, 1.0

    def input_scale(self, level):
        return 1.0

    def noise_label(self, level):
        return 999 * level.time


class ExactNetwork(ScoreNetwork):
    """The exact ε̂ of a density as a function of x_t itself and of the label 999 t."""

    def __init__(self, density, process):
        super().__init__(density.shape)
        self.exact = AnalyticDenoiser(density, process)

    def forward(self, x, noise_label, label=None):
        return self.exact(x, noise_label / 999).epsilon


MIXTURE = mixture(2)
timesteps = pytest.mark.parametrize("process", [VPSDE(), VESDE(), DDPMProcess(50)], ids=name)


def timestep_denoiser(process):
    return NetworkDenoiser(ExactNetwork(MIXTURE, process), process, TimestepEpsilon())


@timesteps
@pytest.mark.parametrize("floats", [False, True])
def test_a_network_trained_elsewhere_is_given_its_own_input_and_labels(process, floats, generator):
    net, x_t = network(), torch.randn(4, 3, 2, dtype=D, generator=generator)
    t = torch.full((4,), 0.3, dtype=D)
    denoiser = NetworkDenoiser(net, process, TimestepEpsilon())
    pred = denoiser.predict(x_t, process.grid_levels(t)[0]) if floats else denoiser(x_t, t)
    torch.testing.assert_close(pred.epsilon, net(x_t, 999 * t), rtol=1e-12, atol=0)


@timesteps
@pytest.mark.one_in(3)
def test_a_network_trained_elsewhere_predicts_samples_and_has_the_density_of_its_density(process, generator):
    ours, exact = timestep_denoiser(process), AnalyticDenoiser(MIXTURE, process)
    x0, noise = MIXTURE.sample(8, generator), torch.randn(8, 2, dtype=D, generator=generator)
    t = torch.linspace(process.t_min, process.t_max, 8, dtype=D)
    x_t = process.perturb(x0, noise, t)
    torch.testing.assert_close(ours(x_t, t).x0, exact(x_t, t).x0, rtol=1e-9, atol=1e-9)
    for sampler in (Heun(10), RK45()):
        torch.testing.assert_close(sampler(ours, noise), sampler(exact, noise), rtol=1e-8, atol=1e-8)
    prior = marginal_at_t_max(MIXTURE, process)
    log_prob = log_likelihood(ours, x0, prior=prior).log_prob
    torch.testing.assert_close(log_prob, log_likelihood(exact, x0, prior=prior).log_prob, rtol=0, atol=1e-7)
    if process.num_timesteps is None:
        torch.testing.assert_close(log_prob, MIXTURE.log_prob(x0), rtol=0, atol=2e-4)


@pytest.mark.parametrize("floats", [False, True])
def test_the_unconditional_prediction_is_that_of_the_class_none(floats, generator):
    process, net = VPSDE(), MLP((3, 2), width=16, depth=1, num_classes=5).double()
    nn.init.normal_(net.last.weight, generator=generator)
    denoiser = NetworkDenoiser(net, process, Epsilon())
    x_t, t = torch.randn(4, 3, 2, dtype=D, generator=generator), torch.full((4,), 0.3, dtype=D)
    level = process.grid_levels(t)[0] if floats else process.at(t, like=x_t)
    labels = torch.tensor([0, 1, 4, NO_CLASS])
    without = denoiser.unconditional(x_t, level, label=labels).output
    assert torch.equal(without, denoiser.predict(x_t, level, label=torch.full((4,), NO_CLASS)).output)
    assert torch.equal(without, denoiser.unconditional(x_t, level).output)
    differs = (without != denoiser.predict(x_t, level, label=labels).output).flatten(1).any(1)
    assert differs.tolist() == [True, True, True, False]


def test_a_dropped_condition_that_is_no_label_is_zero():
    class Conditional(ScoreNetwork):
        def forward(self, x, noise_label, label=None, image=None):
            return image

    denoiser, x_t = NetworkDenoiser(Conditional((2,)), VPSDE(), X0()), torch.zeros(3, 2)
    level, image = VPSDE().at(torch.tensor(0.3), like=x_t), torch.ones(3, 2)
    assert torch.equal(denoiser.predict(x_t, level, image=image).x0, image)
    assert torch.equal(denoiser.unconditional(x_t, level, image=image).x0, torch.zeros(3, 2))
