"""What both adaptive integrators do: the tolerance, and each example by itself."""

import math

import pytest
import torch
from support.marks import slow_but
from support.odes import RATES, brusselator, decay

from scorelight import ConfigurationError, SolverError
from scorelight.numerics.adams import adams
from scorelight.numerics.adaptive import Layout
from scorelight.numerics.dopri5 import dopri5

D = torch.float64
both = pytest.mark.parametrize("integrate", [dopri5, adams], ids=["dopri5", "adams"])
both_slowly = pytest.mark.parametrize("integrate", slow_but([dopri5, adams], dopri5))


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


@both
def test_too_few_steps_are_said_with_the_remedy(integrate):
    with pytest.raises(SolverError, match=r"of 2 examples are not at t=3 after max_steps=20 .*rtol=1e-05"):
        integrate(lambda t, y, i: decay(t, y, 3 * i), torch.ones(2, 1, dtype=D), 0.0, 3.0, max_steps=20)


@both
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_derivative_that_is_not_finite_is_an_error_soon(integrate, value):
    f = lambda t, y, index: torch.where(t[:, None] > 0.5, value, -y)  # noqa: E731
    with pytest.raises(SolverError, match=r"no step is small enough for .*, the first at t=0\.(49|5)"):
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
