"""Adaptive integrators of dy/dt = f(t, y) in which every example of a batch has its own steps.

`dopri5`: Dormand & Prince (1980), RK5(4)7M: order 5, an error estimate of order 4, the last stage of a step
being the first of the next; six evaluations a step. Step sizes after Hairer, Nørsett & Wanner (1993),
"Solving Ordinary Differential Equations I", sec. II.4: with ratio r of the estimated error to the tolerance,
a step is taken if r ≤ 1, and

    h ← 0.9 h r^−0.17 r_before^0.04                                     (PI controller, their DOPRI5)

`adams`: their sec. III.5, a multistep method with variable steps; one evaluation a step. The predictor
integrates the polynomial through the last k ≤ 4 slopes (Adams–Bashforth); with the slope at its end the
corrector integrates that through k + 1 (Adams–Moulton), and the next step goes on with that slope. The error
estimated is that of the corrector without its oldest point, and

    h ← 0.8 h r^(−1/(k + 1))

For a smooth solution it takes about half the evaluations of dopri5 for the same number of digits. With
`num_steps` it takes that many equal steps, whatever the error.

An example's steps, error and result do not depend on its batch, and it leaves the batch when it arrives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scorelight.errors import ConfigurationError, SolverError
from scorelight.quadrature import interpolatory_weights

__all__ = ["Solution", "State", "adams", "dopri5"]

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
    return _integrate(_DOPRI5, field, state, start, end, rtol, atol, max_steps)


def adams(
    field: Field,
    state: State,
    start: float,
    end: float,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 6000,
    num_steps: int | None = None,
) -> Solution:
    """Integrate from `start` to `end` as `dopri5` does, with one evaluation a step.

    Args:
        field: f(t, y, index) for the examples at the places `index` of the batch.
        state: y at `start`, a tensor of shape (B, ...) or a tuple of such.
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
        return _integrate(_ADAMS, field, state, start, end, rtol, atol, max_steps)
    if num_steps < 1:
        raise ConfigurationError(f"num_steps={num_steps}: must be at least 1")
    return _equal_steps(field, state, start, end, num_steps)


def _integrate(
    method: _Method,
    field: Field,
    state: State,
    start: float,
    end: float,
    rtol: float,
    atol: float,
    max_steps: int,
) -> Solution:
    """Let each example go its own way until all have arrived."""
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

    run, result = method.depart(f, norm, y, start, end), y
    for step in range(1, max_steps + 1):
        run, arrived = method.advance(f, norm, run, end)
        if arrived.any():
            at = run.place[arrived]
            result = result.index_copy(0, at, run.y[arrived])
            counts[at] = method.first_evaluations + method.evaluations * step
            run = _rows(run, ~arrived)
        if len(run.place) == 0:
            return Solution(layout.unpack(result), counts)
        _check_progress(method, run, abs(end - start))
    raise SolverError(
        f"{method.name}: {len(run.place)} of {len(y)} examples are not at t={end:.6g} after "
        f"max_steps={max_steps} steps, the last of them at "
        f"t={run.t[(end - run.t).abs().argmax()].item():.6g}; use larger tolerances (rtol={rtol:.1g}, "
        f"atol={atol:.1g}) or more steps"
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


Rows = Callable[[Tensor, Tensor, Tensor], Tensor]
Norm = Callable[..., Tensor]


class _Method(NamedTuple):
    """An integrator: how examples set out, how each tries a step, and the evaluations of both."""

    name: str
    depart: Callable[[Rows, Norm, Tensor, float, float], Any]
    advance: Callable[[Rows, Norm, Any, float], tuple[Any, Tensor]]
    first_evaluations: int
    evaluations: int


def _rows(run: Any, which: Tensor) -> Any:
    """Some of the examples on their way."""
    return type(run)(*(column[which] for column in run))


def _at(start: float, y: Tensor) -> tuple[Tensor, Tensor]:
    """Place in the batch and t of each example, before the first step."""
    t = torch.full((len(y),), start, dtype=torch.float64, device=y.device)
    return torch.arange(len(y), device=y.device), t


def _next_step(run: Any, end: float) -> tuple[Tensor, Tensor]:
    """The step h that each example tries, and whether it would be its last."""
    left = end - run.t
    last = run.h.abs() >= left.abs() * (1 - 1e-9)
    return torch.where(last, left, run.h), last


def _depart(f: Rows, norm: Norm, y: Tensor, start: float, end: float) -> _Run:
    """The first step: Hairer et al., sec. II.4, "Starting Step Size"; two evaluations."""
    index, t = _at(start, y)
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
    h, last = _next_step(run, end)
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


_DOPRI5 = _Method("dopri5", _depart, _advance, first_evaluations=2, evaluations=6)

_POINTS = 4


class _AdamsRun(NamedTuple):
    """The examples on their way: as `_Run`, with the last slopes, newest first, and how many are known."""

    place: Tensor
    t: Tensor
    h: Tensor
    y: Tensor
    times: Tensor
    slopes: Tensor
    known: Tensor
    rejected: Tensor


def _depart_adams(f: Rows, norm: Norm, y: Tensor, start: float, end: float) -> _AdamsRun:
    """The first slope."""
    index, t = _at(start, y)
    times = t[:, None].repeat(1, _POINTS)
    slopes = f(t, y, index)[:, None].repeat(1, _POINTS, 1)
    h = torch.full_like(t, (end - start) / 50)
    return _AdamsRun(
        index, t, h, y, times, slopes, torch.ones_like(index), torch.zeros_like(index, dtype=torch.bool)
    )


def _advance_adams(f: Rows, norm: Norm, run: _AdamsRun, end: float) -> tuple[_AdamsRun, Tensor]:
    """Try a step of each example; also, which of them have arrived."""
    h, last = _next_step(run, end)
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
    after = _AdamsRun(
        run.place,
        torch.where(taken, run.t + h, run.t),
        h * growth,
        torch.where(taken[:, None], y, run.y),
        torch.where(taken[:, None], times[:, :-1], run.times),
        torch.where(taken[:, None, None], slopes[:, :-1], run.slopes),
        torch.where(taken, (run.known + 1).clamp(max=_POINTS), run.known),
        ~taken,
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


_ADAMS = _Method("adams", _depart_adams, _advance_adams, first_evaluations=1, evaluations=1)


def _equal_steps(field: Field, state: State, start: float, end: float, num_steps: int) -> Solution:
    """`adams` in steps of one size for all examples."""
    layout = _Layout.of(state)
    y = layout.pack(state)
    index = torch.arange(len(y), device=y.device)

    def f(n: int, y: Tensor) -> Tensor:
        t = torch.full((len(y),), start + n * h, dtype=torch.float64, device=y.device)
        return layout.pack(field(t, layout.unpack(y), index))

    h = (end - start) / num_steps
    slopes = [f(0, y)]
    for n in range(1, num_steps + 1):
        predicted = y + h * _combine(_equal_weights(0, len(slopes)), slopes)
        slopes.insert(0, f(n, predicted))
        y = y + h * _combine(_equal_weights(1, len(slopes)), slopes)
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


def _check_progress(method: _Method, run: Any, span: float) -> None:
    stuck = run.h.abs() < 1e-14 * span
    if stuck.any():
        raise SolverError(
            f"{method.name}: no step is small enough at t={run.t[stuck][0].item():.6g}: the derivative is "
            "infinite or not a number there, or jumps"
        )
