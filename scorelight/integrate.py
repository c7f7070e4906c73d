"""An adaptive integrator of dy/dt = f(t, y) in which every example of a batch has its own steps.

Dormand & Prince (1980), RK5(4)7M: order 5, an error estimate of order 4, the last stage of a step being
the first of the next. Step sizes after Hairer, Nørsett & Wanner (1993), "Solving Ordinary Differential
Equations I", sec. II.4: with ratio r of the estimated error to the tolerance, a step is taken if r ≤ 1, and

    h ← 0.9 h r^−0.17 r_before^0.04                                     (PI controller, their DOPRI5)

An example's steps, error and result do not depend on its batch, and it leaves the batch when it arrives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scorelight.errors import ConfigurationError, SolverError

__all__ = ["Solution", "State", "dopri5"]

State = Any
"""A tensor of shape (B, ...), or a tuple of such."""
Field = Callable[[Tensor, State, Tensor], State]
"""dy/dt at times (n,), states (n, ...) and the places (n,) that these examples have in the batch."""

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


@dataclass(frozen=True, slots=True)
class Solution:
    """The state at the end, and the number of evaluations of f that each example took, shape (B,)."""

    state: State
    num_evaluations: Tensor


def dopri5(
    field: Field,
    state: State,
    start: float,
    end: float,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 1000,
) -> Solution:
    """Integrate from `start` to `end`, in either direction, on the device of the state.

    The error of a step is held to atol + rtol |y|, in the root mean square over an example's state; of a
    tuple, over each of its tensors. Arithmetic is done in the widest type of the state; t is in float64.

    Args:
        field: f(t, y, index) for the examples at the places `index` of the batch.
        state: y at `start`, a tensor of shape (B, ...) or a tuple of such.
        start: First t.
        end: Last t.
        rtol: Relative tolerance of a step.
        atol: Absolute tolerance of a step.
        max_steps: Steps tried for an example, six evaluations each.

    Raises:
        SolverError: If an example needs more steps, or no step is small enough (f is infinite or NaN).
    """
    _check_tolerances(rtol, atol)
    layout = _Layout.of(state)
    y = layout.pack(state)
    counts = torch.zeros(len(y), dtype=torch.long, device=y.device)
    if start == end or len(y) == 0:
        return Solution(state, counts)

    def f(t: Tensor, y: Tensor, index: Tensor) -> Tensor:
        return layout.pack(field(t, layout.unpack(y), index))

    def norm(value: Tensor, *sizes: Tensor) -> Tensor:
        with torch.no_grad():
            return layout.norm(value / (atol + rtol * torch.stack([s.abs() for s in sizes]).amax(0)))

    run, result = _depart(f, norm, y, start, end), y
    for step in range(1, max_steps + 1):
        run, arrived = _advance(f, norm, run, end)
        if arrived.any():
            at = run.place[arrived]
            result = result.index_copy(0, at, run.y[arrived])
            counts[at] = 2 + 6 * step
            run = run.rows(~arrived)
        if len(run.place) == 0:
            return Solution(layout.unpack(result), counts)
        _check_progress(run, abs(end - start))
    raise SolverError(
        f"dopri5: {len(run.place)} of {len(y)} examples are not at t={end:.6g} after max_steps={max_steps} "
        f"steps, the last of them at t={run.t[(end - run.t).abs().argmax()].item():.6g}; use larger "
        f"tolerances (rtol={rtol:.1g}, atol={atol:.1g}) or more steps"
    )


def _check_tolerances(rtol: float, atol: float) -> None:
    if not (rtol >= 0 and atol >= 0 and rtol + atol > 0):
        raise ConfigurationError(f"rtol={rtol}, atol={atol}: must not be negative, and one of them positive")


class _Layout(NamedTuple):
    """How a state is laid out as a matrix with one row per example."""

    shapes: list[torch.Size]
    dtypes: list[torch.dtype]
    single: bool

    @classmethod
    def of(cls, state: State) -> _Layout:
        parts = [state] if isinstance(state, Tensor) else state
        return cls([p.shape[1:] for p in parts], [p.dtype for p in parts], isinstance(state, Tensor))

    def pack(self, state: State) -> Tensor:
        parts = [state] if self.single else state
        rows = [p.reshape(len(p), s.numel()) for p, s in zip(parts, self.shapes, strict=True)]
        return torch.cat(rows, dim=1)

    def unpack(self, y: Tensor) -> State:
        columns = self._columns(y)
        parts = tuple(
            c.reshape(len(y), *shape).to(dtype)
            for c, shape, dtype in zip(columns, self.shapes, self.dtypes, strict=True)
        )
        return parts[0] if self.single else parts

    def _columns(self, y: Tensor) -> tuple[Tensor, ...]:
        return torch.split(y, [shape.numel() for shape in self.shapes], dim=1)

    def norm(self, y: Tensor) -> Tensor:
        """The largest of the parts' root mean squares, shape (B,), float64; infinite where not a number."""
        columns = self._columns(y)
        squares = torch.stack([c.double().square().mean(1) for c in columns])
        return squares.amax(0).sqrt().nan_to_num(torch.inf, torch.inf)


class _Run(NamedTuple):
    """The examples on their way, a row each: place in the batch, t, next step h, state, f, last ratio."""

    place: Tensor
    t: Tensor
    h: Tensor
    y: Tensor
    k: Tensor
    ratio: Tensor
    rejected: Tensor

    def rows(self, which: Tensor) -> _Run:
        return _Run(*(column[which] for column in self))


Rows = Callable[[Tensor, Tensor, Tensor], Tensor]
Norm = Callable[..., Tensor]


def _depart(f: Rows, norm: Norm, y: Tensor, start: float, end: float) -> _Run:
    """The first step: Hairer et al., sec. II.4, "Starting Step Size"; two evaluations."""
    index = torch.arange(len(y), device=y.device)
    t = torch.full((len(y),), start, dtype=torch.float64, device=y.device)
    span, sign = abs(end - start), 1.0 if end > start else -1.0
    k = f(t, y, index)
    d0, d1 = norm(y, y), norm(k, y)
    h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1).clamp(max=span)
    k1 = f(t + sign * h0, y + (sign * h0[:, None]).to(y.dtype) * k, index)
    d2 = norm(k1 - k, y) / h0
    largest = torch.maximum(d1, d2)
    h1 = torch.where(largest <= 1e-15, (1e-3 * h0).clamp(min=1e-6), (0.01 / largest) ** 0.2)
    h = sign * torch.minimum(100 * h0, h1).clamp(max=span)
    return _Run(index, t, h, y, k, torch.full_like(t, 1e-4), torch.zeros_like(index, dtype=torch.bool))


def _advance(f: Rows, norm: Norm, run: _Run, end: float) -> tuple[_Run, Tensor]:
    """Try a step of each example; also, which of them have arrived."""
    left = end - run.t
    last = run.h.abs() >= left.abs() * (1 - 1e-9)
    h = torch.where(last, left, run.h)
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
        torch.where(which, k, run.k),
        torch.where(taken, ratio.clamp(min=1e-4), run.ratio),
        ~taken,
    )
    return after, taken & last


def _step(f: Rows, run: _Run, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """State and f after the step h, shape (n,), and the estimated error; six evaluations."""
    width = h[:, None].to(run.y.dtype)
    slopes, y = [run.k], run.y
    for node, row in zip(_NODES, _STAGES, strict=True):
        y = run.y + width * _combine(row, slopes)
        slopes.append(f(run.t + node * h, y, run.place))
    return y, slopes[-1], width * _combine(_ERROR, slopes)


def _combine(row: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    weights = torch.tensor(row, dtype=slopes[0].dtype, device=slopes[0].device)
    return torch.tensordot(weights, torch.stack(slopes), dims=1)


def _check_progress(run: _Run, span: float) -> None:
    stuck = run.h.abs() < 1e-14 * span
    if stuck.any():
        raise SolverError(
            f"dopri5: no step is small enough at t={run.t[stuck][0].item():.6g}: the derivative is infinite "
            "or not a number there, or jumps"
        )
