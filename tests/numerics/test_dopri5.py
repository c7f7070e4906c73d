"""Dormand & Prince's method against SciPy's and against exact solutions."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import RK45 as SciPyRK45
from scipy.integrate import solve_ivp
from support.odes import brusselator

from scorelight.numerics.dopri5 import _start, _step, dopri5

D = torch.float64


def one_step(y, t, h):
    """The step of size h from (t, y) of the logistic equation with a time-dependent rate, by `_step`."""
    f = lambda t, y, index: (1 + t)[:, None] * y * (1 - y)  # noqa: E731
    run = _start(f, lambda value, *sizes: torch.ones(len(value), dtype=D), y, t, t + 1)
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
    run = _start(brusselator, norm, y, t, 5.0)
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


@pytest.mark.one_in(3)
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


def test_the_first_stage_of_a_step_is_the_last_of_the_one_before():
    times = []

    def f(t, y, index):
        times.append(t.item())
        return -y

    solution = dopri5(f, torch.ones(1, 1, dtype=D), 0.0, 5.0)
    assert solution.num_evaluations.item() == len(times) and len(times) % 6 == 2


def test_a_constant_needs_one_evaluation_of_a_zero_derivative_and_few_steps():
    solution = dopri5(lambda t, y, index: torch.zeros_like(y), torch.zeros(2, 3, dtype=D), 0.0, 1.0)
    assert not solution.state.any() and solution.num_evaluations.max() < 70
