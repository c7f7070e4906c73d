import functools
import itertools
import math

import pytest
import torch
from support.denoisers import PerturbedDenoiser
from torch import nn

from scorelight import (
    MLP,
    VESDE,
    VPSDE,
    AnalyticDenoiser,
    ConfigurationError,
    Denoiser,
    DenoisingScoreMatching,
    EDMWeighting,
    Epsilon,
    FixedTime,
    GaussianMixture,
    ImplicitScoreMatching,
    ImportanceTime,
    LikelihoodWeighting,
    MinSNRWeighting,
    NetworkDenoiser,
    Prediction,
    Score,
    SigmoidWeighting,
    SlicedScoreMatching,
    SubVPSDE,
    TimeSampler,
    UNet,
    UniformWeighting,
    VPrediction,
)
from scorelight.conditions import NO_CLASS
from scorelight.objectives import base, implicit
from scorelight.rng import PhiloxGenerator

D = torch.float64
PROCESSES = [VPSDE(t_min=0.05), SubVPSDE(t_min=0.05), VESDE(sigma_min=0.1, sigma_max=5.0)]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
every_shape = pytest.mark.parametrize("shape", [(1,), (5,), (2, 3), (2, 3, 2)], ids=str)
every_projection = pytest.mark.parametrize("projection", ["rademacher", "gaussian", "sphere"])
reduced_or_not = pytest.mark.parametrize("variance_reduction", [True, False])
OBJECTIVES = {
    "ISM": ImplicitScoreMatching,
    "SSM": functools.partial(SlicedScoreMatching, variance_reduction=False),
    "SSM-VR": functools.partial(SlicedScoreMatching, num_projections=2),
    "SSM-VR-gaussian": functools.partial(SlicedScoreMatching, projection="gaussian"),
    "SSM-VR-sphere": functools.partial(SlicedScoreMatching, projection="sphere"),
}
every_objective = pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES)


class Affine(Denoiser):
    # epsilon = A x_t + b, flattened: a score of constant Jacobian -A / sigma

    def __init__(self, process, matrix, offset=0.0):
        super().__init__()
        self.process, self.matrix, self.offset = process, matrix, offset

    def predict(self, x_t, level, **cond):
        epsilon = x_t.flatten(1) @ self.matrix.mT + self.offset
        return Prediction(x_t, level, epsilon.reshape(x_t.shape), Epsilon())


def perturbed(process, offset, slope):
    """The exact ε of a mixture plus a function that is not linear in x_t."""
    exact = AnalyticDenoiser(MIXTURE, process)
    return PerturbedDenoiser(exact, lambda x_t: offset + slope * torch.tanh(x_t.flip(1) + x_t))


MIXTURE = GaussianMixture(
    torch.tensor([0.3, 0.7]), torch.tensor([[1.0, -1.0], [-1.0, 0.5]]), torch.tensor([0.2, 0.5])
)


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


def data(n, shape, dtype=D):
    return torch.randn(n, *shape, generator=seeded(2), dtype=dtype)


def randomised(net, std=0.3):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for p in net.parameters():
            nn.init.normal_(p, std=std)
    return net


def network(shape, process=None, space=None, dtype=D, num_classes=None):
    net = randomised(MLP(shape, width=8, depth=1, num_classes=num_classes))
    return NetworkDenoiser(net.to(dtype), process or VPSDE(), space or Epsilon())


def noisy(process, x0, t=None):
    # x_t and t as an objective draws them, uniform or given, written out by hand
    generator = seeded()
    u = torch.rand(len(x0), generator=generator, dtype=D)
    t = process.t_min + (process.t_max - process.t_min) * u if t is None else torch.full_like(u, t)
    return process.perturb(x0, torch.randn(x0.shape, generator=generator, dtype=x0.dtype), t), t


def trace(score, x_t):
    # one dimension after another
    flat = score.flatten(1)
    rows = [torch.autograd.grad(flat[:, d].sum(), x_t, retain_graph=True)[0] for d in range(flat.shape[1])]
    return sum(row.flatten(1)[:, d] for d, row in enumerate(rows))


def is_zero_on_average(values, tell=math.inf):
    # within 5 standard errors, which are small enough to tell `tell` from zero
    five = 5 * values.std() / math.sqrt(len(values))
    return abs(values.mean()) < five < abs(tell)


# Implicit score matching


@pytest.mark.one_in(4)
@every_process
@every_shape
@pytest.mark.parametrize("space", [Epsilon(), VPrediction()], ids=lambda s: type(s).__name__)
def test_the_loss_is_that_of_a_loop_over_the_dimensions(process, shape, space):
    denoiser, x0 = network(shape, process, space), data(6, shape)
    x_t, t = noisy(process, x0)
    score = denoiser(x_t.requires_grad_(), t).score
    fisher = score.square().flatten(1).sum(1) + 2 * trace(score, x_t)
    expected = process.sigma(t) ** 2 * fisher / math.prod(shape)
    for chunk_size in (1, 2, 4, 64):
        loss = ImplicitScoreMatching(chunk_size=chunk_size)(denoiser, x0, generator=seeded())
        torch.testing.assert_close(loss.t, t)
        torch.testing.assert_close(loss.value, expected, rtol=1e-9, atol=1e-9)


@every_process
@every_shape
def test_the_loss_of_an_affine_score_is_the_closed_form(process, shape):
    size, x0 = math.prod(shape), data(6, shape)
    matrix, offset = torch.randn(size, size, generator=seeded(), dtype=D), torch.arange(size)
    loss = ImplicitScoreMatching(chunk_size=3)(Affine(process, matrix, offset), x0, generator=seeded())
    x_t, t = noisy(process, x0)
    epsilon = x_t.flatten(1) @ matrix.mT + offset
    expected = (epsilon**2).sum(1) - 2 * process.sigma(t) * matrix.trace()
    torch.testing.assert_close(loss.value, expected / size, rtol=1e-9, atol=1e-9)


@every_process
@pytest.mark.parametrize("t", [None, 0.3, 1.0])
def test_the_loss_is_the_fisher_divergence_but_for_a_constant(process, t):
    n = 20_000
    x0, exact = MIXTURE.sample(n, seeded(3)), AnalyticDenoiser(MIXTURE, process)
    objective = ImplicitScoreMatching(time_sampler=FixedTime(t) if t else None)
    x_t, times = noisy(process, x0, t)
    divergences, losses = [], []
    for denoiser in (perturbed(process, 0.8, 0.5), perturbed(process, -0.3, -0.4)):
        # sigma^2 / D |s - s*|^2
        divergences.append((denoiser(x_t, times).epsilon - exact(x_t, times).epsilon).square().mean(1))
        losses.append(objective(denoiser, x0, generator=seeded()).value)
    gap = divergences[0] - divergences[1]
    assert is_zero_on_average(losses[0] - losses[1] - gap, tell=0.25 * gap.mean())


TARGETS = [
    (None, None),
    (None, FixedTime(0.4)),
    (MinSNRWeighting(), None),
    (MinSNRWeighting(), FixedTime(0.4)),
    (EDMWeighting(0.7), None),
    (EDMWeighting(0.7), FixedTime(0.4)),
    (SigmoidWeighting(), None),
    (SigmoidWeighting(), FixedTime(0.4)),
    (UniformWeighting(), FixedTime(0.4)),
    (LikelihoodWeighting(), ImportanceTime()),
]


@every_process
@pytest.mark.parametrize("target", TARGETS, ids=lambda t: "-".join(type(v).__name__ for v in t))
@pytest.mark.parametrize("make", [OBJECTIVES["ISM"], OBJECTIVES["SSM-VR"]], ids=["ISM", "SSM-VR"])
@pytest.mark.one_in(7)
def test_every_weighting_means_what_it_means_to_denoising_score_matching(process, target, make):
    n, (weighting, time_sampler) = 20_000, target
    x0 = MIXTURE.sample(n, seeded(3))
    space = Score() if weighting is None else weighting.space
    denoising = DenoisingScoreMatching(space, weighting, time_sampler)
    losses = [
        objective(denoiser, x0, generator=seeded()).value
        for objective in (make(weighting=weighting, time_sampler=time_sampler), denoising)
        for denoiser in (perturbed(process, 0.8, 0.5), perturbed(process, -0.5, -0.4))
    ]
    gap = losses[2] - losses[3]
    assert is_zero_on_average(losses[0] - losses[1] - gap, tell=0.7 * gap.mean())


RELATIVE = {  # size of a residual in each space relative to the score's
    "Score": lambda level: 1.0,
    "Epsilon": lambda level: level.sigma,
    "X0": lambda level: level.sigma**2 / level.alpha,
}


@every_process
@pytest.mark.parametrize(
    "weighting",
    [UniformWeighting(), LikelihoodWeighting(), MinSNRWeighting(), EDMWeighting(0.7), SigmoidWeighting()],
    ids=lambda w: type(w).__name__,
)
def test_a_weighting_of_another_space_is_moved_to_the_score(process, weighting):
    denoiser, x0 = network((2, 3), process), data(20, (2, 3))
    ask = lambda w: ImplicitScoreMatching(w)(denoiser, x0, generator=seeded())  # noqa: E731
    plain, loss = ask(None), ask(weighting)
    level = process.at(plain.t, like=x0)
    scale = weighting(level) * RELATIVE[type(weighting.space).__name__](level) ** 2 / level.sigma**2
    torch.testing.assert_close(loss.value, scale.flatten() * plain.value, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("chunk_size", "passes"), [(1, 6), (4, 2), (64, 1)])
def test_no_more_dimensions_are_differentiated_together_than_the_chunk_size(chunk_size, passes, monkeypatch):
    sizes, grad = [], torch.autograd.grad

    def spy(outputs, inputs, grad_outputs, **options):
        if "is_grads_batched" in options:  # and not the derivative of a schedule
            sizes.append(len(grad_outputs) if options["is_grads_batched"] else 1)
        return grad(outputs, inputs, grad_outputs, **options)

    monkeypatch.setattr(torch.autograd, "grad", spy)
    ImplicitScoreMatching(chunk_size=chunk_size)(network((2, 3)), data(3, (2, 3)))
    assert len(sizes) == passes and max(sizes) <= chunk_size and sum(sizes) == 6


# Sliced score matching


def pairs(process=None, **options):
    # sliced and implicit score matching of the same examples at the same t and x_t
    process = process or VPSDE(t_min=0.05)
    x0, denoiser = MIXTURE.sample(20_000, seeded(3)), perturbed(process, 0.3, 0.8)
    sliced = SlicedScoreMatching(**options)(denoiser, x0, generator=seeded())
    exact = ImplicitScoreMatching()(denoiser, x0, generator=seeded())
    assert torch.equal(sliced.t, exact.t)
    return sliced.value, exact.value


@reduced_or_not
@every_shape
def test_the_average_over_all_signs_is_implicit_score_matching(variance_reduction, shape, monkeypatch):
    size, x0, denoiser = math.prod(shape), data(3, shape), network(shape)
    signs = itertools.product([-1.0, 1.0], repeat=size)
    take = lambda like, _: torch.tensor(next(signs), dtype=D).reshape(shape).expand_as(like)  # noqa: E731
    monkeypatch.setattr(implicit, "rademacher_like", take)
    sliced = SlicedScoreMatching(num_projections=2**size, variance_reduction=variance_reduction)
    value = sliced(denoiser, x0, generator=seeded()).value
    assert next(signs, None) is None
    exact = ImplicitScoreMatching()(denoiser, x0, generator=seeded()).value
    torch.testing.assert_close(value, exact, rtol=1e-9, atol=1e-9)


@every_process
@every_projection
@reduced_or_not
@pytest.mark.parametrize("num_projections", [1, 3])
@pytest.mark.one_in(4)
def test_the_expectation_is_implicit_score_matching(process, projection, variance_reduction, num_projections):
    options = dict(projection=projection, variance_reduction=variance_reduction)
    sliced, exact = pairs(process, num_projections=num_projections, **options)
    assert is_zero_on_average(sliced - exact, tell=0.1 * exact.abs().mean())


@pytest.mark.parametrize("projection", ["rademacher", "gaussian"])
def test_variance_reduction_reduces_the_variance(projection):
    # the variance over v of each example: the mean square of the distance from the expectation
    plain, reduced = (
        (sliced - exact) ** 2
        for vr in (False, True)
        for sliced, exact in [pairs(projection=projection, variance_reduction=vr)]
    )
    gain = plain - reduced
    assert gain.mean() > 5 * gain.std() / math.sqrt(len(gain))


@every_projection
@reduced_or_not
def test_more_projections_divide_the_variance_by_their_number(projection, variance_reduction):
    options = dict(projection=projection, variance_reduction=variance_reduction)
    one, four = (
        k * (sliced - exact) ** 2 for k in (1, 4) for sliced, exact in [pairs(num_projections=k, **options)]
    )
    assert is_zero_on_average(one - four, tell=0.25 * one.mean())


VARIANCES = {  # of v^T S v for symmetric S
    "rademacher": lambda s: 2 * (s.square().sum() - s.diagonal().square().sum()),
    "gaussian": lambda s: 2 * s.square().sum(),
    "sphere": lambda s: 2 * (len(s) * s.square().sum() - s.trace() ** 2) / (len(s) + 2),
}


@pytest.mark.one_in(2)
@every_projection
@pytest.mark.parametrize("shape", [(5,), (2, 3, 2)], ids=str)
def test_the_variance_for_an_affine_score_is_the_closed_form(projection, shape):
    n, size = 40_000, math.prod(shape)
    matrix = torch.randn(size, size, generator=seeded(4), dtype=D)
    process, x0 = VPSDE(), data(1, shape).expand(n, *shape)
    options = dict(time_sampler=FixedTime(0.5), projection=projection)
    denoiser = Affine(process, matrix)
    sliced = SlicedScoreMatching(**options)(denoiser, x0, generator=seeded()).value
    exact = ImplicitScoreMatching(time_sampler=FixedTime(0.5))(denoiser, x0, generator=seeded()).value
    sigma = process.sigma(torch.tensor(0.5, dtype=D))
    variance = (2 * sigma / size) ** 2 * VARIANCES[projection]((matrix + matrix.mT) / 2)
    assert is_zero_on_average((sliced - exact) ** 2 - variance, tell=0.1 * variance)


@every_projection
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 2)], ids=str)
def test_directions_point_everywhere_with_unit_covariance_over_all_dimensions(projection, shape):
    n, size = 20_000, math.prod(shape)
    objective = SlicedScoreMatching(projection=projection)
    v = objective._direction(torch.zeros(n, *shape, dtype=D), seeded())
    assert v.shape == (n, *shape) and v.dtype == D
    products = torch.einsum("ni,nj->nij", v.flatten(1), v.flatten(1)) - torch.eye(size, dtype=D)
    assert (products.mean(0).abs() <= 5 * products.std(0) / math.sqrt(n)).all()
    assert (v.flatten(1).mean(0).abs() < 5 / math.sqrt(n)).all()
    length = v.flatten(1).norm(dim=1)
    if projection == "rademacher":
        assert (v.abs() == 1).all()
    elif projection == "sphere":
        torch.testing.assert_close(length, torch.full_like(length, math.sqrt(size)))
        rows = v.reshape(n, -1, shape[-1]).norm(dim=2)
        assert len(shape) == 1 or rows.std() > 0.1  # the whole is normalised and not a part
    else:
        assert length.std() > 0.1


def test_projections_are_independent_of_each_other_and_of_the_noise():
    seen = []

    class Spy(SlicedScoreMatching):
        def _direction(self, like, generator):
            seen.append(super()._direction(like, generator))
            return seen[-1]

    x0 = data(5000, (2,))
    Spy(projection="gaussian", num_projections=2)(network((2,)), x0, generator=seeded())
    mine = seeded()
    torch.rand(5000, generator=mine, dtype=D)
    epsilon = torch.randn(x0.shape, generator=mine, dtype=D)
    for one, other in itertools.combinations([*seen, epsilon], 2):
        assert is_zero_on_average((one * other)[:, 0]) and is_zero_on_average((one * other)[:, 1])


# All of them


@every_objective
@every_process
def test_with_a_generator_each_the_loss_of_an_example_does_not_depend_on_the_batch(make, process):
    objective, denoiser, x0 = make(), network((2, 3), process), data(8, (2, 3))
    whole = objective(denoiser, x0, generator=PhiloxGenerator(0, range(8)))
    assert whole.value.unique().numel() == 8
    for indices in ([5], [6, 1, 3]):
        part = objective(denoiser, x0[indices], generator=PhiloxGenerator(0, indices))
        assert torch.equal(part.t, whole.t[indices]) and part.value.shape == (len(indices),)
        torch.testing.assert_close(part.value, whole.value[indices], rtol=1e-10, atol=1e-12)


@every_objective
@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_the_loss_has_the_type_of_the_data(make, dtype, monkeypatch):
    exact = make()(network((3, 4)), data(5, (3, 4)), generator=PhiloxGenerator(0, range(5)))
    x0 = data(5, (3, 4)).to(dtype)
    for module in (base, implicit):  # single precision has its own noise: let it be that of double
        draw = module.randn_like
        monkeypatch.setattr(module, "randn_like", lambda x, g, draw=draw: draw(x.double(), g).to(x.dtype))
    loss = make()(network((3, 4), dtype=dtype), x0, generator=PhiloxGenerator(0, range(5)))
    assert loss.value.dtype == dtype and loss.value.shape == loss.t.shape == (5,)
    torch.testing.assert_close(loss.value.double(), exact.value, rtol=1e-4, atol=1e-4)


def unet(**options):
    net = randomised(UNet((1, 4, 4), base_channels=8, multipliers=(1, 2), num_blocks=1, **options), std=0.2)
    return NetworkDenoiser(net, VPSDE(), Epsilon())


MODES = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


@pytest.mark.one_in(5)
@every_objective
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_u_net_with_attention_is_validated_with_the_values_of_training(make, mode, dropout):
    denoiser = unet(attention_stages=(0, 1), dropout=dropout, num_classes=3).eval()
    x0, label = data(3, (1, 4, 4), torch.float32), torch.tensor([0, 2, NO_CLASS])
    expected = make()(denoiser, x0, generator=PhiloxGenerator(0, range(3)), label=label)
    assert expected.value.requires_grad
    with mode():
        value = make()(
            denoiser, x0.clone(), generator=PhiloxGenerator(0, range(3)), label=label.clone()
        ).value
        assert not value.requires_grad and value.mean().isfinite()
    torch.testing.assert_close(value, expected.value.detach(), rtol=1e-4, atol=1e-4)
    assert x0.grad is None and not x0.requires_grad


@every_objective
def test_a_u_net_with_attention_and_dropout_is_trained(make):
    denoiser = unet(attention_stages=(0, 1), dropout=0.3, num_classes=3).train()
    label = torch.tensor([0, 2, NO_CLASS])
    make()(denoiser, data(3, (1, 4, 4), torch.float32), label=label).value.mean().backward()
    for name, p in denoiser.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
        assert p.grad.abs().sum() > 0, name


def test_one_mask_of_dropout_serves_the_score_and_its_derivative():
    # with another mask for the derivative the loop, which differentiates the same pass, would not agree
    denoiser = network((3,))
    denoiser.network.first = nn.Sequential(denoiser.network.first, nn.Dropout(0.5))
    x0 = data(6, (3,))
    torch.manual_seed(0)
    loss = ImplicitScoreMatching(chunk_size=2)(denoiser, x0, generator=seeded())
    torch.manual_seed(0)
    x_t, t = noisy(VPSDE(), x0)
    score = denoiser(x_t.requires_grad_(), t).score
    fisher = score.square().sum(1) + 2 * trace(score, x_t)
    torch.testing.assert_close(loss.value, VPSDE().sigma(t) ** 2 * fisher / 3, rtol=1e-9, atol=1e-9)


@every_objective
def test_conditions_reach_the_network(make):
    denoiser, x0, label = network((3,), num_classes=4), data(5, (3,)), torch.tensor([0, 1, 2, 3, 3])
    ask = lambda cond: make()(denoiser, x0, generator=PhiloxGenerator(0, range(5)), **cond).value  # noqa: E731
    assert (ask({"label": label}) - ask({"label": (label + 1) % 4})).abs().min() > 1e-6
    assert torch.equal(ask({"label": torch.full((5,), NO_CLASS)}), ask({}))


class Weighted(TimeSampler):
    # a quarter of the way, with a weight

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def quantile(self, process, u):
        return torch.full_like(u, 0.25), torch.full_like(u, self.weight)

    def observe(self, process, t, value):
        self.seen = value


@every_objective
def test_the_weight_of_the_time_sampler_multiplies_the_loss_and_it_learns_from_the_rest(make):
    samplers = Weighted(1.0), Weighted(3.0), Weighted(3.0).eval()
    plain, tripled, _ = (
        make(time_sampler=s)(network((3,)), data(5, (3,)), generator=seeded()).value for s in samplers
    )
    torch.testing.assert_close(tripled, 3 * plain)
    for sampler in samplers[:2]:
        torch.testing.assert_close(sampler.seen, plain.detach(), rtol=1e-12, atol=0)
        assert not sampler.seen.requires_grad
    assert not hasattr(samplers[2], "seen")


@every_objective
def test_the_gradient_of_the_loss_is_that_of_finite_differences(make):
    denoiser, x0 = network((2, 2)), data(4, (2, 2))
    loss = lambda: make()(denoiser, x0, generator=PhiloxGenerator(0, range(4))).value.mean()  # noqa: E731
    net = denoiser.network
    for weight in (net.last.bias, net.first.weight, net.layers[0].condition.bias, net.last.weight):
        (gradient,) = torch.autograd.grad(loss(), weight)
        flat, h = weight.detach().view(-1), 1e-5
        for i in (0, len(flat) - 1):
            before = flat[i].item()
            flat[i] = before + h
            above = loss().item()
            flat[i] = before - h
            assert gradient.flatten()[i].item() == pytest.approx((above - loss().item()) / (2 * h), rel=1e-6)
            flat[i] = before


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ImplicitScoreMatching(chunk_size=0), "chunk_size=0: must be at least 1"),
        (lambda: SlicedScoreMatching(num_projections=0), "num_projections=0: must be at least 1"),
        (lambda: SlicedScoreMatching(projection="rademaher"), "did you mean 'rademacher'"),
    ],
)
def test_impossible_options_are_refused(make, words):
    with pytest.raises(ConfigurationError, match=words):
        make()
