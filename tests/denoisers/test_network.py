import math

import pytest
import torch
from torch import nn

from scorelight import (
    EDM,
    MLP,
    VESDE,
    VPSDE,
    X0,
    CountingDenoiser,
    Denoiser,
    Epsilon,
    ForwardProcess,
    NetworkDenoiser,
    Score,
    SubVPSDE,
    Velocity,
    VPrediction,
)

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


def test_a_denoiser_without_predict_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Denoiser()


def test_a_counted_denoiser_answers_as_the_other_and_counts(generator):
    inner = NetworkDenoiser(network(), VPSDE(), Epsilon())
    counted = CountingDenoiser(inner)
    x_t, t = torch.randn(4, 3, 2, dtype=D, generator=generator), torch.full((4,), 0.3, dtype=D)
    assert counted.num_evaluations == 0
    for n in (1, 2, 3):
        pred, expected = counted(x_t, t), inner(x_t, t)
        assert torch.equal(pred.x0, expected.x0) and torch.equal(pred.epsilon, expected.epsilon)
        assert counted.num_evaluations == n
    assert counted.process is inner.process


def test_a_counted_denoiser_passes_conditions_on():
    recorder = Recorder()
    counted = CountingDenoiser(NetworkDenoiser(recorder, VPSDE(), Epsilon()))
    counted(torch.ones(2, 3), torch.full((2,), 0.3), label=5)
    assert recorder.cond == {"label": 5}
