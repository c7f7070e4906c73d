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
    AnalyticDenoiser,
    Denoiser,
    DenoisingScoreMatching,
    Epsilon,
    EpsilonPrediction,
    GaussianMixture,
    NetworkDenoiser,
    Prediction,
    Score,
    SigmaSquaredWeighting,
    SubVPSDE,
    TimeSampler,
    UniformWeighting,
    Velocity,
    VPrediction,
)
from scorelight.rng import PhiloxGenerator

D = torch.float64
PROCESSES = [VPSDE(), SubVPSDE(), VESDE()]
SPACES = [Epsilon(), Score(), X0(), VPrediction(), Velocity(), EDM(0.5)]
name = lambda value: type(value).__name__  # noqa: E731
every_process = pytest.mark.parametrize("process", PROCESSES, ids=name)
every_space = pytest.mark.parametrize("space", SPACES, ids=name)
some_times = pytest.mark.parametrize("t", [0.05, 0.4, 1.0])

# size of a residual in each space relative to epsilon's, written out by hand
RELATIVE = {
    "Epsilon": lambda v: 1.0,
    "Score": lambda v: 1 / v.sigma,
    "X0": lambda v: v.sigma / v.alpha,
    "VPrediction": lambda v: v.alpha + v.sigma**2 / v.alpha,
    "Velocity": lambda v: v.g2 / (2 * v.sigma),
    "EDM": lambda v: math.sqrt(v.sigma**2 + 0.25 * v.alpha**2) / (0.5 * v.alpha),
}


class AtTime(TimeSampler):
    def __init__(self, t, weight=1.0):
        super().__init__()
        self.t, self.weight = t, weight

    def quantile(self, process, u):
        return torch.full_like(u, self.t), torch.full_like(u, self.weight)


class Changed(Denoiser):
    # the exact epsilon plus an affine function of x_t

    def __init__(self, exact, offset, slope):
        super().__init__()
        self.exact, self.process, self.offset, self.slope = exact, exact.process, offset, slope

    def predict(self, x_t, level, **cond):
        self.change = self.offset + self.slope * x_t
        return Prediction(x_t, level, self.exact.predict(x_t, level).epsilon + self.change, Epsilon())


class Restated(Denoiser):
    # the same prediction in the units of another parameterization

    def __init__(self, inner, space):
        super().__init__()
        self.inner, self.process, self.space = inner, inner.process, space

    def predict(self, x_t, level, **cond):
        pred = self.inner.predict(x_t, level)
        a, b = self.space.coefficients(level)
        return Prediction(x_t, level, a * pred.x0 + b * pred.epsilon, self.space)


class Recorder(nn.Module):
    def forward(self, x, noise_label, **cond):
        self.cond = cond
        return torch.zeros_like(x)


def network(process=None, space=None, shape=(3, 2), dtype=D):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MLP(shape, width=16, depth=1)
        nn.init.normal_(net.last.weight, std=0.1)
    return NetworkDenoiser(net.to(dtype), process or VPSDE(), space or Epsilon())


def seeded():
    return torch.Generator().manual_seed(1)


def data(n, shape=(3, 2), dtype=D):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(2), dtype=dtype)


@every_process
@every_space
def test_score_matching_weighted_by_sigma_squared_is_epsilon_prediction(process, space):
    denoiser, x0 = network(process, space), data(50)
    score = DenoisingScoreMatching(Score(), SigmaSquaredWeighting())(denoiser, x0, generator=seeded())
    epsilon = EpsilonPrediction()(denoiser, x0, generator=seeded())
    torch.testing.assert_close(score.value, epsilon.value, rtol=1e-10, atol=0)
    assert torch.equal(score.t, epsilon.t)


def test_score_matching_weighted_by_sigma_squared_is_the_default():
    default, written = DenoisingScoreMatching(), DenoisingScoreMatching(Score(), SigmaSquaredWeighting())
    losses = [objective(network(), data(5), generator=seeded()).value for objective in (default, written)]
    assert torch.equal(*losses)


@every_process
@every_space
@some_times
@pytest.mark.one_in(3)
def test_the_loss_of_every_space_is_a_known_multiple_of_the_epsilon_loss(process, space, t):
    denoiser, x0 = network(process), data(20)
    ask = lambda j: DenoisingScoreMatching(j, UniformWeighting(), AtTime(t))  # noqa: E731
    loss = ask(space)(denoiser, x0, generator=seeded()).value
    epsilon = ask(Epsilon())(denoiser, x0, generator=seeded()).value
    relative = RELATIVE[name(space)](process.grid_levels(torch.tensor([t], dtype=D))[0])
    torch.testing.assert_close(loss, relative**2 * epsilon, rtol=1e-10, atol=0)


@every_process
@every_space
def test_the_loss_does_not_depend_on_what_the_network_outputs(process, space):
    denoiser, x0 = network(process), data(20)
    direct, restated = (
        DenoisingScoreMatching()(d, x0, generator=seeded()).value
        for d in (denoiser, Restated(denoiser, space))
    )
    torch.testing.assert_close(restated, direct, rtol=1e-9, atol=1e-12)


@pytest.mark.one_in(3)
@every_process
@some_times
@pytest.mark.parametrize("spread", [0.2, 1.0, 3.0])
def test_the_exact_denoiser_of_gaussian_data_has_the_loss_of_the_closed_form(process, t, spread):
    # Var(epsilon | x_t) for x0 ~ N(0, s^2)
    n = 20_000
    density = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.tensor([spread**2], dtype=D))
    objective = EpsilonPrediction(AtTime(t))
    loss = objective(AnalyticDenoiser(density, process), spread * data(n, (1,)), generator=seeded()).value
    level = process.grid_levels(torch.tensor([t], dtype=D))[0]
    signal = (level.alpha * spread) ** 2
    assert abs(loss.mean() - signal / (signal + level.sigma**2)) < 5 * loss.std() / math.sqrt(n)


@pytest.mark.one_in(3)
@every_process
@some_times
@pytest.mark.parametrize(("offset", "slope"), [(0.3, 0.0), (0.0, 0.1), (-0.2, 0.3)])
def test_any_change_of_the_exact_denoiser_raises_the_loss_by_its_mean_square(process, t, offset, slope):
    n, means = 20_000, torch.tensor([[1.0, -1.0], [-2.0, 0.5]])
    density = GaussianMixture(torch.tensor([0.3, 0.7]), means, torch.tensor([0.2, 0.6]))
    x0, objective = density.sample(n, torch.Generator().manual_seed(3)), EpsilonPrediction(AtTime(t))
    exact = AnalyticDenoiser(density, process)
    changed = Changed(exact, offset, slope)
    loss, least = (objective(d, x0, generator=seeded()).value for d in (changed, exact))
    excess = (
        loss - least - changed.change.square().mean(1)
    )  # of mean 0 if and only if `exact` is the minimiser
    assert abs(excess.mean()) < 5 * excess.std() / math.sqrt(n)


@pytest.mark.parametrize("objective", [DenoisingScoreMatching(), EpsilonPrediction()], ids=name)
@pytest.mark.parametrize("shape", [(2,), (3, 5), (3, 4, 6)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_there_is_one_loss_and_one_time_per_example(objective, shape, dtype):
    process = VPSDE(t_min=0.2, t_max=0.6)
    loss = objective(network(process, shape=shape), data(5, shape, dtype), generator=seeded())
    assert loss.value.shape == loss.t.shape == (5,)
    assert loss.value.dtype == dtype
    assert ((loss.t >= 0.2) & (loss.t <= 0.6)).all()


def test_the_loss_is_the_mean_over_the_dimensions_and_not_the_sum():
    zero, x0 = NetworkDenoiser(Recorder(), VPSDE(), Epsilon()), data(4000, (5, 4))
    loss = EpsilonPrediction()(zero, x0, generator=seeded()).value  # mean of 20 squared normals
    assert abs(loss.mean() - 1) < 5 * math.sqrt(2 / x0.numel())


def test_the_weight_of_the_time_sampler_multiplies_the_loss():
    plain, tripled = (
        EpsilonPrediction(AtTime(0.3, w))(network(), data(5), generator=seeded()).value for w in (1.0, 3.0)
    )
    torch.testing.assert_close(tripled, 3 * plain)


@every_process
@pytest.mark.parametrize("objective", [DenoisingScoreMatching(), EpsilonPrediction()], ids=name)
def test_with_a_generator_each_the_loss_of_an_example_does_not_depend_on_the_batch(process, objective):
    denoiser, x0 = network(process), data(8)
    whole = objective(denoiser, x0, generator=PhiloxGenerator(0, range(8)))
    for indices in ([5], [6, 1, 3]):
        part = objective(denoiser, x0[indices], generator=PhiloxGenerator(0, indices))
        assert torch.equal(part.t, whole.t[indices])
        torch.testing.assert_close(part.value, whole.value[indices], rtol=1e-12, atol=0)


def test_conditions_reach_the_network():
    denoiser, label = NetworkDenoiser(Recorder(), VPSDE(), Epsilon()), torch.arange(4)
    EpsilonPrediction()(denoiser, data(4), generator=seeded(), label=label)
    assert denoiser.network.cond["label"] is label


@every_process
@every_space
def test_the_loss_is_differentiable_in_every_weight(process, space):
    denoiser = network(process, space)
    EpsilonPrediction()(denoiser, data(5), generator=seeded()).value.mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in denoiser.parameters())


def test_the_gradient_of_the_loss_is_that_of_finite_differences():
    denoiser = network()
    weight = denoiser.network.last.bias

    def loss():
        return EpsilonPrediction()(denoiser, data(5), generator=seeded()).value.mean()

    (gradient,) = torch.autograd.grad(loss(), weight)
    with torch.no_grad():
        weight[0] += 1e-5
        above = loss()
        weight[0] -= 2e-5
        assert gradient[0].item() == pytest.approx((above - loss()).item() / 2e-5, rel=1e-8)
