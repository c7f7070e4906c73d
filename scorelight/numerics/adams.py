"""Adams methods with a step size for each example, or with equal steps.

Hairer, Nørsett & Wanner (1993), "Solving Ordinary Differential Equations I", sec. III.5: a multistep method
with variable steps and one evaluation per step. The predictor integrates the polynomial through the last
k ≤ 4 slopes (Adams–Bashforth); with the slope at its end the corrector integrates that through k + 1
(Adams–Moulton), and the next step starts from that slope. The error is estimated by the corrector without its
oldest point, and

    h ← 0.8 h r^(−1/(k + 1))

For a smooth solution it takes about half the evaluations of `dopri5` for the same number of digits. With
`num_steps` it takes that many equal steps, whatever the error.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from scorelight.errors import ConfigurationError, SolverError
from scorelight.numerics.adaptive import (
    Field,
    Layout,
    Method,
    Norm,
    Rows,
    Run,
    Solution,
    State,
    combine,
    first_times,
    integrate,
    next_step,
)
from scorelight.numerics.quadrature import interpolatory_weights

__all__ = ["adams"]

_POINTS = 4


def adams(
    field: Field[State],
    state: State,
    start: float,
    end: float,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 6000,
    num_steps: int | None = None,
) -> Solution[State]:
    """Integrate from `start` to `end` as `dopri5` does, with one evaluation a step.

    Args:
        field: f(t, y, index) for the examples at the positions `index` of the batch.
        state: y at `start`, a tensor of shape (B, ...) or a tuple of such tensors.
        start: First t.
        end: Last t. The first step tried is a fiftieth of the way.
        rtol: Relative tolerance of a step.
        atol: Absolute tolerance of a step.
        max_steps: Steps tried for an example, an evaluation each.
        num_steps: Equal steps, instead of steps of a size that keeps the tolerances.

    Raises:
        SolverError: If an example needs more steps, or no step is small enough (f is infinite or NaN).
            With `num_steps`, if the state at the end is infinite or not a number.
    """
    if num_steps is None:
        return integrate(_ADAMS, field, state, start, end, rtol, atol, max_steps)
    if num_steps < 1:
        raise ConfigurationError(f"num_steps={num_steps}: must be at least 1")
    return _equal_steps(field, state, start, end, num_steps)


@dataclass(slots=True)
class _Run(Run):
    times: Tensor
    """Times of the last slopes, newest first, shape (n, 4)."""
    slopes: Tensor
    """f at these times, shape (n, 4, D)."""
    known: Tensor
    """How many of them have been computed."""


def _start(f: Rows, norm: Norm, y: Tensor, start: float, end: float) -> _Run:
    """Compute the first slope."""
    index, t = first_times(start, y)
    times = t[:, None].repeat(1, _POINTS)
    slopes = f(t, y, index)[:, None].repeat(1, _POINTS, 1)
    h = torch.full_like(t, (end - start) / 50)
    rejected = torch.zeros_like(index, dtype=torch.bool)
    return _Run(index, t, h, y, rejected, times, slopes, torch.ones_like(index))


def _advance(f: Rows, norm: Norm, run: _Run, end: float) -> tuple[_Run, Tensor]:
    """Try a step of each example."""
    h, last = next_step(run, end)
    places = (run.times - run.t[:, None]) / h[:, None]
    predicted = run.y + _polynomial_step(h, places, run.slopes, run.known)
    times = torch.cat([(run.t + h)[:, None], run.times], dim=1)
    slopes = torch.cat([f(run.t + h, predicted, run.place)[:, None], run.slopes], dim=1)
    places = torch.cat([torch.ones_like(h)[:, None], places], dim=1)
    y = run.y + _polynomial_step(h, places, slopes, run.known + 1)
    ratio = norm(y - run.y - _polynomial_step(h, places, slopes, run.known), run.y, y)
    taken = ratio <= 1
    growth = 0.8 * ratio.clamp(min=1e-10) ** (-1 / (run.known + 1))
    growth = torch.where(taken & ~run.rejected, growth.clamp(0.2, 2.0), growth.clamp(0.2, 1.0))
    growth = torch.where(taken, growth, growth.clamp(max=0.8))
    after = _Run(
        run.place,
        torch.where(taken, run.t + h, run.t),
        h * growth,
        torch.where(taken[:, None], y, run.y),
        ~taken,
        torch.where(taken[:, None], times[:, :-1], run.times),
        torch.where(taken[:, None, None], slopes[:, :-1], run.slopes),
        torch.where(taken, (run.known + 1).clamp(max=_POINTS), run.known),
    )
    return after, taken & last


def _polynomial_step(h: Tensor, places: Tensor, slopes: Tensor, numbers: Tensor) -> Tensor:
    """Integral over the step of the polynomial through the first slopes, as many as each example's number."""
    weights = torch.zeros_like(places)
    for n in torch.unique(numbers).tolist():
        which = numbers == n
        weights[which, :n] = _polynomial_weights(places[which, :n])
    return torch.einsum("bk,bkd->bd", (h[:, None] * weights).to(slopes.dtype), slopes)


def _polynomial_weights(places: Tensor) -> Tensor:
    """∫₀¹ ℓ_j(r) dr of the Lagrange polynomials of n places per example, both of shape (B, n)."""
    r = places.unbind(1)
    moments = [torch.full_like(r[0], 1 / (k + 1)) for k in range(len(r))]
    return torch.stack(interpolatory_weights(r, moments), dim=1)


_ADAMS = Method("adams", _start, _advance, first_evaluations=1, evaluations=1)


def _equal_steps(
    field: Field[State], state: State, start: float, end: float, num_steps: int
) -> Solution[State]:
    """`adams` in steps of one size for all examples."""
    layout = Layout.of(state)
    y = layout.pack(state)
    rows, (index, _), h = layout.rows(field), first_times(start, y), (end - start) / num_steps

    def f(n: int, y: Tensor) -> Tensor:
        t = torch.full((len(y),), start + n * h, dtype=torch.float64, device=y.device)
        return rows(t, y, index)

    slopes = [f(0, y)]
    for n in range(1, num_steps + 1):
        predicted = y + h * combine(_equal_weights(0, len(slopes)), slopes)
        slopes.insert(0, f(n, predicted))
        y = y + h * combine(_equal_weights(1, len(slopes)), slopes)
        del slopes[_POINTS:]
    if not y.isfinite().all():
        raise SolverError(
            f"adams: the state at t={end:.6g} is infinite or not a number after num_steps={num_steps} equal "
            "steps: so is the derivative on the way, or the steps are too large"
        )
    return Solution(layout.unpack(y), torch.full_like(index, num_steps + 1))


@cache
def _equal_weights(first: int, number: int) -> tuple[float, ...]:
    """Weights of the slopes at the places first, first − 1, ... in a step from 0 to 1."""
    places = [float(first - j) for j in range(number)]
    return tuple(interpolatory_weights(places, [1 / (k + 1) for k in range(number)]))
