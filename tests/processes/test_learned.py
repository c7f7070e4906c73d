"""The learned schedule of Kingma et al. (2021): monotone for any parameters, and differentiable in them."""

import copy
import io
import math

import mpmath
import pytest
import torch

from scorelight.errors import ConfigurationError
from scorelight.processes import LearnedVPSDE
from scorelight.storage.component import spec

D = torch.float64
T = torch.linspace(0, 1, 1001, dtype=D)


def make(spread=0.0, seed=0, **kwargs):
    """A small process in double precision, its parameters moved by a normal of the given spread."""
    process = LearnedVPSDE(**({"width": 16} | kwargs)).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in process.parameters():
            parameter += spread * torch.randn(parameter.shape, generator=generator, dtype=D)
    return process


wandering = pytest.mark.parametrize(
    "process",
    [make(spread, seed) for spread in (0.0, 1.0, 5.0) for seed in (1, 2)] + [make(log_snr_max=15.5)],
)


def in_50_digits(process, t):
    """Equation (2) and (3) of the paper, unit by unit."""
    w1, gap, w2, w3 = (
        [mpmath.log1p(mpmath.exp(x)) for x in free.flatten().tolist()]
        for free in (process.weight_1, process.span, process.weight_2, process.weight_3)
    )
    b2 = process.bias_2.tolist()

    def gamma_tilde(t):
        l1 = w1[0] * t
        hidden = (1 / (1 + mpmath.exp(-(w * l1 + b))) for w, b in zip(w2, b2, strict=True))
        return l1 + mpmath.fsum(w * h for w, h in zip(w3, hidden, strict=True))

    share = (gamma_tilde(mpmath.mpf(t)) - gamma_tilde(0)) / (gamma_tilde(1) - gamma_tilde(0))
    return process.gamma_0.item() + gap[0] * share


@wandering
@pytest.mark.parametrize("t", [1e-6, 0.1, 0.5, 0.97])
def test_gamma_is_the_monotone_network_of_the_paper(process, t):
    with mpmath.workdps(50):
        gamma = in_50_digits(process, t)
        alpha, sigma = (mpmath.sqrt(1 / (1 + mpmath.exp(sign * gamma))) for sign in (1, -1))
    time = torch.tensor(t, dtype=D)
    assert process.gamma(time).item() == pytest.approx(float(gamma), rel=1e-12)
    assert process.alpha(time).item() == pytest.approx(float(alpha), rel=1e-12)
    assert process.sigma(time).item() == pytest.approx(float(sigma), rel=1e-12)


@wandering
def test_the_log_snr_is_minus_gamma_and_the_variance_is_preserved(process):
    level = process.at(T)
    torch.testing.assert_close(level.log_snr, -process.gamma(T), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(level.alpha**2 + level.sigma**2, torch.ones_like(T), rtol=1e-14, atol=0)


@wandering
def test_gamma_increases_strictly_for_any_parameters(process):
    assert (process.gamma(T).diff() > 0).all()
    assert (process.at(T).g2 > 0).all()


@wandering
def test_the_ends_are_gamma_0_and_gamma_1_for_any_parameters(process):
    first, last = process.gamma(torch.tensor([0.0, 1.0], dtype=D)).tolist()
    assert first == process.gamma_0.item()
    assert last == pytest.approx((process.gamma_0 + process.span.exp().log1p()).item(), rel=1e-14)


@pytest.mark.parametrize(("high", "low"), [(13.3, -5.0), (2.0, 1.999), (100.0, -100), (-1, -3)])
def test_it_starts_at_the_log_snrs_of_the_constructor_to_single_precision(high, low):
    process = LearnedVPSDE(log_snr_max=high, log_snr_min=low)
    gamma = process.gamma(torch.tensor([0.0, 1.0], dtype=D))
    torch.testing.assert_close(gamma, -torch.tensor([high, low], dtype=D), rtol=2e-7, atol=2e-7)


@pytest.mark.parametrize("width", [2, 16, 1024])
def test_it_starts_within_a_fortieth_of_a_straight_line(width):
    straight = torch.lerp(*torch.tensor([-13.3, 5.0], dtype=D), T)
    assert (LearnedVPSDE(width).gamma(T) - straight).abs().max() < 18.3 / 40


def test_no_two_units_start_alike():
    process = LearnedVPSDE(64)
    process.gamma(T).square().mean().backward()
    gradients = torch.stack([p.grad for p in process.parameters() if p.ndim == 1], dim=1)
    assert len(gradients.unique(dim=0)) == 64


@wandering
def test_derivatives_agree_with_central_differences(process):
    t, h = torch.linspace(0.01, 0.99, 99, dtype=D), 1e-5
    level = process.at(t)
    for exact, function in ((level.dalpha, process.alpha), (level.dsigma, process.sigma)):
        # h^2/6 times the third derivative: units of a steepness up to 25 make it 25^3 of the value
        torch.testing.assert_close(exact, (function(t + h) - function(t - h)) / (2 * h), rtol=1e-5, atol=1e-8)


def total(process, name):
    level = process.at(torch.tensor([0.0, 0.2, 0.55, 1.0], dtype=D), like=torch.zeros(4, 1, 2, dtype=D))
    return (getattr(level, name).flatten() * torch.tensor([1.0, -2.0, 0.7, 3.0], dtype=D)).sum()


@pytest.mark.parametrize("name", ["alpha", "sigma", "dalpha", "dsigma", "f", "g2", "snr", "log_snr"])
def test_gradients_of_the_level_reach_every_parameter_and_agree_with_differences(name, generator):
    process, h = make(0.5, log_snr_max=4.0), 1e-5
    total(process, name).backward()
    for parameter in process.parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=D)
        shifted = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * h * direction
                shifted.append(total(process, name).item())
                parameter -= sign * h * direction
        slope = (parameter.grad * direction).sum().item()
        assert slope == pytest.approx((shifted[0] - shifted[1]) / (2 * h), rel=1e-6, abs=1e-8)
        assert abs(slope) > 1e-6


def test_parameters_are_of_single_precision_and_levels_of_double():
    process = LearnedVPSDE()
    assert {p.dtype for p in process.parameters()} == {torch.float32}
    assert {p.numel() for p in process.parameters()} == {1, 1024}
    exact = copy.deepcopy(process).double()
    for name in ("gamma", "alpha", "sigma"):
        found = getattr(process, name)(T)
        assert found.dtype == D
        assert torch.equal(found, getattr(exact, name)(T))
    assert process.sigma(T.float()).dtype == torch.float32


def test_levels_are_floats_and_the_prior_is_that_of_its_last_sigma():
    process = make(0.5)
    last = process.grid_levels(torch.tensor([1.0, 0.5, 0.0]))[0]
    assert type(last.dsigma) is float
    x = torch.tensor([[0.3, -2.0]], dtype=D)
    normal = torch.distributions.Normal(0.0, torch.tensor(last.sigma, dtype=D))
    expected = normal.log_prob(x).sum().item()
    assert process.prior_log_prob(x).item() == pytest.approx(expected, rel=1e-12)


def test_the_time_of_a_log_snr_is_found_and_carries_no_gradient():
    process = make(1.0)
    t = process.time_of_log_snr(-process.gamma(T))
    assert not t.requires_grad
    torch.testing.assert_close(t, T, rtol=0, atol=1e-12)


def test_a_copy_is_equal_and_independent():
    process = make(0.5)
    twin, before = copy.deepcopy(process), process.gamma(T)
    assert torch.equal(twin.gamma(T), before)
    with torch.no_grad():
        twin.span += 1
    assert torch.equal(process.gamma(T), before) and not torch.equal(twin.gamma(T), before)


def test_a_saved_process_is_the_same_when_it_is_loaded():
    process, fresh, file = make(0.5), LearnedVPSDE(16).double(), io.BytesIO()
    torch.save(process.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh.gamma(T), process.gamma(T))
    assert spec(LearnedVPSDE(log_snr_max=9.0))["init_args"] == {"log_snr_max": 9.0}


@pytest.mark.slow
def test_training_bends_it_to_a_monotone_curve_and_keeps_it_monotone():
    """From a line through −9 and 4 to a smooth step from −8 to 3, to 3 % of its height."""
    process, t = LearnedVPSDE(32, log_snr_max=9.0, log_snr_min=-4.0), torch.linspace(0, 1, 101, dtype=D)
    target = -8 + 11 * (0.3 * t + 0.7 * t**2 * (3 - 2 * t))
    optimizer = torch.optim.Adam(process.parameters(), lr=0.05)
    for _ in range(150):
        loss = (process.at(t).log_snr + target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert (process.gamma(T).diff() > 0).all()
    assert (process.gamma(t) - target).abs().max() < 0.3


@pytest.mark.parametrize("lr", [1.0, 100.0])
def test_no_step_however_large_makes_it_decrease(lr):
    process = LearnedVPSDE(16)
    optimizer = torch.optim.SGD(process.parameters(), lr=lr)
    for _ in range(5):
        optimizer.zero_grad()
        (process.gamma(T[-1:]) - process.gamma(T[:1])).sum().backward()  # asks for γ₁ < γ₀
        optimizer.step()
        gamma = process.gamma(T)
        assert gamma.isfinite().all() and (gamma.diff() >= 0).all()


WRONG = [
    dict(width=0),
    dict(log_snr_max=-6.0),
    dict(log_snr_max=-5.0),
    dict(log_snr_max=math.inf),
    dict(log_snr_max=math.nan),
    dict(log_snr_min=-math.inf),
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        LearnedVPSDE(**wrong)
