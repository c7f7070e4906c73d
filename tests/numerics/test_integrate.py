"""The integrator against SciPy's, against exact solutions, and example by example against itself."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import RK45 as SciPyRK45
from scipy.integrate import solve_ivp
from support.marks import slow_but

from scorelight import ConfigurationError, SolverError
from scorelight.numerics.adams import _equal_weights, _polynomial_weights, adams
from scorelight.numerics.adaptive import Layout, _step
from scorelight.numerics.dopri5 import _depart, dopri5

D = torch.float64
both = pytest.mark.parametrize("integrate", [dopri5, adams], ids=["dopri5", "adams"])
both_slowly = pytest.mark.parametrize("integrate", slow_but([dopri5, adams], dopri5))
RATES = torch.tensor([0.1, 1.0, 10.0, 300.0], dtype=D)  # from easy to stiff


def decay(t, y, index):
    """y' = −λ (y − cos t) − sin t, solved by cos t from y(0) = 1 for every λ."""
    rate = RATES[index][:, None]
    return -rate * (y - t.cos()[:, None]) - t.sin()[:, None]


def brusselator(t, y, index):
    a, b = y[:, 0], y[:, 1]
    return torch.stack([1 + a**2 * b - 4 * a, 3 * a - a**2 * b], 1)


def one_step(y, t, h):
    """The step of size h from (t, y) of the logistic equation with a time-dependent rate, by `_step`."""
    f = lambda t, y, index: (1 + t)[:, None] * y * (1 - y)  # noqa: E731
    run = _depart(f, lambda value, *sizes: torch.ones(len(value), dtype=D), y, t, t + 1)
    return _step(f, run, torch.full((len(y),), h, dtype=D))


def logistic(y, t, s):
    growth = math.exp((s + s**2 / 2) - (t + t**2 / 2))
    return y * growth / (1 - y + y * growth)


def test_the_order_of_a_step_is_five_and_that_of_its_error_estimate_four():
    y, sizes = torch.tensor([[0.2, 0.7]], dtype=D), [0.2, 0.1, 0.05]
    steps = [one_step(y, 0.3, h) for h in sizes]
    errors = [(new - logistic(y, 0.3, 0.3 + h)).norm() for (new, _, _), h in zip(steps, sizes, strict=True)]
    slope = lambda values: np.polyfit(np.log(sizes), np.log(values), 1)[0]  # noqa: E731
    assert slope(errors) > 5.9  # a single step has a power more than the order
    assert slope([e.norm() for _, _, e in steps]) == pytest.approx(5, abs=0.25)


def test_a_step_is_that_of_scipy():
    y0, t = np.array([1.5, 3.0]), 0.3
    theirs = SciPyRK45(
        lambda t, y: np.array([1 + y[0] ** 2 * y[1] - 4 * y[0], 3 * y[0] - y[0] ** 2 * y[1]]), t, y0, 5.0
    )
    theirs.step()
    y = torch.tensor(y0)[None]
    norm = lambda value, *sizes: torch.ones(1, dtype=D)  # noqa: E731
    run = _depart(brusselator, norm, y, t, 5.0)
    new, k, _ = _step(brusselator, run, torch.tensor([theirs.t - t], dtype=D))
    assert new[0].tolist() == pytest.approx(theirs.y.tolist(), rel=1e-13)
    assert k[0].tolist() == pytest.approx(theirs.f.tolist(), rel=1e-13)


def test_the_global_error_falls_with_the_fifth_power_of_the_number_of_evaluations():
    y = torch.tensor([[1.5, 3.0]], dtype=D)
    exact = dopri5(brusselator, y, 0.0, 5.0, rtol=1e-13, atol=1e-13, max_steps=10_000).state
    solutions = [dopri5(brusselator, y, 0.0, 5.0, rtol=tol, atol=tol) for tol in (1e-6, 1e-7, 1e-8, 1e-9)]
    errors = [(s.state - exact).norm().item() for s in solutions]
    numbers = [s.num_evaluations.item() for s in solutions]
    assert -np.polyfit(np.log(numbers), np.log(errors), 1)[0] > 4.9


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8])
def test_it_is_as_accurate_and_as_cheap_as_scipy(tolerance):
    y0 = [1.5, 3.0]
    f = lambda t, y: brusselator(t, torch.as_tensor(y)[None], None)[0].numpy()  # noqa: E731
    exact = solve_ivp(f, (0, 20), y0, "DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
    theirs = solve_ivp(f, (0, 20), y0, "RK45", rtol=tolerance, atol=tolerance)
    ours = dopri5(brusselator, torch.tensor([y0], dtype=D), 0.0, 20.0, rtol=tolerance, atol=tolerance)
    error = np.abs(ours.state[0].numpy() - exact).max()
    assert error < max(3 * np.abs(theirs.y[:, -1] - exact).max(), 10 * tolerance)
    assert ours.num_evaluations.item() < 1.2 * theirs.nfev


@both_slowly
@pytest.mark.parametrize("tolerance", [1e-4, 1e-7])
def test_stiff_and_easy_examples_of_one_batch_each_meet_the_tolerance_with_steps_of_their_own(
    integrate, tolerance
):
    y = torch.ones(4, 1, dtype=D)
    solution = integrate(decay, y, 0.0, 3.0, rtol=tolerance, atol=tolerance)
    assert (solution.state - math.cos(3.0)).abs().max() < 10 * tolerance
    numbers = solution.num_evaluations.tolist()
    assert numbers[-1] > 5 * numbers[0]


@both
def test_an_example_does_not_depend_on_its_batch(integrate):
    y = torch.tensor([[1.0, 3.0], [0.1, 0.2], [2.0, -1.0], [4.0, 4.0]], dtype=D)
    f = lambda t, y, index: brusselator(t, y, index) * RATES[:, None].clamp(max=5)[index]  # noqa: E731
    together = integrate(f, y, 0.0, 2.0)
    for i in range(4):
        alone = integrate(lambda t, y, index, i=i: f(t, y, index + i), y[i : i + 1], 0.0, 2.0)
        torch.testing.assert_close(alone.state[0], together.state[i], rtol=1e-12, atol=1e-12)
        assert alone.num_evaluations.item() == together.num_evaluations[i].item()


@both_slowly
def test_evaluations_are_counted_per_example_and_none_is_spent_on_those_that_have_arrived(integrate):
    seen = torch.zeros(4, dtype=torch.long)

    def f(t, y, index):
        seen.index_add_(0, index, torch.ones_like(index))
        assert ((t >= 0) & (t <= 3)).all()
        return decay(t, y, index)

    solution = integrate(f, torch.ones(4, 1, dtype=D), 0.0, 3.0)
    assert torch.equal(solution.num_evaluations, seen)
    assert len(set(seen.tolist())) == 4


def test_the_first_stage_of_a_step_is_the_last_of_the_one_before():
    times = []

    def f(t, y, index):
        times.append(t.item())
        return -y

    solution = dopri5(f, torch.ones(1, 1, dtype=D), 0.0, 5.0)
    assert solution.num_evaluations.item() == len(times) and len(times) % 6 == 2


@both
def test_backwards_is_forwards_undone(integrate):
    y = torch.tensor([[1.5, 3.0], [1.0, 2.0]], dtype=D)
    there = integrate(brusselator, y, 0.0, 3.0, rtol=1e-9, atol=1e-9).state
    back = integrate(brusselator, there, 3.0, 0.0, rtol=1e-9, atol=1e-9).state
    torch.testing.assert_close(back, y, rtol=0, atol=1e-6)


@both
def test_a_tuple_of_tensors_of_any_shape_and_type(integrate):
    """x' = x and its integral: an image in single and a number in double precision."""
    x = torch.rand(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))

    def f(t, state, index):
        assert state[0].dtype == torch.float32 and state[0].shape[1:] == (2, 4, 5)
        return state[0], state[0].double().flatten(1).sum(1)

    big, total = integrate(f, (x, torch.zeros(3, dtype=D)), 0.0, 1.0, rtol=1e-6, atol=1e-6).state
    torch.testing.assert_close(big, math.e * x, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(total, (math.e - 1) * x.double().flatten(1).sum(1), rtol=1e-5, atol=0)
    assert big.dtype == torch.float32 and total.dtype == D and total.shape == (3,)


@both
def test_each_tensor_of_a_tuple_is_held_to_the_tolerance_however_small_it_is(integrate):
    """A thousand easy dimensions do not dilute the error of a single hard one."""
    easy = torch.ones(1, 1000, dtype=D)
    f = lambda t, s, index: (-0.1 * s[0], (30 * t).sin())  # noqa: E731
    _, hard = integrate(f, (easy, torch.zeros(1, dtype=D)), 0.0, 3.0, rtol=0, atol=1e-7).state
    assert hard.item() == pytest.approx((1 - math.cos(90)) / 30, abs=2e-7)


@both
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("dtype", [torch.float32, D], ids=str)
def test_any_mode_and_precision(integrate, mode, dtype):
    with mode():
        y = integrate(lambda t, y, index: -y, torch.ones(2, 3, dtype=dtype), 0.0, 1.0, rtol=1e-6).state
    assert y.dtype == dtype
    torch.testing.assert_close(y, torch.full_like(y, math.exp(-1)), rtol=0, atol=2e-5)


@both
def test_it_can_be_differentiated(integrate):
    y = torch.tensor([[0.3], [2.0]], dtype=D, requires_grad=True)
    end = integrate(lambda t, y, index: y * (1 - y), y, 0.0, 1.0, rtol=1e-8, atol=1e-8).state
    (gradient,) = torch.autograd.grad(end.sum(), y)
    exact = math.e / (1 - y + y * math.e) ** 2
    torch.testing.assert_close(gradient, exact.detach(), rtol=1e-5, atol=0)


@both
def test_an_empty_interval_and_an_empty_batch_cost_nothing(integrate):
    def never(t, y, index):
        raise AssertionError

    y = torch.ones(2, 3)
    solution = integrate(never, y, 1.0, 1.0)
    assert torch.equal(solution.state, y) and solution.num_evaluations.tolist() == [0, 0]
    assert integrate(never, y[:0], 0.0, 1.0).state.shape == (0, 3)


def test_a_constant_needs_one_evaluation_of_a_zero_derivative_and_few_steps():
    solution = dopri5(lambda t, y, index: torch.zeros_like(y), torch.zeros(2, 3, dtype=D), 0.0, 1.0)
    assert not solution.state.any() and solution.num_evaluations.max() < 70


@both
def test_too_few_steps_are_said_with_the_remedy(integrate):
    with pytest.raises(SolverError, match=r"of 2 examples are not at t=3 after max_steps=20 .*rtol=1e-05"):
        integrate(lambda t, y, i: decay(t, y, 3 * i), torch.ones(2, 1, dtype=D), 0.0, 3.0, max_steps=20)


@both
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_derivative_that_is_not_finite_is_an_error_soon(integrate, value):
    f = lambda t, y, index: torch.where(t[:, None] > 0.5, value, -y)  # noqa: E731
    with pytest.raises(SolverError, match=r"no step is small enough at t=0\.(49|5)"):
        integrate(f, torch.ones(2, 1, dtype=D), 0.0, 1.0)


@both
@pytest.mark.parametrize(("rtol", "atol"), [(-1e-3, 1e-3), (0.0, 0.0), (math.nan, 1e-3)])
def test_tolerances_must_be_positive(integrate, rtol, atol):
    with pytest.raises(ConfigurationError, match="rtol"):
        integrate(decay, torch.ones(1, 1), 0.0, 1.0, rtol=rtol, atol=atol)


def test_packing_is_undone_by_unpacking():
    state = (torch.rand(3, 2, 2), torch.rand(3, dtype=D), torch.rand(3, 5))
    layout = Layout.of(state)
    assert all(torch.equal(a, b) for a, b in zip(layout.unpack(layout.pack(state)), state, strict=True))


# Adams


def test_the_weights_are_the_integrals_of_the_lagrange_polynomials():
    places = torch.tensor([[1.0, 0.0, -0.7, -2.0, -2.1], [1.0, 0.0, -1.0, -2.0, -3.0]], dtype=D)
    for n in range(2, 6):
        for row, weights in zip(places[:, :n], _polynomial_weights(places[:, :n]), strict=True):
            for j in range(n):
                basis = np.polynomial.Polynomial.fromroots(np.delete(row.numpy(), j))
                integral = (basis / basis(row[j].item())).integ()
                assert weights[j].item() == pytest.approx(integral(1) - integral(0), rel=1e-11)


def test_equal_steps_have_the_coefficients_of_the_books():
    """Hairer, Nørsett & Wanner, sec. III.1: Adams-Bashforth of order 4 and Adams-Moulton of order 5."""
    places = torch.tensor([[0.0, -1.0, -2.0, -3.0]], dtype=D)
    explicit = torch.tensor([[55, -59, 37, -9]], dtype=D) / 24
    torch.testing.assert_close(_polynomial_weights(places), explicit)
    implicit = torch.tensor([[251, 646, -264, 106, -19]], dtype=D) / 720
    torch.testing.assert_close(_polynomial_weights(torch.cat([places[:, :1] + 1, places], 1)), implicit)
    for first, weights in enumerate((explicit, implicit)):
        assert _equal_weights(first, weights.numel()) == pytest.approx(weights[0].tolist(), rel=1e-12)


def test_adams_takes_at_most_two_thirds_of_the_evaluations_of_dopri5_for_the_same_error():
    y = torch.tensor([[1.5, 3.0]], dtype=D)
    exact = dopri5(brusselator, y, 0.0, 5.0, rtol=1e-13, atol=1e-13, max_steps=10_000).state
    cost = {}
    for integrate in (dopri5, adams):
        found = [integrate(brusselator, y, 0.0, 5.0, rtol=tol, atol=tol) for tol in np.logspace(-3, -8, 11)]
        errors = [math.log((s.state - exact).norm().item()) for s in found]
        order = np.argsort(errors)
        numbers = np.log([s.num_evaluations.item() for s in found])
        cost[integrate] = np.interp(np.log([1e-5, 1e-4]), np.array(errors)[order], numbers[order])
    assert (cost[adams] < cost[dopri5] - math.log(1.5)).all()


def test_one_evaluation_a_step_and_the_slope_at_the_end_of_one_serves_the_next():
    times = []

    def f(t, y, index):
        times.append(t.item())
        return -y

    adams(f, torch.ones(1, 1, dtype=D), 0.0, 5.0, rtol=1e-4, atol=1e-4)
    assert len(times) == len(set(times)) and max(times) == 5.0


# Equal steps


def test_equal_steps_are_equal_and_cost_one_evaluation_each_and_one_more():
    times = []

    def f(t, y, index):
        times.append(t.tolist())
        return -y

    found = adams(f, torch.ones(2, 1, dtype=D), 1.0, 5.0, num_steps=8)
    np.testing.assert_allclose(times, np.linspace(1, 5, 9)[:, None].repeat(2, 1), rtol=1e-14)
    assert found.num_evaluations.tolist() == [9, 9]


def test_the_error_of_equal_steps_falls_with_the_third_power_that_the_start_leaves_them():
    y = torch.tensor([[1.5, 3.0]], dtype=D)
    exact = dopri5(brusselator, y, 0.0, 2.0, rtol=1e-13, atol=1e-13, max_steps=10_000).state
    steps = np.array([100, 200, 400])
    errors = [(adams(brusselator, y, 0.0, 2.0, num_steps=n).state - exact).norm().item() for n in steps]
    assert (-np.diff(np.log2(errors)) > 2.9).all() and errors[-1] < 1e-6


def test_equal_steps_notice_what_is_not_a_number():
    with pytest.raises(SolverError, match="not a number after num_steps=4 equal steps"):
        adams(lambda t, y, index: y / (t < 0.6)[:, None], torch.ones(1, 1, dtype=D), 0.0, 1.0, num_steps=4)


def test_there_must_be_a_step():
    with pytest.raises(ConfigurationError, match="num_steps=0"):
        adams(brusselator, torch.ones(1, 2, dtype=D), 0.0, 1.0, num_steps=0)
