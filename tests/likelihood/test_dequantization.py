"""Learned noise within grey levels, against exact probabilities, automatic Jacobians and quadrature."""

import functools
import math

import pytest
import torch
from lightning.pytorch import Callback
from scipy import stats
from support.quantised import LEVELS, ONE, TWO, WIDTH, gaps, levels, mean_gap, probabilities, train_flow
from torch import nn
from torch.distributions import Normal
from torch.utils.data import DataLoader

from scorelight import (
    MLP,
    VESDE,
    VPSDE,
    AnalyticDenoiser,
    ConfigurationError,
    DDPMProcess,
    Dequantizer,
    DequantizerModule,
    Epsilon,
    FlowDequantization,
    GaussianMixture,
    LikelihoodProtocol,
    NetworkDenoiser,
    RectifiedFlow,
    SMLDProcess,
    TrainingDivergedError,
    UniformDequantization,
    VariationalBound,
    bits_per_dim,
    load_dequantizer,
)
from scorelight.likelihood.dequantization import rational_quadratic
from scorelight.rng import PhiloxGenerator

D = torch.float64
SHAPES = [(1, 1, 1), (1, 2, 3), (3, 2, 2), (1, 1, 5)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def flow(shape, std=0.3, **options):
    """A flow that is far from uniform."""
    made = FlowDequantization(shape, **(dict(num_spline_bins=5, width=8) | options))
    g = seeded(1)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=std, generator=g)
    return made


def inputs(shape, num=3):
    x = torch.randint(5, (num, *shape), generator=seeded()).double() / 2 - 1
    return x, torch.rand(num, *shape, generator=seeded(2), dtype=D)


# The density


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(D, 1e-6), (torch.float32, 2e-5)], ids=str)
def test_log_q_is_minus_the_log_determinant_of_the_jacobian(shape, dtype, tolerance):
    q, size = flow(shape).double(), math.prod(shape)
    x, noise = inputs(shape)
    u, log_q = q.to(dtype)(x.to(dtype), noise.to(dtype))
    assert u.dtype == log_q.dtype == dtype and (u.abs() <= 0.5).all() and log_q.abs().min() > 0.05
    q = q.double()
    for i in range(len(x)):
        jacobian = torch.autograd.functional.jacobian(lambda v: q(x[i : i + 1], v)[0], noise[i : i + 1])  # noqa: B023
        expected = -jacobian.reshape(size, size).slogdet().logabsdet
        assert log_q[i].item() == pytest.approx(expected.item(), abs=tolerance * size)


@pytest.mark.slow
def test_a_density_that_covers_the_square_and_integrates_to_one():
    """A fine mesh in v is carried to u: its cells fill the square, and Σ q × area is ∫ q du."""
    q, num = flow((1, 1, 2)).double(), 200
    axis = torch.linspace(0, 1, num + 1, dtype=D)
    x = torch.tensor([0.0, 0.5], dtype=D).reshape(1, 1, 1, 2)

    def mapped(points):
        v = torch.cartesian_prod(points, points).reshape(-1, 1, 1, 2)
        u, log_q = q(x.expand(len(v), -1, -1, -1), v)
        return u.reshape(len(points), len(points), 2).detach(), log_q.detach().exp()

    u, _ = mapped(axis)
    along, across = u[1:, 1:] - u[:-1, :-1], u[1:, :-1] - u[:-1, 1:]  # the diagonals of each cell
    area = -0.5 * (along[..., 0] * across[..., 1] - along[..., 1] * across[..., 0])
    assert (area > 0).all() and area.sum().item() == pytest.approx(1, abs=1e-12)
    density = mapped((axis[1:] + axis[:-1]) / 2)[1].reshape(num, num)
    assert density.max() / density.min() > 2
    assert (density * area).sum().item() == pytest.approx(1, abs=1e-3)  # the splines' knots are kinks


def test_it_starts_uniform_whatever_its_shape():
    for shape in [*SHAPES, (3, 5, 4)]:
        x, noise = inputs(shape)
        for found, exact in zip(FlowDequantization(shape)(x, noise), (noise - 0.5, 0), strict=True):
            torch.testing.assert_close(found, torch.zeros_like(found) + exact, rtol=0, atol=1e-13)
    u, log_q = UniformDequantization()(x, noise)
    assert torch.equal(u, noise - 0.5) and not log_q.any()


def test_every_dimension_is_bent_and_leans_on_the_others():
    for shape in SHAPES[1:]:
        x, noise = inputs(shape, 1)
        jacobian = torch.autograd.functional.jacobian(lambda v: flow(shape).double()(x, v)[0], noise)  # noqa: B023
        jacobian = jacobian.reshape(math.prod(shape), -1)
        assert (jacobian.diagonal() - 1).abs().min() > 1e-3 and (jacobian.triu(1) != 0).any()
        assert (jacobian.tril(-1) != 0).any()


def test_splines_are_bounded_and_monotone_for_any_parameters():
    v = torch.linspace(0, 1, 2001, dtype=D)
    for scale in (1, 30, 1e4):
        parameters = scale * torch.randn(25, generator=seeded(), dtype=D)
        for dtype in (D, torch.float32):
            y, log_slope = rational_quadratic(v.to(dtype), parameters.to(dtype).expand(len(v), -1))
            assert y[0] == 0 and y[-1] == 1 and (y.diff() >= 0).all()
            assert log_slope.isfinite().all() and log_slope.abs().max() < 15


def test_a_function_of_x_and_noise_alone_that_states_what_it_cannot_take():
    q, (x, noise) = flow((1, 2, 3)), inputs((1, 2, 3), 6)
    whole = q(x, noise)
    for one, all_ in zip(q(x[[4, 1]], noise[[4, 1]]), whole, strict=True):
        torch.testing.assert_close(one, all_[[4, 1]], rtol=0, atol=1e-6)
    with torch.inference_mode():
        assert torch.allclose(q(x, noise)[1], whole[1])
    with pytest.raises(ConfigurationError, match=r"\(1, 3, 2\), but it was made for \(1, 2, 3\)"):
        q(x.mT, noise.mT)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((5,), {}, r"\(1, 1, D\)"),
        ((1, 2, 2), {"num_steps": 1}, "num_steps=1"),
        ((1, 2, 2), {"num_spline_bins": 1}, "num_spline_bins=1"),
        ((1, 2, 2), {"width": 0}, "width=0"),
    ],
    ids=str,
)
def test_options_are_checked(shape, options, message):
    with pytest.raises(ConfigurationError, match=message):
        FlowDequantization(shape, **options)


# Quantised Gaussians: P(x) is known, and with it what is lost


def at_t_max(density, process):
    """The log-density of the data at t_max, in the place of N(0, σ² I)."""
    level = process.grid_levels(torch.tensor([process.t_max]))[0]
    return lambda x: density.log_prob(x, level.alpha, level.sigma)


@pytest.mark.parametrize("density", [ONE, TWO], ids=["1 pixel", "2 pixels"])
def test_the_probabilities_are_those_of_scipy(density):
    mean, dim = density.means[0].numpy(), math.prod(density.shape)
    covariance = (density.eigenvectors[0] * density.eigenvalues[0]) @ density.eigenvectors[0].mT
    exact = stats.multivariate_normal(mean, covariance.numpy())
    x = levels(dim).flatten(1).numpy()
    expected = torch.tensor([exact.cdf(y + WIDTH / 2, lower_limit=y - WIDTH / 2) for y in x], dtype=D)
    torch.testing.assert_close(probabilities(density), expected, rtol=0, atol=2e-6)


class Exact(Dequantizer):
    """u ~ p(u|x) for one pixel of a Gaussian."""

    def forward(self, x, noise):
        normal = Normal(ONE.means[0, 0], ONE.eigenvalues[0, 0].sqrt())
        low, high = normal.cdf(x.double() - WIDTH / 2), normal.cdf(x.double() + WIDTH / 2)
        value = normal.icdf(low + (high - low) * noise.double())
        log_q = normal.log_prob(value) + math.log(WIDTH) - (high - low).log()
        return (value - x) / WIDTH, log_q.flatten(1).sum(1)


@pytest.mark.slow
def test_the_best_noise_loses_nothing_and_every_draw_gives_the_exact_probability():
    process = VESDE()
    x = levels(1)[1:]  # the first has P(x) = 3·10⁻⁷
    found = bits_per_dim(
        AnalyticDenoiser(ONE, process),
        x,
        LikelihoodProtocol(LEVELS, rtol=1e-7, atol=1e-7, repeats=3, truncation="corrected"),
        dequantizer=Exact(),
        prior=at_t_max(ONE, process),
        generator=seeded(),
    )
    torch.testing.assert_close(found.value, -probabilities(ONE).log2()[1:], rtol=0, atol=1e-4)
    assert (found.standard_error < 1e-4).all() and gaps(Exact(), ONE)[1:].abs().max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("density", "process"),
    [(ONE, VPSDE()), (TWO, VPSDE()), (TWO, SMLDProcess(50, 0.02, 5.0))],
    ids=["1 pixel", "2 pixels", "2 pixels, a table"],
)
def test_training_closes_the_gap_to_the_exact_probability(density, process, make_trainer, tmp_path):
    """Mean KL(q ‖ p(u|x)) in nats, before and after: 0.352 and 0.003; for two pixels 1.715 and 0.007."""
    trainer = make_trainer(max_steps=250, gradient_clip_val=1.0)
    q = train_flow(density, trainer, process, learning_rate=1e-2)
    before, after = (mean_gap(noise, density) for noise in (UniformDequantization(), q))
    assert before > 0.3 and 0 < after < before / 50

    trainer.save_checkpoint(tmp_path / "q.ckpt", weights_only=False)
    loaded = load_dequantizer(tmp_path / "q.ckpt")
    assert not any(p.requires_grad for p in loaded.parameters())
    x, noise = inputs(density.shape)
    for mine, theirs in zip(loaded(x, noise), q(x, noise), strict=True):
        assert torch.equal(mine, theirs)


@functools.cache
def rough(dim):
    """A flow that is neither uniform nor good."""
    return flow((1, 1, dim), std=0.2)


@pytest.mark.parametrize("dtype", [D, torch.float32], ids=str)
@pytest.mark.parametrize("density", [ONE, TWO], ids=["1 pixel", "2 pixels"])
@pytest.mark.parametrize("kind", ["uniform", "learned"])
@pytest.mark.one_in(9)
def test_bits_per_dim_is_the_bound_that_quadrature_gives(density, kind, dtype):
    process, dim = VESDE(), math.prod(density.shape)
    q = UniformDequantization() if kind == "uniform" else rough(dim)
    weight = probabilities(density)
    x = levels(dim)[weight > 1e-4].repeat_interleave(200, dim=0).to(dtype)
    found = bits_per_dim(
        AnalyticDenoiser(density, process),
        x,
        LikelihoodProtocol(LEVELS, rtol=1e-4, atol=1e-4),
        dequantizer=q,
        prior=at_t_max(density, process),
        generator=seeded(),
    )
    assert found.protocol.dequantization == kind and found.value.dtype == D
    exact = -probabilities(density).log()
    bound = ((exact + gaps(q, density)) / (dim * math.log(2)))[weight > 1e-4]
    value = found.value.reshape(len(bound), 200)
    error = value.std(1) / math.sqrt(200)
    assert ((value.mean(1) - bound).abs() < 4 * error + 2e-3).all()
    assert (value.mean(1) + 4 * error > exact[weight > 1e-4] / (dim * math.log(2))).all()


def test_uniform_noise_is_the_default_and_the_protocol_can_be_used_again():
    x, denoiser = levels(2), AnalyticDenoiser(TWO, VPSDE())
    run = functools.partial(bits_per_dim, denoiser, x)
    default = run(LikelihoodProtocol(LEVELS), generator=seeded())
    for again in (
        run(LikelihoodProtocol(LEVELS), dequantizer=UniformDequantization(), generator=seeded()),
        run(default.protocol, generator=seeded()),
    ):
        assert torch.equal(again.value, default.value) and again.protocol == default.protocol
    learned = run(LikelihoodProtocol(LEVELS), dequantizer=rough(2), generator=seeded())
    assert learned.protocol != default.protocol
    assert torch.equal(run(learned.protocol, dequantizer=rough(2), generator=seeded()).value, learned.value)
    at_first = run(LikelihoodProtocol(LEVELS), dequantizer=FlowDequantization((1, 1, 2)), generator=seeded())
    torch.testing.assert_close(at_first.value, default.value, rtol=0, atol=1e-10)
    with pytest.raises(ConfigurationError, match=r"'learned'.*it is 'uniform'.*load_dequantizer"):
        run(learned.protocol)
    with pytest.raises(ConfigurationError, match=r"'uniform'.*it is 'learned'"):
        run(default.protocol, dequantizer=rough(2))


def test_what_is_not_quantised_is_not_dequantised():
    denoiser, x = AnalyticDenoiser(TWO, VPSDE()), torch.randn(3, 1, 1, 2, generator=seeded())
    assert bits_per_dim(denoiser, x, LikelihoodProtocol(None)).protocol.dequantization == "none"
    with pytest.raises(ConfigurationError, match="dequantizer=FlowDequantization: with"):
        bits_per_dim(denoiser, x, LikelihoodProtocol(None), dequantizer=rough(2))


def network_denoiser(shape, process):
    network = MLP(shape, width=16, depth=1)
    for p in network.parameters():
        nn.init.normal_(p, std=0.2, generator=seeded())
    return NetworkDenoiser(network, process, Epsilon())


def test_learned_bits_do_not_depend_on_the_batch_nor_on_the_mode():
    shape = (1, 2, 3)
    denoiser, q = network_denoiser(shape, VPSDE()), flow(shape)
    grey = torch.randint(5, (4, *shape), generator=seeded())
    protocol = LikelihoodProtocol(LEVELS, repeats=2, divergence="hutchinson", truncation="bound")
    run = functools.partial(bits_per_dim, denoiser, protocol=protocol, dequantizer=q)
    whole = run(grey, generator=PhiloxGenerator(0, range(4)))
    assert not whole.value.requires_grad
    part = run(grey[[2, 0]], generator=PhiloxGenerator(0, [2, 0])).value
    torch.testing.assert_close(part, whole.value[[2, 0]], rtol=0, atol=1e-5)
    with torch.inference_mode():
        assert torch.equal(run(grey.clone(), generator=PhiloxGenerator(0, range(4))).value, whole.value)


# The bound that is trained


@pytest.mark.parametrize(
    ("process", "learned_variance"),
    [(p, False) for p in (VPSDE(), VESDE(), RectifiedFlow(), DDPMProcess(40), SMLDProcess(30))]
    + [(p, True) for p in (DDPMProcess(40), SMLDProcess(30))],
    ids=str,
)
def test_the_gradient_of_the_bound_in_the_data_is_that_of_finite_differences(process, learned_variance):
    """For fixed t and ε: x0 enters through x_t, the target, the prior and the last term."""
    network = MLP((2,), width=16, depth=1, learned_variance=learned_variance)
    for p in network.parameters():
        nn.init.normal_(p, std=0.3, generator=seeded())
    denoiser = NetworkDenoiser(network, process, Epsilon()).double().requires_grad_(False)
    x0, h = torch.randn(64, 2, generator=seeded(1), dtype=D), 1e-5

    def bound(x):
        return VariationalBound()(denoiser, x, generator=PhiloxGenerator(0, range(64))).value

    leaf = x0.clone().requires_grad_()
    (found,) = torch.autograd.grad(bound(leaf).sum(), leaf)
    assert found.abs().min() > 0
    for d in range(2):
        step = h * torch.eye(2, dtype=D)[d]
        expected = (bound(x0 + step) - bound(x0 - step)) / (2 * h)
        torch.testing.assert_close(found[:, d], expected, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_the_bound_is_in_the_mean_that_of_minus_log_p():
    """With the exact score the bound is −log p but for the two ends of time."""
    process, num = VPSDE(), 20_000
    density = GaussianMixture(torch.ones(1), torch.tensor([[0.3]]), torch.tensor([0.2]))
    for value in (-0.6, 0.9):
        x0 = torch.full((num, 1), value, dtype=D, requires_grad=True)
        bound = VariationalBound()(AnalyticDenoiser(density, process), x0, generator=seeded()).value
        (gradient,) = torch.autograd.grad(bound.sum(), x0)
        error = gradient.std().item() / math.sqrt(num)
        assert error < 0.2
        assert gradient.mean().item() == pytest.approx((value - 0.3) / 0.2, abs=4 * error + 0.01)


def module(**changes):
    parts = dict(
        denoiser=network_denoiser((1, 1, 2), VPSDE()),
        dequantizer=FlowDequantization((1, 1, 2), width=8),
        protocol=LikelihoodProtocol(LEVELS),
    )
    return DequantizerModule(**(parts | changes))


def test_the_loss_estimates_the_bound_and_reaches_the_dequantizer_alone():
    denoiser = network_denoiser((1, 1, 2), VPSDE())
    made, x = module(denoiser=denoiser), levels(2).float()
    value = made.loss(x, PhiloxGenerator(0, range(len(x))))
    part = made.loss(x[[7, 3]], PhiloxGenerator(0, [7, 3]))
    torch.testing.assert_close(part, value[[7, 3]], rtol=1e-5, atol=1e-5)
    value.mean().backward()
    assert all(p.requires_grad and p.grad is None for p in denoiser.parameters())
    assert any(p.grad.abs().max() > 0 for p in made.dequantizer.parameters())
    assert all(name.startswith("dequantizer.") for name in made.state_dict())

    many = x.repeat(400, 1, 1, 1)  # at first uniform: the bound of the objective at x + Δu
    noisy = many + 0.5 * (torch.rand(many.shape, generator=seeded(3)) - 0.5)
    expected = VariationalBound()(denoiser, noisy, generator=seeded(4)).value.detach() / (2 * math.log(2)) + 1
    found = made.loss(many, seeded(5)).detach()
    error = math.sqrt((found.var() + expected.var()).item() / len(many))
    assert found.mean().item() == pytest.approx(expected.mean().item(), abs=4 * error)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": LikelihoodProtocol(None)}, "num_bins=None"),
        ({"objective": VariationalBound(num_bins=5)}, "num_bins=5"),
        ({"dequantizer": UniformDequantization()}, "UniformDequantization: has nothing to train"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
    ],
    ids=str,
)
def test_what_cannot_be_trained_is_refused(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        module(**changes)


def test_a_bound_that_is_not_finite_stops_the_run(make_trainer):
    broken = network_denoiser((1, 1, 2), VPSDE())
    nn.init.constant_(broken.network.last.bias, math.nan)
    with pytest.raises(TrainingDivergedError, match="the bound is nan at step 0"):
        make_trainer(max_steps=2).fit(module(denoiser=broken), DataLoader(levels(2).float(), batch_size=5))


class Watch(Callback):
    """The learning rate after each step; a checkpoint after the third."""

    def __init__(self, path):
        self.path, self.rates = path, {}

    def on_train_batch_start(self, trainer, *_):
        self.rates[trainer.global_step] = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 3:
            trainer.save_checkpoint(self.path, weights_only=False)


def test_a_resumed_run_is_the_same_and_a_longer_one_keeps_to_its_own_schedule(make_trainer, tmp_path):
    def fit(steps, name, ckpt_path=None, **options):
        watch, made = Watch(tmp_path / name), module(dequantizer=flow((1, 1, 2)), seed=3, **options)
        trainer = make_trainer(max_steps=steps, callbacks=[watch])
        trainer.fit(made, DataLoader(levels(2).float(), batch_size=25), ckpt_path=ckpt_path)
        return made.dequantizer.state_dict(), watch.rates

    whole, rates = fit(6, "a.ckpt")
    assert rates == {n: pytest.approx(3e-3 * (1 + math.cos(math.pi * n / 6)) / 2) for n in range(6)}
    rest, _ = fit(6, "b.ckpt", tmp_path / "a.ckpt")
    assert all(torch.equal(whole[key], rest[key]) for key in whole)
    _, rates = fit(12, "c.ckpt", tmp_path / "a.ckpt", learning_rate=0.1)
    assert rates[8] == pytest.approx(0.1 * (1 + math.cos(math.pi * 8 / 12)) / 2) and max(rates) == 11


@pytest.mark.parametrize("content", [None, b"nothing", {"state_dict": {}}], ids=str)
def test_a_file_without_a_dequantizer_is_named(content, tmp_path):
    path = tmp_path / "a.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        torch.save(content, path)
    with pytest.raises(ConfigurationError, match=r"a.ckpt: holds no dequantizer; scorelight dequantize"):
        load_dequantizer(path)
