"""L_simple for the mean, the bound for the variance: who gets which gradient, and what is learned."""

import functools
import math

import numpy as np
import pytest
import torch
from support.denoisers import ConstantDenoiser
from support.draws import randn
from torch import nn

from scorelight import (
    DDIM,
    MLP,
    VPSDE,
    AnalyticDenoiser,
    AncestralSampler,
    ConfigurationError,
    CosineVPSDE,
    DDPMProcess,
    Denoiser,
    DiscreteTime,
    Epsilon,
    EpsilonPrediction,
    Euler,
    EulerMaruyama,
    GaussianMixture,
    Heun,
    HybridObjective,
    LossAwareTime,
    NetworkDenoiser,
    Prediction,
    ScoreModule,
    SMLDProcess,
    TimeSampler,
    ToyDataModule,
    UNet,
    VariationalBound,
    VPrediction,
)

D = torch.float64
PROCESSES = [
    (DDPMProcess(50), None),
    (DDPMProcess(30, "cosine"), None),
    (SMLDProcess(20), None),
    (VPSDE(), 20),
]
name = lambda value: type(value).__name__  # noqa: E731
every_process = pytest.mark.parametrize(("process", "num_timesteps"), PROCESSES)


class EveryLevel(TimeSampler):
    """Each level once, in order."""

    def __init__(self, num_timesteps=None, repeat=1):
        super().__init__()
        self.times, self.repeat = DiscreteTime(num_timesteps), repeat

    def quantile(self, process, u):
        return self.times.quantile(process, u)

    def forward(self, process, num, *, generator, device):
        each = num // self.repeat
        return self.quantile(process, ((torch.arange(each, dtype=D) + 0.5) / each).repeat(self.repeat))

    def num_timesteps_of(self, process):
        return self.times.num_timesteps_of(process)


def seeded(objective, denoiser, x0, **cond):
    return objective(denoiser, x0, generator=torch.Generator().manual_seed(1), **cond).value


def three(process, num_timesteps, bound_weight=0.001):
    times = EveryLevel(num_timesteps)
    hybrid = HybridObjective(bound_weight, num_timesteps, time_sampler=times)
    return hybrid, EpsilonPrediction(times), VariationalBound(num_timesteps, time_sampler=times)


def prior_term(process, x0):
    level = process.grid_levels(torch.tensor([process.t_max], dtype=D))[0]
    return 0.5 * level.snr * x0.square().flatten(1).sum(1)


@every_process
@pytest.mark.parametrize("bound_weight", [0.001, 1.0])
def test_it_is_l_simple_plus_the_weighted_term_in_bits_per_dimension(process, num_timesteps, bound_weight):
    n = num_timesteps or process.num_timesteps
    x0, output, fraction = (randn(n, 2, 3, seed=seed) for seed in (0, 2, 3))
    denoiser = ConstantDenoiser(process, output, VPrediction(), fraction)
    hybrid, simple, bound = (seeded(o, denoiser, x0) for o in three(process, num_timesteps, bound_weight))
    bits = (bound - prior_term(process, x0)) / (6 * math.log(2))  # N-fold term
    torch.testing.assert_close(hybrid, simple + bound_weight * bits, rtol=1e-9, atol=1e-9)


@every_process
def test_the_mean_gets_the_gradient_of_l_simple_alone_and_the_variance_that_of_the_bound(
    process, num_timesteps
):
    n = num_timesteps or process.num_timesteps
    x0, leaves = randn(n, 2, 3), (randn(n, 2, 3, seed=2), randn(n, 2, 3, seed=3))
    output, fraction = (leaf.requires_grad_() for leaf in leaves)
    denoiser = ConstantDenoiser(process, output, VPrediction(), fraction)
    hybrid, simple, bound = (
        torch.autograd.grad(seeded(o, denoiser, x0).sum(), leaves, allow_unused=True)
        for o in three(process, num_timesteps)
    )
    torch.testing.assert_close(hybrid[0], simple[0], rtol=1e-12, atol=0)
    assert simple[1] is None
    torch.testing.assert_close(hybrid[1], 0.001 / (6 * math.log(2)) * bound[1], rtol=1e-9, atol=1e-15)
    assert (bound[0].flatten(1).norm(dim=1) > 0).all() and (hybrid[1].flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize("num_timesteps", [4000, 1000, 100])
def test_at_the_default_weight_one_term_counts_n_thousandths_of_its_bits_per_dimension(num_timesteps):
    """L_simple + (T/1000) · KL/(D ln 2), which λ = 0.001 of Nichol & Dhariwal (2021) amounts to for one t.

    Without the factor T the effective λ is 1/T of it.
    """
    process, x0, hat = DDPMProcess(num_timesteps), randn(num_timesteps, 5), randn(num_timesteps, 5, seed=2)
    times = torch.arange(1, num_timesteps + 1, dtype=D) / num_timesteps
    alpha, sigma = process.alpha(times)[:, None], process.sigma(times)[:, None]
    x_t = alpha * x0 + sigma * torch.randn(x0.shape, generator=torch.Generator().manual_seed(1), dtype=D)
    a, b = VPrediction().coefficients(process.at(times, like=x0))
    output = a * hat + b * (x_t - alpha * hat) / sigma
    fraction = torch.rand(x0.shape, generator=torch.Generator().manual_seed(4), dtype=D)
    denoiser = ConstantDenoiser(process, output, VPrediction(), fraction)
    value = seeded(HybridObjective(time_sampler=EveryLevel()), denoiser, x0)

    i = num_timesteps // 2
    bar, bar_before, beta = alpha[i] ** 2, alpha[i - 1] ** 2, process.betas[i]
    tilde = beta * (1 - bar_before) / (1 - bar)
    variance = torch.exp(fraction[i] * beta.log() + (1 - fraction[i]) * tilde.log())  # their eq. 15
    distance = (bar_before.sqrt() * beta / (1 - bar) * (hat[i] - x0[i])) ** 2
    kl = 0.5 * (variance / tilde).log() + (tilde + distance) / (2 * variance) - 0.5
    simple = ((alpha[i] / sigma[i] * (x0[i] - hat[i])) ** 2).mean()
    assert value[i].item() == pytest.approx(
        (simple + num_timesteps / 1000 * kl.mean() / math.log(2)).item(), rel=1e-8
    )


# The variance that is learned

MEAN, STD = 0.4, 0.6


class Adjustable(Denoiser):
    """The exact mean of Gaussian data, and one free variance per level."""

    def __init__(self, process, num_timesteps):
        super().__init__()
        density = GaussianMixture(torch.ones(1), torch.tensor([[MEAN]]), torch.tensor([STD**2], dtype=D))
        self.process, self.exact = process, AnalyticDenoiser(density, process)
        self.fraction = nn.Parameter(torch.full((num_timesteps,), 0.5, dtype=D))

    def predict(self, x_t, level, **cond):
        fraction = self.fraction.repeat(len(x_t) // len(self.fraction))[:, None]
        return Prediction(x_t, level, self.exact.predict(x_t, level).epsilon, Epsilon(), fraction)


def optimum(process, times):
    """f of Var(x_s | x_t) in the joint Gaussian of (x_s, x_t); for the first level of Var(x0 | x_t)."""
    alpha, sigma = process.alpha(times), process.sigma(times)
    total = alpha**2 * STD**2 + sigma**2
    scale = alpha[1:] / alpha[:-1]
    reverse = total[:-1] - (scale * total[:-1]) ** 2 / total[1:]
    large = sigma[1:] ** 2 - scale**2 * sigma[:-1] ** 2
    small = large * sigma[:-1] ** 2 / sigma[1:] ** 2
    first = torch.log(STD**2 * sigma[0] ** 2 / total[0] / (sigma[0] ** 2 * small[0] / sigma[0] ** 2))
    first = first / torch.log(sigma[0] ** 2 / small[0])
    return torch.cat([first[None], torch.log(reverse / small) / torch.log(large / small)])


@pytest.fixture
def batch(monkeypatch):
    """Three Gauss-Hermite nodes for each of x0 and ε, at every level: the weighted mean is exact."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(3))
    weights = weights / weights.sum()

    def make(num_timesteps):
        z0, z, _ = torch.meshgrid(nodes, nodes, torch.ones(num_timesteps, dtype=D), indexing="ij")
        monkeypatch.setattr("scorelight.objectives.base.randn_like", lambda x, g: z.reshape(-1, 1))
        weight = (
            weights[:, None, None] * weights[:, None] / num_timesteps * torch.ones(num_timesteps, dtype=D)
        )
        return (MEAN + STD * z0).reshape(-1, 1), weight.flatten()

    return make


@every_process
def test_the_variance_that_is_learned_is_that_of_the_reverse_process(process, num_timesteps, batch):
    """From f = ½ everywhere by Newton steps per level: the terms do not share a parameter."""
    n = num_timesteps or process.num_timesteps
    denoiser = Adjustable(process, n)
    objective, (x0, weight) = (
        HybridObjective(num_timesteps=num_timesteps, time_sampler=EveryLevel(num_timesteps, 9)),
        batch(n),
    )
    for _ in range(30):
        loss = (weight * objective(denoiser, x0).value).sum()
        (slope,) = torch.autograd.grad(loss, denoiser.fraction, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), denoiser.fraction)
        assert (curvature > 0).all()
        with torch.no_grad():
            denoiser.fraction -= (slope / curvature).clamp(-1, 1)
    expected = optimum(process, torch.linspace(process.t_min, process.t_max, n, dtype=D))
    torch.testing.assert_close(denoiser.fraction.detach(), expected, rtol=1e-6, atol=1e-8)


@every_process
def test_with_it_the_bound_is_the_entropy_plus_the_prior_term_for_any_number_of_levels(
    process, num_timesteps, batch
):
    n = num_timesteps or process.num_timesteps
    denoiser, (x0, weight) = Adjustable(process, n), batch(n)
    denoiser.fraction.data = optimum(process, torch.linspace(process.t_min, process.t_max, n, dtype=D))
    bound = VariationalBound(num_timesteps, time_sampler=EveryLevel(num_timesteps, 9))
    last = process.grid_levels(torch.tensor([process.t_max], dtype=D))[0]
    signal = (last.alpha * STD) ** 2 / last.sigma**2
    prior = 0.5 * (signal + (last.alpha * MEAN / last.sigma) ** 2 - math.log1p(signal))
    entropy = 0.5 * math.log(2 * math.pi * math.e * STD**2)
    with torch.no_grad():
        found = (weight * bound(denoiser, x0).value).sum().item()
    assert found == pytest.approx(entropy + prior, abs=1e-9)


@pytest.mark.slow
def test_gradient_descent_finds_it_from_random_draws():
    """Adam on the default weight, times and noise drawn at random: each f to 0.15 of the exact one."""
    process, n = DDPMProcess(8, betas=[0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5]), 8
    denoiser, objective = Adjustable(process, n), HybridObjective(time_sampler=EveryLevel(None, 64))
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=0.05)
    source = torch.Generator().manual_seed(0)
    for _ in range(100):
        loss = objective(denoiser, denoiser.exact.density.sample(64 * n, source), generator=source).value
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    expected = optimum(process, torch.arange(1, n + 1, dtype=D) / n)
    assert (expected - 0.5).abs().max() > 0.3
    assert (denoiser.fraction.detach() - expected).abs().max() < 0.15


# Networks


def networks(learned=True):
    return [
        MLP((2,), 16, 1, learned_variance=learned),
        MLP((3, 4, 6), 16, 1, learned_variance=learned),
        UNet((1, 8, 8), 8, num_blocks=1, learned_variance=learned),
        UNet((3, 4, 6), 8, num_blocks=1, learned_variance=learned),
    ]


every_network = pytest.mark.parametrize("index", range(4), ids=["MLP2", "MLP346", "UNet188", "UNet346"])


def random_last(network):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nn.init.normal_(network.last.weight, std=0.3)
        nn.init.normal_(network.last.bias, std=0.3)
    return network


@every_network
def test_the_second_half_of_the_output_is_the_variance_and_the_first_the_mean(index):
    network = random_last(networks()[index])
    process = DDPMProcess()
    x, t = torch.randn(5, *network.shape), torch.rand(5)
    pred = NetworkDenoiser(network, process, Epsilon())(x, t)
    level = process.at(t, like=x)
    output = network(x, -0.5 * level.log_snr.flatten())  # c_in is 1
    half = network.shape[0]
    assert output.shape == (5, 2 * half, *network.shape[1:])
    torch.testing.assert_close(pred.epsilon, output[:, :half])
    torch.testing.assert_close(pred.variance_fraction, (output[:, half:] + 1) / 2)


@every_network
def test_the_two_halves_of_the_last_layer_get_the_gradients_of_the_two_losses(index):
    network = random_last(networks()[index].double())
    process = DDPMProcess(20, "cosine")
    denoiser, x0 = NetworkDenoiser(network, process, VPrediction()), randn(20, *network.shape)
    hybrid, simple, bound = (
        torch.autograd.grad(seeded(o, denoiser, x0).sum(), network.last.weight)[0].chunk(2)
        for o in three(process, None)
    )
    torch.testing.assert_close(hybrid[0], simple[0], rtol=1e-9, atol=1e-12)
    assert (simple[1] == 0).all()
    torch.testing.assert_close(
        hybrid[1], 0.001 / (x0[0].numel() * math.log(2)) * bound[1], rtol=1e-9, atol=1e-12
    )
    assert hybrid[1].abs().sum() > 0


@every_network
def test_a_network_without_a_variance_is_told_what_to_set(index):
    network = networks(learned=False)[index]
    denoiser = NetworkDenoiser(network, DDPMProcess(), Epsilon())
    with pytest.raises(ConfigurationError, match=r"model\.network\.learned_variance to true"):
        HybridObjective()(denoiser, torch.randn(2, *network.shape))


SAMPLERS = [DDIM(4), DDIM(4, eta=1.0), AncestralSampler(4), Euler(4), Heun(4), EulerMaruyama(4)]


@pytest.mark.one_in(4)
@every_network
@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_samplers_go_by_the_mean_alone(index, sampler):
    network = random_last(networks()[index])

    class MeanOnly(nn.Module):
        def forward(self, x, noise_label):
            return network(x, noise_label).chunk(2, dim=1)[0]

    noise = torch.randn(3, *network.shape)
    process = CosineVPSDE()
    with torch.no_grad():
        both, mean = (
            sampler(NetworkDenoiser(n, process, Epsilon()), noise, generator=torch.Generator().manual_seed(1))
            for n in (network, MeanOnly())
        )
    assert both.shape == noise.shape
    assert torch.equal(both, mean)


@pytest.mark.slow
def test_it_is_trained_like_any_other_objective_and_improves_both_losses(make_trainer, tmp_path):
    torch.manual_seed(0)
    module = ScoreModule(
        MLP((2,), 32, 1, learned_variance=True),
        DDPMProcess(40),
        Epsilon(),
        HybridObjective(time_sampler=LossAwareTime(history=2)),
        AncestralSampler(40),
        optimizer=functools.partial(torch.optim.Adam, lr=5e-3),
        ema_decay=0.9,
    )
    data = ToyDataModule("two_gaussians", num_train=2000, num_val=10, batch_size=128)
    x0 = data.exact.sample(4000, torch.Generator().manual_seed(2)).float()

    @torch.no_grad()
    def losses():
        denoiser = module.ema.denoiser
        return [
            seeded(o, denoiser, x0).mean().item()
            for o in (EpsilonPrediction(EveryLevel()), VariationalBound())
        ]

    before = losses()
    trainer = make_trainer(max_steps=80, limit_val_batches=0, log_every_n_steps=1000)
    trainer.fit(module, data)
    after = losses()
    assert after[0] < 0.7 * before[0] and after[1] < 0.8 * before[1]
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    again = ScoreModule.load_from_checkpoint(tmp_path / "a.ckpt")
    *_, samples = again.sample(0, range(200))
    assert samples.shape == (200, 2) and samples.isfinite().all()


def test_an_objective_of_levels_is_refused_in_continuous_time_before_training(make_module):
    with pytest.raises(ConfigurationError, match="give HybridObjective num_timesteps"):
        make_module(objective=HybridObjective(), network=MLP((2,), learned_variance=True))
