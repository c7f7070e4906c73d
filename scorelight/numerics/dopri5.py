"""Dormand & Prince (1980), RK5(4)7M, with a step size for each example.

Order 5, an error estimate of order 4, the last stage of a step being the first of the next; six evaluations
per step. Step sizes follow Hairer, Nørsett & Wanner (1993), "Solving Ordinary Differential Equations I",
sec. II.4: with r the ratio of the estimated error to the tolerance, a step is accepted if r ≤ 1, and

    h ← 0.9 h r^−0.17 r_before^0.04                                     (PI controller, their DOPRI5)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scorelight.numerics.adaptive import (
    Field,
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

__all__ = ["dopri5"]

_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def dopri5(
    field: Field[State],
    state: State,
    start: float,
    end: float,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 1000,
) -> Solution[State]:
    """Integrate from `start` to `end`, in either direction, on the device of the state.

    The error of a step is at most atol + rtol |y|, in the root mean square over an example's state; for a
    tuple, over each of its tensors. Arithmetic uses the widest type of the state, and float64 for t.

    Args:
        field: f(t, y, index) for the examples at the positions `index` of the batch.
        state: y at `start`, a tensor of shape (B, ...) or a tuple of such tensors.
        start: First t.
        end: Last t.
        rtol: Relative tolerance of a step.
        atol: Absolute tolerance of a step.
        max_steps: Steps tried for an example, six evaluations each.

    Raises:
        SolverError: If an example needs more steps, or no step is small enough (f is infinite or NaN).
    """
    return integrate(_DOPRI5, field, state, start, end, rtol, atol, max_steps)


@dataclass(slots=True)
class _Run(Run):
    k: Tensor
    """f at (t, y)."""
    ratio: Tensor
    """Error over tolerance of the last accepted step."""


def _start(f: Rows, norm: Norm, y: Tensor, start: float, end: float) -> _Run:
    """The first step: Hairer et al., sec. II.4, "Starting Step Size"; two evaluations."""
    index, t = first_times(start, y)
    span, sign = abs(end - start), 1.0 if end > start else -1.0
    k = f(t, y, index)
    d0, d1 = norm(y, y), norm(k, y)
    h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1).clamp(max=span)
    k1 = f(t + sign * h0, y + (sign * h0[:, None]).to(y.dtype) * k, index)
    d2 = norm(k1 - k, y) / h0
    largest = torch.maximum(d1, d2)
    h1 = torch.where(largest <= 1e-15, (1e-3 * h0).clamp(min=1e-6), (0.01 / largest) ** 0.2)
    h = sign * torch.minimum(100 * h0, h1).clamp(max=span)
    return _Run(index, t, h, y, torch.zeros_like(index, dtype=torch.bool), k, torch.full_like(t, 1e-4))


def _advance(f: Rows, norm: Norm, run: _Run, end: float) -> tuple[_Run, Tensor]:
    """Try a step of each example."""
    h, last = next_step(run, end)
    y, k, error = _step(f, run, h)
    ratio = norm(error, run.y, y)
    taken = ratio <= 1
    growth = 0.9 * ratio.clamp(min=1e-10) ** -0.17 * torch.where(taken, run.ratio, 1.0) ** 0.04
    growth = torch.where(taken & ~run.rejected, growth.clamp(0.2, 10.0), growth.clamp(0.2, 1.0))
    which = taken[:, None]
    after = _Run(
        run.place,
        torch.where(taken, run.t + h, run.t),
        h * growth,
        torch.where(which, y, run.y),
        ~taken,
        torch.where(which, k, run.k),
        torch.where(taken, ratio.clamp(min=1e-4), run.ratio),
    )
    return after, taken & last


def _step(f: Rows, run: _Run, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """State and f after the step h, shape (n,), and the estimated error; six evaluations."""
    width = h[:, None].to(run.y.dtype)
    slopes, y = [run.k], run.y
    for node, row in zip(_NODES, _STAGES, strict=True):
        y = run.y + width * combine(row, slopes)
        slopes.append(f(run.t + node * h, y, run.place))
    return y, slopes[-1], width * combine(_ERROR, slopes)


_DOPRI5 = Method("dopri5", _start, _advance, first_evaluations=2, evaluations=6)
