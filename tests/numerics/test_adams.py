"""Adams methods with the coefficients of the books, and against a Runge-Kutta method."""

import math

import numpy as np
import pytest
import torch
from support.odes import brusselator

from scorelight import ConfigurationError, SolverError
from scorelight.numerics.adams import _equal_weights, _polynomial_weights, adams
from scorelight.numerics.dopri5 import dopri5

D = torch.float64


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


@pytest.mark.slow
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
