"""A schedule that is trained by the bound: its gradient in closed form and by quadrature, and whole runs."""

import functools
import math

import numpy as np
import pytest
import torch
from support.marks import slow
from support.times import PrescribedTime
from torch import nn

from scorelight import (
    DDIM,
    MLP,
    AnalyticDenoiser,
    AncestralSampler,
    ConfigurationError,
    DenoisingScoreMatching,
    DiscreteTime,
    EpsilonPrediction,
    ExplicitScoreMatching,
    GaussianMixture,
    HybridObjective,
    ImplicitScoreMatching,
    ImportanceTime,
    LearnedVPSDE,
    LossAwareTime,
    NetworkDenoiser,
    ScoreModule,
    SlicedScoreMatching,
    StratifiedTime,
    ToyDataModule,
    UniformTime,
    VariationalBound,
    Velocity,
    VPrediction,
)

D = torch.float64
MEAN, STD = 0.4, 0.6
name = lambda value: type(value).__name__  # noqa: E731


def bent(spread=0.3, width=4, **kwargs):
    """A small process in double precision, away from the straight line it starts as."""
    process = LearnedVPSDE(width, **(dict(log_snr_max=4.0, log_snr_min=-3.0) | kwargs)).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in process.parameters():
            parameter += spread * torch.randn(parameter.shape, generator=generator, dtype=D)
    return process


def network(process, space=None, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MLP((2,), 8, 1, **options)
        nn.init.normal_(net.last.weight, std=0.3)
    return NetworkDenoiser(net.double(), process, space or VPrediction())


def legendre(n):
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(n))
    return (nodes + 1) / 2, weights / 2


def gradients(value, process):
    return torch.autograd.grad(value, list(process.parameters()), allow_unused=True, materialize_grads=True)


def differences(function, process, h=1e-5):
    """Central differences of the function along one random direction per parameter, and the directions."""
    generator = torch.Generator().manual_seed(3)
    for parameter in process.parameters():
        direction, shifted = torch.randn(parameter.shape, generator=generator, dtype=D), []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * h * direction
                shifted.append(function().item())
                parameter -= sign * h * direction
        yield direction, (shifted[0] - shifted[1]) / (2 * h)


def assert_gradient(function, process, rel=1e-6):
    found = gradients(function(), process)
    for gradient, (direction, expected) in zip(found, differences(function, process), strict=True):
        assert (gradient * direction).sum().item() == pytest.approx(expected, rel=rel, abs=1e-8)
    return found


SAME_TIMES = [
    VariationalBound(time_sampler=UniformTime()),
    VariationalBound(6),
    VariationalBound(6, "large"),
    VariationalBound(6, time_sampler=LossAwareTime(6)),
    VariationalBound(time_sampler=UniformTime(), num_bins=16),
    VariationalBound(6, num_bins=16),
]


@pytest.mark.parametrize("bound", SAME_TIMES)
@pytest.mark.parametrize("learned_variance", [False, True])
@pytest.mark.one_in(4)
def test_the_gradient_in_the_process_agrees_with_differences_under_the_same_times_and_noise(
    bound, learned_variance
):
    process = bent()
    denoiser = network(process, Velocity(), learned_variance=learned_variance)
    x0 = torch.linspace(-1, 1, 16, dtype=D)[
        torch.randint(16, (40, 2), generator=torch.Generator().manual_seed(2))
    ]
    found = assert_gradient(
        lambda: bound.eval()(denoiser, x0, generator=torch.Generator().manual_seed(1)).value.mean(), process
    )
    assert all(gradient.abs().sum() > 1e-6 for gradient in found)


@pytest.mark.parametrize("times", [UniformTime(), ImportanceTime()], ids=name)
def test_the_gradient_is_unbiased_although_times_are_drawn_without_one(times, monkeypatch):
    """∫ du of its gradient is the gradient of ∫ du of the estimate, whose times and weights move with it.

    A network that outputs velocities makes the bound depend on all of γ, not on its ends alone.
    """
    process, (u, weights) = bent(), legendre(200)
    denoiser, pairs = (
        network(process, Velocity()),
        torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(4), dtype=D),
    )
    x0, noise = (v.repeat_interleave(len(u), 0) for v in pairs)
    monkeypatch.setattr("scorelight.objectives.base.randn_like", lambda x, generator: noise)
    bound = VariationalBound(time_sampler=PrescribedTime(times, u.repeat(3)))
    found = assert_gradient(lambda: (weights.repeat(3) * bound(denoiser, x0).value).sum(), process)
    assert all(gradient.abs().sum() > 1e-6 for gradient in found)


def test_strata_of_the_importance_sampler_have_the_same_gradient_on_average(monkeypatch):
    """Its 200 times for 8 offsets of the strata are 1,600 equally spaced u."""
    process = bent()
    denoiser, pair = (
        network(process, Velocity()),
        torch.randn(2, 1, 2, generator=torch.Generator().manual_seed(4), dtype=D),
    )
    x0, noise = (v.expand(200, 2) for v in pair)
    monkeypatch.setattr("scorelight.objectives.base.randn_like", lambda x, generator: noise)
    offsets = iter((torch.arange(8, dtype=D) + 0.5) / 8 / 200)
    monkeypatch.setattr("scorelight.rng.rand", lambda num, generator, device: next(offsets))
    strata = VariationalBound(time_sampler=StratifiedTime(ImportanceTime()))
    found = gradients(sum(strata(denoiser, x0).value.mean() for _ in range(8)) / 8, process)
    u, weights = legendre(200)
    direct = VariationalBound(time_sampler=PrescribedTime(ImportanceTime(), u))
    x0, noise = (v.expand(200, 2) for v in pair)
    for mine, expected in zip(
        found, gradients((weights * direct(denoiser, x0).value).sum(), process), strict=True
    ):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)


@pytest.fixture
def expected_gradients(monkeypatch):
    """Of the bound, for x0 ~ N(MEAN, STD²) and the exact denoiser, in the parameters of the process."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(3))
    weights = weights / weights.sum()
    density = GaussianMixture(torch.ones(1), torch.tensor([[MEAN]]), torch.tensor([STD**2], dtype=D))

    def expect(process, make, times, u, weight_of_u):
        z0, z, at_u = torch.meshgrid(nodes, nodes, u, indexing="ij")
        monkeypatch.setattr("scorelight.objectives.base.randn_like", lambda x, g: z.reshape(-1, 1))
        value = make(PrescribedTime(times, at_u.flatten()))(
            AnalyticDenoiser(density, process), (MEAN + STD * z0).reshape(-1, 1)
        ).value.reshape(3, 3, -1)
        return gradients(torch.einsum("i,j,k,ijk->", weights, weights, weight_of_u, value), process)

    return expect


def ends(gamma_0, gamma_1):
    """Prior term and last term, expected, for Gaussian data and the exact denoiser; Var(ε | x_t) = share."""
    share = torch.sigmoid(2 * math.log(STD) - gamma_0)
    return 0.5 * (-gamma_1).exp() * (STD**2 + MEAN**2) + 0.5 * (share + math.log(2 * math.pi) + gamma_0)


@pytest.mark.parametrize("times", [UniformTime(), ImportanceTime()], ids=name)
def test_in_continuous_time_only_the_ends_of_the_schedule_matter(times, expected_gradients):
    """Kingma et al., sec. 5.1: the integral is ½ log((1 + S² SNR_max)/(1 + S² SNR_min))."""
    process, (u, weights) = bent(), legendre(200)
    found = expected_gradients(process, lambda s: VariationalBound(time_sampler=s), times, u, weights)
    gamma_0, gamma_1 = process.gamma(torch.tensor([0.0, 1.0], dtype=D))
    integral = 0.5 * (torch.log1p(STD**2 / gamma_0.exp()) - torch.log1p(STD**2 / gamma_1.exp()))
    exact = gradients(integral + ends(gamma_0, gamma_1), process)
    torch.testing.assert_close(found, exact, rtol=1e-7, atol=1e-8)
    inner = [p for p in process.parameters() if p is not process.gamma_0 and p is not process.span]
    assert len(inner) == 4
    for parameter, gradient in zip(process.parameters(), found, strict=True):
        assert (gradient.abs().max() < 1e-8) == any(parameter is p for p in inner)


@pytest.mark.parametrize("num_timesteps", [3, 10])
def test_on_levels_the_gradient_is_that_of_the_closed_form_in_every_parameter(
    num_timesteps, expected_gradients
):
    process = bent()
    u = (torch.arange(num_timesteps, dtype=D) + 0.5) / num_timesteps
    found = expected_gradients(
        process,
        lambda s: VariationalBound(num_timesteps, time_sampler=s),
        DiscreteTime(num_timesteps),
        u,
        torch.full_like(u, 1 / num_timesteps),
    )
    gamma = process.gamma(torch.linspace(0, 1, num_timesteps, dtype=D))
    steps = 0.5 * (torch.expm1(gamma.diff()) * torch.sigmoid(2 * math.log(STD) - gamma[1:])).sum()
    exact = gradients(steps + ends(gamma[0], gamma[-1]), process)
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-10)
    assert all(gradient.abs().sum() > 1e-6 for gradient in found)


# Whole runs


def make(objective, sampler=None, **changes):
    torch.manual_seed(0)
    return ScoreModule(
        **dict(
            network=MLP((2,), 32, 1),
            process=LearnedVPSDE(8, log_snr_max=6.0, log_snr_min=-1.0),
            parameterization=VPrediction(),
            objective=objective,
            sampler=sampler or DDIM(20),
            optimizer=functools.partial(torch.optim.Adam, lr=2e-2),
            ema_decay=0.9,
        )
        | changes
    )


@pytest.fixture(scope="module")
def data():
    return ToyDataModule("two_gaussians", num_train=2000, num_val=10, batch_size=64)


@pytest.mark.parametrize(
    "objective",
    [VariationalBound(), slow(VariationalBound(10))],
    ids=["continuous", "levels"],
)
@pytest.mark.slow
def test_training_improves_the_bound_and_moves_the_schedule(objective, data, make_trainer, tmp_path):
    module, x0 = make(objective), data.exact.sample(4000, torch.Generator().manual_seed(2)).float()

    @torch.no_grad()
    def bound(denoiser):
        value = objective(denoiser, x0, generator=torch.Generator().manual_seed(1)).value
        return value.mean().item()

    before, start = bound(module.denoiser), module.denoiser.process.gamma(torch.linspace(0, 1, 5)).detach()
    trainer = make_trainer(max_steps=50, limit_val_batches=0, log_every_n_steps=1000)
    trainer.fit(module, data)
    after, end = bound(module.ema.denoiser), module.denoiser.process.gamma(torch.linspace(0, 1, 5)).detach()
    entropy = -data.exact.log_prob(x0).mean().item()
    assert before > after + 1 and after > entropy - 0.1
    assert (end - start).abs().max() > 0.3 and (end.diff() > 0).all()

    averaged = module.ema.denoiser.process
    assert not any(p.requires_grad for p in averaged.parameters())
    assert 0 < (averaged.gamma_0 - module.denoiser.process.gamma_0).abs() < 0.2
    assert (averaged.gamma_0 + 6).abs() > 0.05

    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    again = ScoreModule.load_from_checkpoint(tmp_path / "a.ckpt")
    t = torch.linspace(0, 1, 5, dtype=D)
    for mine, theirs in ((module.denoiser, again.denoiser), (module.ema.denoiser, again.ema.denoiser)):
        assert torch.equal(mine.process.gamma(t), theirs.process.gamma(t))
    *_, samples = again.sample(3, range(500))
    assert torch.equal(samples, list(module.sample(3, range(500)))[-1])
    found, expected = samples.double().mean(0), data.exact.means.mean(0)
    assert (found - expected).abs().max() < 0.4
    assert samples.std(0)[0].item() == pytest.approx(math.hypot(1.25, 0.3), rel=0.4)  # after 50 steps


def test_ancestral_samples_use_the_learned_levels(data, make_trainer):
    module = make(VariationalBound(20), AncestralSampler(20))
    make_trainer(max_steps=2, limit_val_batches=0).fit(module, data)
    *_, samples = module.sample(0, range(8))
    assert samples.shape == (8, 2) and samples.isfinite().all()


def test_the_optimizer_gets_the_process_once_and_the_average_of_it_not_at_all():
    module = make(VariationalBound())
    trained = [p for group in module.configure_optimizers().param_groups for p in group["params"]]
    for parameter in module.denoiser.process.parameters():
        assert sum(p is parameter for p in trained) == 1
    for parameter in module.ema.denoiser.process.parameters():
        assert not any(p is parameter for p in trained)


OTHERS = [
    EpsilonPrediction(),
    DenoisingScoreMatching(),
    ExplicitScoreMatching(),
    ImplicitScoreMatching(),
    SlicedScoreMatching(),
    HybridObjective(num_timesteps=10),
]


@pytest.mark.parametrize("objective", OTHERS, ids=name)
def test_every_other_objective_refuses_it_before_anything_is_trained(objective):
    with pytest.raises(ConfigurationError, match=rf"LearnedVPSDE.*{name(objective)}.*use VariationalBound"):
        make(objective)


@pytest.mark.parametrize("objective", OTHERS, ids=name)
def test_every_objective_takes_it_as_it_is_once_it_is_frozen(objective, data, make_trainer):
    process = LearnedVPSDE(16, log_snr_max=6.0).requires_grad_(False)
    module = make(objective, process=process, network=MLP((2,), 8, 1, learned_variance=True))
    before = process.gamma(torch.linspace(0, 1, 5)).clone()
    make_trainer(max_steps=2, limit_val_batches=0).fit(module, data)
    assert torch.equal(process.gamma(torch.linspace(0, 1, 5)), before)
